"""What is fuzzed and what must hold, tried in a separate process: FFmpeg can crash or hang; memory is measured."""

import ctypes
import json
import math
import multiprocessing
import os
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

TIMEOUT = 60.0
"""CPU seconds that one input may take."""
PATIENCE = 10 * TIMEOUT
"""Seconds to wait for an answer: other programs may need the processor."""
MOST_MEMORY = 500 * 2**20
"""Bytes that one input may cost at its peak."""
ADDRESS_SPACE = 4 * 2**30
"""Bytes that the process may ask for beyond what it has, so that a mistake does not take the machine with it."""


class Tried(NamedTuple):
    """How one input went.

    Attributes:
        outcome: "fine", "bad: ..." with a reason that the reader may give, or "broken: ..." with what must not happen.
        seconds: of the processor, several readings together; of real time if there was no answer.
        grown: bytes between what was resident before and the peak.
        resident: bytes afterwards.
    """

    outcome: str
    seconds: float
    grown: int
    resident: int

    @property
    def failure(self) -> str:
        """What is wrong; "" if nothing."""
        if self.outcome.startswith("broken"):
            return self.outcome
        return f"broken: {self.grown >> 20} MiB of memory" if self.grown > MOST_MEMORY else ""


def clip(data: bytes) -> str:
    """Decodes a clip by rate and by stride, each twice, and as a check of the shard would."""
    from cmd_lightning.data.clips import ClipLoader
    from cmd_lightning.errors import InputError
    from cmd_lightning.video_io import VideoReader

    sample = {"__key__": "a", "mp4": data}
    by_rate = ClipLoader(4, (16, 24), fps=5.0, random_start=True, random_crop=True)
    outcomes = [_loaded_twice(loader, sample) for loader in (by_rate, ClipLoader(3, (16, 24), stride=3))]
    with suppress(InputError):
        VideoReader(data).verify()
    return min(outcomes, key=lambda outcome: outcome != "fine")


def facts(data: bytes) -> str:
    """Reads caption and label of a good clip from a text and a .json that hold the same."""
    from cmd_lightning.data.clips import ClipLoader

    loader = ClipLoader(2, (16, 24), stride=1)
    good = _good_clip()
    outcomes = [
        _loaded_twice(loader, {"__key__": "a", "mp4": good, **more}) for more in ({"json": data}, {"txt": data})
    ]
    assert outcomes[1] == "fine", "a text makes no sample bad"
    return outcomes[0]


def shard(data: bytes) -> str:
    """Reads a shard twice."""
    from cmd_lightning.data.tar import read_samples

    with tempfile.TemporaryFile() as file:
        file.write(data)
        readings = []
        for _ in range(2):
            file.seek(0)
            readings.append([(sample, _members(sample)) for sample in read_samples(file)])
    one, two = readings
    assert one == two, "two readings differ"
    keys = [sample.key for sample, _ in one]
    assert len(set(keys)) == len(keys), "a key comes twice"
    assert all(key.isprintable() for key in keys), "a key cannot be printed"
    json.dumps(keys).encode()
    assert sum(len(member) for _, found in one if isinstance(found, dict) for member in found.values()) <= 64 * len(
        data
    )
    reasons = [found for _, found in one if isinstance(found, str)]
    return f"bad: {reasons[-1]}" if reasons else "fine"


def latents(data: bytes) -> str:
    """Reads the latents of a sample in two epochs, each twice."""
    from cmd_lightning.data.clips import BadSample
    from cmd_lightning.data.latent_clips import load_latents

    facts = {"fps": 8, "made_by": {"latent_space": "a", "autoencoder": None}}
    sample = {"__key__": "a", "safetensors": data, "json": json.dumps(facts).encode()}
    outcomes = []
    for epoch in (0, 0, 1, 1):
        try:
            clip = load_latents(sample, 7, epoch)
        except BadSample as reason:
            assert 0 < len(str(reason)) < 40, f"the reason is no short word: {reason}"
            outcomes.append(f"bad: {reason}")
            continue
        tensors = {name: clip[name] for name in ("moments", "content", "motion") if name in clip}
        assert tensors
        assert all(tensor.isfinite().all() and tensor.numel() for tensor in tensors.values())
        assert sum(tensor.numel() for tensor in tensors.values()) <= len(data)
        outcomes.append({name: tensor.float().numpy().tobytes() for name, tensor in tensors.items()})
    assert outcomes[0] == outcomes[1]
    assert outcomes[2] == outcomes[3]
    return outcomes[0] if isinstance(outcomes[0], str) else "fine"


