"""Whatever bytes a clip or a shard holds: a named reason or a clip, within bounds, and the same one each time.

CMD_FUZZ_EXAMPLES=100000 CMD_FUZZ_RESULT=fuzz.json pytest -m slow tests/data/test_fuzz.py
"""

import hashlib
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import fuzz_inputs
import fuzz_targets
import pytest
from fuzz_targets import Subject
from hypothesis import HealthCheck, Phase, configuration, given, seed, settings

SEEDS = sorted(Path(__file__).with_name("fuzz_seeds").iterdir())
INPUTS = {
    fuzz_targets.clip: fuzz_inputs.clip_inputs(),
    fuzz_targets.facts: fuzz_inputs.fact_inputs(),
    fuzz_targets.shard: fuzz_inputs.shard_inputs(),
    fuzz_targets.latents: fuzz_inputs.latent_inputs(),
}
SHARES = {fuzz_targets.clip: 0.4, fuzz_targets.facts: 0.1, fuzz_targets.shard: 0.4, fuzz_targets.latents: 0.1}
BATCH = 1000
KEPT = 10
"""Slowest inputs of a target that the long run keeps."""


@pytest.fixture(scope="module")
def subject():
    subject = Subject()
    yield subject
    subject.close()


@pytest.fixture(scope="module", autouse=True)
def nothing_kept(tmp_path_factory):
    """hypothesis writes tables of characters next to the tests."""
    configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


def explore(check, inputs, examples, **options):
    """Calls `check` with so many inputs."""
    options = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)} | options
    settings(max_examples=examples, **options)(given(inputs)(check))()


@pytest.mark.parametrize("target", INPUTS, ids=lambda target: target.__name__)
def test_odd_inputs(subject, target, tmp_path):
    def check(data):
        failure = subject.try_(target, data).failure
        assert not failure, f"{keep(tmp_path, target, data)}: {failure}"

    explore(check, INPUTS[target], 200, derandomize=True)


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_inputs_that_once_failed(subject, path):
    tried = subject.try_(getattr(fuzz_targets, path.stem.partition("-")[0]), path.read_bytes())
    assert not tried.failure


def test_valid_inputs_are_fine(subject):
    for data in fuzz_inputs.clips():
        assert subject.try_(fuzz_targets.clip, data).outcome == "fine"
    for data in fuzz_inputs.shards()[:1]:
        assert subject.try_(fuzz_targets.shard, data).outcome == "fine"
    for data in fuzz_inputs.latents():
        assert subject.try_(fuzz_targets.latents, data).outcome == "fine"


@pytest.mark.slow
def test_many_odd_inputs(subject, tmp_path):
    """In batches, since hypothesis remembers its examples; the report is written after each."""
    total = int(os.environ.get("CMD_FUZZ_EXAMPLES", 3000))
    report = Path(os.environ.get("CMD_FUZZ_RESULT", tmp_path / "fuzz.json")).resolve()
    folder = report.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    runs = {target: Run(target, folder) for target in INPUTS}
    number = 0
    while left := [target for target, run in runs.items() if sum(run.outcomes.values()) < SHARES[target] * total]:
        for target in left:
            size = min(BATCH, round(SHARES[target] * total))
            number += 1
            explore(seed(number)(runs[target].trying(subject)), INPUTS[target], size, phases=[Phase.generate])
        report.write_text(json.dumps({target.__name__: run.report() for target, run in runs.items()}, indent=1) + "\n")
    assert not any(run.failures for run in runs.values()), f"see {report} and the inputs in {folder}"
    for target, run in runs.items():
        begin, end = run.resident[len(run.resident) // 3], run.resident[-1]  # FFmpeg's heap takes a while to fill
        assert end < 1.1 * begin, f"{target.__name__}: {begin >> 20} MiB were resident, then {end >> 20}"


class Run:
    """What a long run finds out about one target."""

    def __init__(self, target, folder):
        self.target, self.folder = target, folder
        self.outcomes, self.failures, self.slow, self.resident = Counter(), {}, {}, []
        self.most = 0

    def trying(self, subject):
        """A check that never fails, but keeps what fails; resident memory is noted once a batch."""
        self.resident.append(subject.try_(self.target, b"").resident)

        def check(data):
            tried = subject.try_(self.target, data)
            self.outcomes[tried.outcome if tried.outcome.startswith(("fine", "bad")) else "broken"] += 1
            self.most = max(self.most, tried.grown)
            if len(self.slow) < KEPT or tried.seconds > min(self.slow.values()):
                self.slow[keep(self.folder, self.target, data)] = tried.seconds
                self.slow = dict(sorted(self.slow.items(), key=lambda item: -item[1])[:KEPT])
            if tried.failure:
                of_its_kind = self.failures.setdefault(tried.failure[:80], [0, len(data) + 1, ""])
                of_its_kind[0] += 1
                if len(data) < of_its_kind[1]:
                    of_its_kind[1:] = len(data), keep(self.folder, self.target, data)

        return check

    def report(self):
        return {
            "examples": sum(self.outcomes.values()),
            "outcomes": dict(self.outcomes.most_common()),
            "failures: count, bytes of the shortest, its file": self.failures,
            "slowest: file, seconds of the processor": self.slow,
            "most memory for one input, MiB": self.most >> 20,
            "resident MiB before each batch": [size >> 20 for size in self.resident],
        }


def keep(folder, target, data):
    """Writes an input where `test_inputs_that_once_failed` could take it from."""
    path = folder / f"{target.__name__}-{hashlib.sha256(data).hexdigest()[:12]}.bin"
    path.write_bytes(data)
    return str(path)


def crash(data):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(data):
    time.sleep(60)


def spin(data):
    while True:
        pass


def fill(data):
    bytearray(b"x") * (600 << 20)
    return "fine"


def raise_(data):
    return data[0]


FAULTS = {
    raise_: "IndexError at test_fuzz.py",
    fill: "MiB of memory",
    crash: "ended with SIGSEGV",
    spin: "ended with SIGPROF",
    hang: "no answer",
}


@pytest.mark.parametrize("target", FAULTS, ids=lambda target: target.__name__)
def test_what_must_not_happen_is_noticed(subject, target):
    limits = {spin: {"timeout": 0.1}, hang: {"wait": 1}}
    assert FAULTS[target] in subject.try_(target, b"", **limits.get(target, {})).failure
