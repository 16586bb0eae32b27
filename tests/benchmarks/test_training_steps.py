"""The benchmark of training steps, made small: what is trained and kept, and requirements of the machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import benchmarks
from benchmarks import training_steps
from benchmarks.calls import CHANNELS, NETWORKS
from benchmarks.counting import calls, read
from benchmarks.training_steps import Settings, cells, measure, run, table, task
from cmd_lightning.errors import InputError

SMALL = {
    "autoencoder, measured": {"width": 16, "depth": 1, "heads": 2, "head_dim": 8},
    "content": {"block_out_channels": [8, 16], "layers_per_block": 1, "attention_head_dim": 2},
    "motion": {"width": 16, "depth": 1, "heads": 2, "content_patch_size": 4},
}
SMALL = {name: NETWORKS[name] | changes for name, changes in SMALL.items()}
TINY = Settings(size=(64, 128), frames=4, steps=2, networks=SMALL, compiled=(False,))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = tmp_path_factory.mktemp("steps") / "steps.json"
    return path, run(TINY, path)


@pytest.mark.slow
def test_every_cell_is_measured_with_its_protocol(result):
    path, found = result
    assert json.loads(path.read_text()) == found
    assert found.keys() >= {"versions", "hardware", "system", "settings", "protocol", "reported"}
    assert [{key: row[key] for key in cells(TINY)[0]} for row in found["rows"]] == cells(TINY)
    assert len(found["rows"]) == 3 * 2
    for row in found["rows"]:
        assert len(row["rounds"]) == TINY.steps
        assert row["seconds"] > 0
        assert row["tmacs"] > row["tmacs_paper"] > 0
        assert row.keys() >= {"parameters", "commit", "date"}


def test_table_has_the_papers_figures_for_its_own_protocol_alone(result):
    _, found = result
    lines = table(found).splitlines()
    assert lines[2].startswith("| autoencoder, measured | ")
    assert {line.split(" | ")[6] for line in lines[2:]} == {""}  # its seconds are of 512x512, not of this size
    paper = table(found | {"settings": found["settings"] | {"size": [512, 512]}}).splitlines()
    assert [line.split(" | ")[2] for line in paper[2:]] == ["0.77", "0.34", "0.14", "", "", ""]
    assert [line.split(" | ")[6] for line in paper[2:]] == ["0.109", "0.151", "0.1", "", "", ""]


def test_what_does_not_fit_is_reported(result):
    _, found = result
    rows = [row | {"seconds": None} for row in found["rows"]]
    assert "| did not fit |" in table(found | {"rows": rows})


@pytest.mark.parametrize("name", SMALL)
def test_a_step_trains_the_network_on_its_loss(name):
    """Every weight is reached, and steps on the same latents bring the loss down."""
    torch.manual_seed(0)
    work = task(name, SMALL, 4, (64, 64), CPU)
    clean = [torch.randn(4, *shape) for shape in work.latents]
    optimizer = torch.optim.AdamW(work.call.network.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = work.loss(*clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    untouched = [key for key, weight in work.call.network.named_parameters() if weight.grad is None]
    assert untouched == []
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


def test_latents_are_those_of_the_paper():
    """Content frame and motion latent of its table of sizes."""
    for size, motion in (((512, 512), (8, 16, 64)), ((512, 1024), (8, 16, 96))):
        work = task("motion", NETWORKS | {"motion": SMALL["motion"]}, 16, size, CPU)
        assert work.latents == (motion, (CHANNELS, size[0] // 8, size[1] // 8))


def test_networks_are_those_of_the_configs():
    """Read without Lightning, they are what the command line makes of the files."""
    root = Path(benchmarks.__path__[0]).parent / "configs"
    override = {"autoencoder": [root / "overrides/autoencoder_measured.yaml"]}
    built = calls(read(root / "webvid_sd21", override))
    names = {"autoencoder": "autoencoder, measured", "content": "content", "motion": "motion"}
    for stage, name in names.items():
        ours = task(name, NETWORKS, 16, (512, 1024), torch.device("meta")).call
        theirs = built[stage]
        assert ours.inputs_of(lambda tensor: tensor.shape) == theirs.inputs_of(lambda tensor: tensor.shape)
        settings = [{k: v for k, v in n.config.items() if k[0] != "_"} for n in (ours.network, theirs.network)]
        assert settings[0] == settings[1]
    deep = task("autoencoder, paper", NETWORKS, 16, (512, 1024), torch.device("meta")).call.network.config
    assert (deep.depth, deep.heads * deep.head_dim, deep.qkv_bias) == (12, 512, False)


CELL = {"network": "motion", "checkpointing": True, "compiled": False}


def test_memory_that_does_not_suffice_is_a_result(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(training_steps, "timed", full)
    (row,) = measure(CELL, TINY)
    assert (row["seconds"], row["parameters"] > 0) == (None, True)


@pytest.mark.slow
def test_compiled_step():
    assert measure(CELL | {"compiled": True}, TINY)[0]["seconds"] > 0


def test_settings_are_checked():
    with pytest.raises(InputError, match="--size 60x64: give multiples of 64"):
        Settings(size=(60, 64))
    with pytest.raises(InputError, match="--steps 0"):
        Settings(steps=0)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cuda"):
            Settings(device="cuda")


@pytest.mark.slow
def test_it_runs_where_little_is_installed():
    """The docstring says what it can do without."""
    script = f"""
import importlib.metadata, sys
for name in ("lightning", "open_clip", "transformers", "webdataset", "av", "torchmetrics", "peft", "torchvision"):
    sys.modules[name] = None
version = importlib.metadata.version
def installed(name):
    if name.replace("_torch", "") in sys.modules and sys.modules[name.replace("_torch", "")] is None:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = installed
from benchmarks import training_steps as steps
settings = steps.Settings(size=(64, 64), frames=2, steps=1, networks={SMALL!r}, compiled=(False,))
result = steps.run(settings)
assert len(result["rows"]) == 6
assert "torch " in result["versions"] and "lightning 2" not in result["versions"]
"""
    root = Path(benchmarks.__path__[0]).parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
