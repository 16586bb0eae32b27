"""A whole ranking: kept results of seeds, and the command."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import cmd_lightning
import cmd_lightning.ranking.rank as ranking
from cmd_lightning.cli import main
from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, LatentSpec
from cmd_lightning.ranking import cost, leaderboard, protocol
from cmd_lightning.ranking.candidate import Candidate, candidate
from cmd_lightning.ranking.rank import rank
from cmd_lightning.threads import one_thread
from cmd_lightning.zoo import discovery
from cmd_lightning.zoo.motion.cached import CachedDiT


@pytest.fixture
def prepared(bench, monkeypatch):
    """The clips of the small protocol, whatever the folder, in this process; and a counter of trainings."""
    monkeypatch.setattr(ranking, "cores", lambda: 1)
    trained = []
    train = ranking.train
    monkeypatch.setattr(cost, "ROUNDS", 1)
    monkeypatch.setattr(ranking, "open_bench", lambda *given: bench)
    monkeypatch.setattr(ranking, "train", lambda *given: trained.append(given[3]) or train(*given))
    return trained


def test_what_a_cut_call_has_done_is_kept(prepared, small, shallow, tmp_path):
    message = []
    model = Candidate("Shallow", shallow)
    first = rank(model, small, 1, tmp_path, message.append)
    again = rank(model, small, 2, tmp_path, message.append)
    assert prepared == [0, 1]
    assert again["seeds"][0] == first["seeds"][0]
    assert [row["seed"] for row in again["seeds"]] == [0, 1]
    assert any("seed 0" in line and "kept in" in line for line in message)
    assert again["key"] == first["key"]

    other = rank(Candidate("Shallow", shallow, {"width": 3}), small, 1, tmp_path, message.append)
    longer = rank(model, replace(small, samples=128), 1, tmp_path, message.append)
    assert prepared == [0, 1, 0, 0]
    assert other["key"] == first["key"]
    assert longer["key"] != first["key"]


@pytest.mark.slow
def test_seeds_in_processes_give_what_they_give_in_one(bench, small, tmp_path, monkeypatch):
    """On one thread each, to the last bit; also on a bench that is open and that other seeds were scored with."""
    monkeypatch.setattr(cost, "ROUNDS", 1)
    monkeypatch.setattr(ranking, "cores", lambda: 2)
    model, message = candidate("MotionMixer"), []
    found = rank(model, small, 2, tmp_path, print)["seeds"]
    alone = model, small, tmp_path / "cache", tmp_path / "alone", message.append
    rows = [ranking.one_seed(*alone, seed) for seed in range(2)]
    with one_thread():
        opened = ranking.open_bench(small, tmp_path / "cache", message.append)
    monkeypatch.setattr(ranking, "cores", lambda: 1)
    monkeypatch.setattr(ranking, "open_bench", None)
    rows += ranking.all_seeds(model, opened, small, 2, tmp_path / "cache", tmp_path / "together", message.append)
    scores = [
        {name: value for name, value in row.items() if name not in ("core_seconds", "commit", "date")}
        for row in (*found, *rows)
    ]
    assert scores[:2] == scores[2:4] == scores[4:]
    assert scores[0]["loss"] != scores[1]["loss"]


def test_an_edited_class_is_trained_again(prepared, small, shallow, tmp_path, monkeypatch):
    model = Candidate("Shallow", shallow)
    rank(model, small, 1, tmp_path, lambda line: None)
    monkeypatch.setattr(protocol, "source_of", lambda network: "of another file")
    rank(model, small, 1, tmp_path, lambda line: None)
    assert prepared == [0, 0]


def test_all_that_a_class_is_made_of_is_its_source(tmp_path, monkeypatch):
    """For a third-party class: its file, and those of its base and of a part; not those of libraries."""
    files = {
        "base": "from cmd_lightning.networks import MotionModel\n\nclass Base(MotionModel): ...\n",
        "part": "from torch import nn\n\nclass Part(nn.Linear): ...\n",
        "mine": "from theirs.base import Base\nfrom theirs.part import Part\n\nclass Mine(Base):\n"
        "    def __init__(self):\n        super().__init__()\n        self.part = Part(1, 1)\n",
    }
    (tmp_path / "theirs").mkdir()
    for name, text in files.items():
        (tmp_path / "theirs" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    network = importlib.import_module("theirs.mine").Mine()
    seen = [protocol.source_of(network)]
    for name, text in files.items():
        (tmp_path / "theirs" / f"{name}.py").write_text(text + "EDITED = True\n")
        seen.append(protocol.source_of(network))
    assert len(set(seen)) == 4
    assert protocol.source_of(torch.nn.Linear(1, 1)) == protocol.source_of(torch.nn.Conv2d(1, 1, 1))


RUNS = '''"""A module."""

SCALE = 2
"""A constant."""


class Mine(nn.Module):
    """A class.

    Args:
        x: A number.
    """

    def forward(self, x):
        """A method."""
        return SCALE * x  # a comment
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("A module.", "Another.", True),
        ('"""A constant."""', "", True),
        ("x: A number.", "x: Two\n\n        numbers.", True),
        ('        """A method."""\n', "", True),
        ("a comment", "another one", True),
        ("\n\n\nclass", "\n# class\nclass", True),
        ("SCALE * x", "(SCALE\n            * x)", True),
        ("SCALE * x", "SCALE + x", False),
        ("SCALE = 2", "SCALE = 3", False),
        ("SCALE = 2", "SCALE = 2.0", False),
        ("SCALE = 2", 'SCALE = "2"', False),
        ("self, x", "self, x, y", False),
        ("        return", "        self.train()\n        return", False),
        ("        return", "        ...\n        return", True),
    ],
)
def test_only_what_runs_counts(tmp_path, old, new, same):
    """Kept scores survive an edited docstring, comment or line break, and no edited operator or constant."""
    first, edited = tmp_path / "first.py", tmp_path / "edited.py"
    first.write_text(RUNS)
    edited.write_text(RUNS.replace(old, new, 1))
    assert first.read_text() != edited.read_text()
    assert (protocol.executed([first]) == protocol.executed([edited])) is same


CODE = {
    *("shapes/convnet.py", "shapes/features.py", "shapes/reader.py", "shapes/saved_network.py", "latent_space.py"),
    *("pipeline/speed.py", "compat.py", "conditioning.py", "callbacks/skip_non_finite.py", "components/draws.py"),
    *("zoo/autoencoders/cmd.py", "data/plan.py", "ranking/score.py"),
}
"""Files that a score depends on, of each folder some."""


@pytest.mark.slow
def test_edited_code_gives_another_key(small, tmp_path, monkeypatch):
    network, root = torch.nn.Linear(1, 1), Path(cmd_lightning.__path__[0])
    found = {pattern: [*root.glob(pattern)] for pattern in protocol.CODE}
    assert not [pattern for pattern, files in found.items() if not files]
    for file in {file for files in found.values() for file in files}:
        copy = tmp_path / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    keys = {protocol.key_of({}, network, small, "clips")}
    monkeypatch.setattr(cmd_lightning, "__path__", [str(tmp_path)])
    assert {protocol.key_of({}, network, small, "clips")} == keys  # wherever the package is
    for name in CODE:
        with (tmp_path / name).open("a") as file:
            file.write("EDITED = True\n")
        keys.add(protocol.key_of({}, network, small, "clips"))
    assert len(keys) == 1 + len(CODE)


def test_the_record_says_what_it_is_of(prepared, small, shallow, tmp_path):
    threads = torch.get_num_threads()
    found = rank(Candidate("Shallow", shallow), small, 1, tmp_path, lambda line: None)
    assert torch.get_num_threads() == threads
    assert found["protocol"] == json.loads(json.dumps(small.record))
    assert found["network"]["class_path"].endswith("Shallow")
    points, width = 16 * 16, 8
    assert found["macs"] == points * width * 8 * 9 + points * 8 * width
    assert found["prepare_macs"] == 0
    assert found["parameters"] == width * 8 * 9 + width + 8 * width + 8
    assert found["sampling"]["seconds"] > 0
    assert found["sampling"]["ratio"] < 1  # two layers, compared with the paper's transformer
    assert {"versions", "commit", "hardware", "date"} <= found["provenance"].keys()


def test_which_of_two_models_is_timed_first_does_not_matter(bench, small, monkeypatch):
    spent, calls = [0.0], []

    def opened(bench, seconds):
        def generate(*given):
            calls.append(seconds)
            spent[0] += seconds * (1.1 if len(calls) % 2 else 1.0)  # the first of a round finds a cold cache

        return SimpleNamespace(generate_motion=generate)

    monkeypatch.setattr(cost, "with_model", opened)
    monkeypatch.setattr(cost.time, "process_time", lambda: spent[0])
    assert cost.timing(0.1, 0.1, bench, small)["ratio"] == pytest.approx(1, abs=0.01)
    assert cost.timing(0.2, 0.1, bench, small)["ratio"] == pytest.approx(2, abs=0.02)


def test_what_is_prepared_once_is_counted_apart():
    spec = LatentSpec((3, 8, 8), (2, 4, 4), tuple((float(i // 2), i % 2 / 2) for i in range(4)))
    condition = Condition(torch.zeros(1, 6), torch.zeros(1, 5, 6), torch.ones(1, 5, dtype=torch.bool))
    network = CachedDiT(spec, 6, width=16, depth=2, heads=2)
    found = cost.counts(network, spec, condition)
    assert found["prepare_macs"] > 0
    whole = cost.count(network, torch.zeros(1, 3, 8, 8), call=lambda model, frame: model.prepare(frame))
    assert found["prepare_macs"] == whole.macs
    assert found["macs"] > 0
    assert found["parameters"] == sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(
    ("seeds", "samples", "message"), [(0, 64, "^seeds 0"), (11, 64, "^seeds"), (1, 16, "^samples 16: too few")]
)
def test_too_few_of_anything_is_reported(prepared, small, shallow, tmp_path, seeds, samples, message):
    with pytest.raises(InputError, match=message):
        rank(Candidate("Shallow", shallow), replace(small, samples=samples), seeds, tmp_path, lambda line: None)


def test_the_command(prepared, small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cmd_lightning.ranking.protocol.Protocol", lambda: small)
    monkeypatch.setattr(discovery, "CARDS", tmp_path)
    (tmp_path / "MotionMixer.yaml").write_text("name: MotionMixer\nkind: motion\nwhat: mixes\n")
    rank_mixer = ["zoo", "rank", "MotionMixer", "--seeds", "2", "--out", str(tmp_path / "out")]
    assert main([*rank_mixer, "--save", "--json", str(tmp_path / "row.json")]) == 0
    captured = capsys.readouterr()
    assert "| **MotionMixer** |" in captured.out
    assert "0.53 M parameters" in captured.err
    row = json.loads((tmp_path / "row.json").read_text())
    assert leaderboard.ranked() == {"MotionMixer": row["ranking"]}
    assert (
        (tmp_path / "MotionMixer.yaml").read_text().startswith("name: MotionMixer\nkind: motion\nwhat: mixes\nranking:")
    )

    assert main([*rank_mixer, "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["ranking"]["seeds"] == row["ranking"]["seeds"]
    assert "kept in" in captured.err
    assert prepared == [0, 1]

    assert main([*rank_mixer, "--samples", "96", "--save"]) == 2
    assert "the leaderboard is of 64" in capsys.readouterr().err
    config = tmp_path / "wide.yaml"
    config.write_text("model: {init_args: {network: {class_path: MotionMixer, init_args: {width: 8}}}}")
    for others in (["--name", "Mixer"], ["--config", str(config)]):
        assert main([*rank_mixer, *others, "--save"]) == 2, "it has no card of its own"
        assert "--save: only motion models of the zoo" in capsys.readouterr().err
    assert prepared == [0, 1]
    assert main(["zoo", "rank", "MotionMixr"]) == 2
    assert "did you mean MotionMixer" in capsys.readouterr().err
    for words, message in (
        ("--seeds 0", "--seeds 0: must be at least 1"),
        ("--config no.yaml", "--config no.yaml: there is no"),
    ):
        assert main([*rank_mixer, *words.split()]) == 2
        assert message in capsys.readouterr().err