def _good_clip() -> bytes:
    import fuzz_inputs

    return fuzz_inputs.clip("h264.mp4")


def _members(sample) -> dict[str, bytes] | str:
    from cmd_lightning.data.clips import BadSample

    try:
        found = sample.read()
    except BadSample as reason:
        return str(reason)
    assert found.pop("__key__") == sample.key
    assert {suffix: len(member) for suffix, member in found.items()} == {
        suffix: member.size for suffix, member in sample.members.items()
    }
    return found


def _loaded_twice(loader, sample: dict) -> str:
    from cmd_lightning.data.clips import BadSample

    results = []
    for _ in range(2):
        try:
            results.append(loader(sample, 7))
        except BadSample as reason:
            assert 0 < len(str(reason)) < 40, f"the reason is no short word: {reason}"
            results.append(f"bad: {reason}")
    one, two = results
    if isinstance(one, str) or isinstance(two, str):
        assert one is two or one == two, f"two decodings differ: {one if isinstance(one, str) else two} and a clip"
        return one
    assert one["video"].shape == (3, loader.num_frames, *loader.size)
    assert one["video"].dtype == torch.uint8
    assert math.isfinite(one["fps"]) and one["fps"] > 0, f"fps {one['fps']}"
    assert -1 <= one["label"] < 2**63
    one["caption"].encode()
    assert torch.equal(one.pop("video"), two.pop("video")), "two decodings differ in their frames"
    assert one == two, f"two decodings differ: {one} and {two}"
    return "fine"


class Subject:
    """Tries inputs in a child process, and starts another when one has ended or hangs."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._process = None
        self._pipe: Connection | None = None

    def try_(
        self, target: Callable[[bytes], str], data: bytes, timeout: float = TIMEOUT, wait: float = PATIENCE
    ) -> Tried:
        """Tries one input, within `timeout` CPU seconds and `wait` real ones.

        `target` gives the outcome, or raises what must not happen.
        """
        if self._process is None:
            self._pipe, end = self._context.Pipe()
            self._process = self._context.Process(target=_serve, args=(end,), daemon=True)
            self._process.start()
            end.close()
            assert self._pipe.poll(PATIENCE), "the process does not get ready: a valid input hangs"
            self._pipe.recv()
        begin = time.monotonic()
        try:
            self._pipe.send((target, data, timeout))
            if self._pipe.poll(wait):
                return self._pipe.recv()
            outcome = f"broken: no answer after {wait:g} s"
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            outcome = f"broken: the process ended with {signal.Signals(-code).name if code < 0 else code}"
        self.close()
        return Tried(outcome, time.monotonic() - begin, 0, 0)

    def close(self) -> None:
        """Ends the process."""
        if self._process:
            self._process.kill()
            self._process.join()
            self._process = None


def _serve(pipe: Connection) -> None:
    import av

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)
    av.logging.set_level(None)  # FFmpeg prints some of its complaints itself
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    warnings.simplefilter("ignore")
    for target in (clip, facts, shard, latents):  # imports and first allocations are not the first input's
        with suppress(Exception):
            target(_good_clip())
    limit = _status("VmSize") + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send("ready")
    while True:
        try:
            target, data, timeout = pipe.recv()
        except EOFError:
            return
        with suppress(OSError):  # the peak counts from here on
            Path("/proc/self/clear_refs").write_text("5")
        before, begin = _status("VmRSS"), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, timeout)  # SIGPROF ends the process
        try:
            outcome = target(data)
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcome = f"broken: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error}"[:500]
        signal.setitimer(signal.ITIMER_PROF, 0)
        seconds, peak = time.process_time() - begin, _status("VmHWM")
        if not data:  # what the allocator keeps for later is no leak; large frames leave it much
            ctypes.CDLL(None).malloc_trim(0)
        pipe.send(Tried(outcome, seconds, peak - before, _status("VmRSS")))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name + ":")))
