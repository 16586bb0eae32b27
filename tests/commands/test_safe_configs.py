"""A config creates only objects of allowed classes, and calls nothing else; checkpoints never run code."""

import copy
import os
import pickle
import sys
import time

import pytest
import torch
import yaml

from cmd_lightning.cli import main
from cmd_lightning.commands.class_paths import check_class_paths
from cmd_lightning.errors import InputError

CONFIG = {
    "seed_everything": False,
    "model": {
        "class_path": "VideoAutoencoder",
        "init_args": {
            "network": {"class_path": "CMDAutoencoder"},
            "optimizer": {"class_path": "torch.optim.Adam"},
            "schedule": {"class_path": "WarmupSchedule"},
        },
    },
    "data": {"class_path": "ShapesDataModule"},
    "trainer": {"accelerator": "cpu", "max_steps": 1, "callbacks": []},
}
MODULE = """
from pathlib import Path

from torch.optim import Optimizer


def touch(*arguments, **options):
    Path({witness!r}).touch()


class Touch:
    __init__ = touch


class Call(Touch):
    __call__ = touch


class Stage:
    def __init__(self, word: str):
        self.word = word

    def __call__(self, samples):
        return samples
"""
"""A third-party module with classes that fit nowhere."""


@pytest.fixture
def witness(tmp_path, monkeypatch):
    """The file that appears when a payload runs."""
    (tmp_path / "payloads.py").write_text(MODULE.format(witness=str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "ran"
    sys.modules.pop("payloads", None)


@pytest.fixture
def refused(tmp_path, capsys, witness):
    """Runs `fit` on a config that must be refused on one line, and nothing be called."""

    def run(config, *words):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        capsys.readouterr()
        assert main(["fit", "-c", str(tmp_path / "config.yaml"), *map(str, words)]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cmd-lightning: ")]
        assert len(lines) == 1
        assert not witness.exists()
        return lines[0]

    return run


def put(place, value):
    config = copy.deepcopy(CONFIG)
    *path, last = place
    inner = config
    for step in path:
        inner = inner[step]
    inner[last] = [value] if last == "callbacks" else value
    return config


PLACES = {
    "model": ("model",),
    "network": ("model", "init_args", "network"),
    "optimizer": ("model", "init_args", "optimizer"),
    "schedule": ("model", "init_args", "schedule"),
    "learning rate": ("model", "init_args", "optimizer", "init_args"),
    "data": ("data",),
    "callbacks": ("trainer", "callbacks"),
    "logger": ("trainer", "logger"),
    "plugins": ("trainer", "plugins"),
    "strategy": ("trainer", "strategy"),
    "profiler": ("trainer", "profiler"),
}
FACTORIES = ("network", "optimizer", "schedule")


@pytest.mark.parametrize("place", PLACES)
def test_what_does_not_fit_is_rejected_and_not_called(refused, witness, place):
    payloads = [
        {"class_path": "os.system", "init_args": {"command": f"touch '{witness}'"}},
        {"class_path": "payloads.Touch"},
    ]
    if place in FACTORIES:
        payloads += [
            {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(witness)]}},
            {"class_path": "payloads.Call"},
            "payloads.touch",
            "payloads.Touch",
        ]
    for payload in payloads:
        refused(put(PLACES[place], payload))
    time.sleep(0.1)  # what a payload had started would show by now
    assert not witness.exists()


PAYLOADS = {
    "os.system": {"init_args": {"command": "touch ran"}},
    "subprocess.Popen": {"init_args": {"args": ["touch", "ran"]}},
    "payloads.touch": {},
    "payloads.Touch": {},
    "webdataset.gopen.Pipe": {"init_args": {"mode": "r"}, "dict_kwargs": {"args": "touch ran", "shell": True}},
}


@pytest.mark.parametrize("path", PAYLOADS)
def test_nor_where_an_argument_may_be_anything(refused, witness, path):
    payload = {"class_path": path} | PAYLOADS[path]
    condition = {"class_path": "OpenCLIPTextEncoder", "init_args": {"text_cfg": {"width": payload}}}
    model = {"class_path": "ContentDiffusion", "init_args": {"network": {"class_path": "ContentDiT"}}}
    model["init_args"] |= {"autoencoder": "none.ckpt", "condition": condition}
    assert f"class_path {path}: " in refused(put(("model",), model))
    logger = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "logs"}}
    assert f"class_path {path}: " in refused(put(("trainer", "logger"), logger | {"dict_kwargs": {"x": payload}}))
    ddp = {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"ddp_comm_state": payload}}
    assert f"class_path {path}: " in refused(put(("trainer", "strategy"), ddp))
    time.sleep(0.1)
    assert not witness.exists()


def test_stages_are_classes_of_objects_that_can_be_called(refused, witness):
    def config(stages):
        return put(
            ("data",), {"class_path": "WebVidDataModule", "init_args": {"train_shards": "none", "stages": stages}}
        )

    for path in ("subprocess.Popen", "webdataset.gopen.Pipe", "payloads.Touch"):
        stage = {"class_path": path} | PAYLOADS[path]
        refused(config([stage]))
        with pytest.raises(InputError, match=f"^class_path {path}: "):
            check_class_paths({"stages": [stage]})
    stage = {"class_path": "payloads.Stage", "init_args": {"word": "a"}}
    assert "train_shards none: no such shard" in refused(config(["payloads.touch", stage]))  # after the stages are made
    assert "data.stages payloads.Stage: expected a list, [my_package.my_stage," in refused(config("payloads.Stage"))


def test_classes_that_call_whatever_they_are_given_are_rejected(refused):
    callback = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"setup": "payloads.touch"}}
    assert "write your own class" in refused(put(("trainer", "callbacks"), callback))
    schedule = {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": "payloads.touch"}}
    assert "LambdaLR" in refused(put(("model", "init_args", "schedule"), schedule))


def test_options_in_a_checkpoint_are_not_taken(witness, tmp_path, capsys):
    """Lightning would take "hyper_parameters" for options and make the objects that they name."""
    config = put(("trainer", "callbacks"), {"class_path": "LastCheckpoint", "init_args": {"folder": str(tmp_path)}})
    config["model"]["init_args"]["network"]["init_args"] = AUTOENCODER
    config["data"]["init_args"] = {"num_frames": 4, "size": 16, "batch_size": 2, "train_clips": 8, "val_clips": 2}
    config["trainer"] |= {"logger": False, "default_root_dir": str(tmp_path), "limit_val_batches": 1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "-c", "config.yaml"]) == 0
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    payload = {"class_path": "os.system", "init_args": {"command": f"touch '{witness}'"}}
    checkpoint["hyper_parameters"] = {"_class_path": "VideoAutoencoder", "network": payload}
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    assert main(["fit", "-c", "config.yaml", "--ckpt_path", "evil.ckpt", "--trainer.max_steps", "2"]) == 0
    assert not witness.exists()


def test_every_run_leaves_a_last_checkpoint(witness, tmp_path):
    config = copy.deepcopy(CONFIG)
    config["model"]["init_args"]["network"]["init_args"] = AUTOENCODER
    config["data"]["init_args"] = {"num_frames": 4, "size": 16, "batch_size": 2, "train_clips": 8, "val_clips": 2}
    config["trainer"] |= {"logger": False, "default_root_dir": str(tmp_path), "limit_val_batches": 1}
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "-c", "given.yaml", "--trainer.enable_checkpointing", "false"]) == 0
    assert not (tmp_path / "last.ckpt").exists()
    assert main(["fit", "-c", "given.yaml"]) == 0
    assert (tmp_path / "last.ckpt").exists()


def test_the_payloads_are_live(witness):
    import payloads

    for payload in (payloads.touch, payloads.Touch, payloads.Call):
        payload()
        witness.unlink()


class Bomb:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch '{self.witness}'",)


def test_checkpoints_with_code_are_rejected_wherever_they_are_given(refused, witness, tmp_path, tiny_stages, capsys):
    evil = tmp_path / "last.ckpt"
    torch.save({"cmd": {"stage": "autoencoder"}, "state_dict": Bomb(witness)}, evil)

    assert f"ckpt_path {evil}: it cannot be read as a checkpoint" in refused(CONFIG, "--ckpt_path", evil)

    with_last = put(("trainer", "callbacks"), {"class_path": "LastCheckpoint", "init_args": {"folder": str(tmp_path)}})
    with_last["trainer"] |= {"logger": False, "default_root_dir": str(tmp_path)}
    message = refused(with_last, "--ckpt_path", "last")
    assert f"--ckpt_path last {evil}: it cannot be read as a checkpoint" in message
    assert "removed to start from scratch" in message

    model = {"class_path": "MotionDiffusion", "init_args": {"network": {"class_path": "MotionDiT"}}}
    model["init_args"]["autoencoder"] = str(evil)
    assert f"model.autoencoder {evil}: it cannot be read as a checkpoint" in refused(put(("model",), model))

    stages, _ = tiny_stages()
    assert main(["export", str(evil), str(stages["content"]), str(stages["motion"]), str(tmp_path / "out")]) == 2
    assert f"{evil}: it cannot be read as a checkpoint" in capsys.readouterr().err
    assert not witness.exists()
    pickle.loads(pickle.dumps(Bomb(witness)))
    assert witness.exists()


AUTOENCODER = {"patch_size": 4, "width": 16, "depth": 1, "heads": 2, "head_dim": 8}


def test_last_begins_resumes_and_is_wanted_for_evaluation(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = put(("trainer", "callbacks"), {"class_path": "LastCheckpoint", "init_args": {"folder": "out"}})
    config["model"]["init_args"]["network"]["init_args"] = AUTOENCODER
    config["data"]["init_args"] = {"num_frames": 4, "size": 16, "batch_size": 2, "train_clips": 8, "val_clips": 2}
    config["trainer"] |= {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    config["trainer"] |= {"default_root_dir": str(tmp_path), "limit_val_batches": 1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    assert main(["validate", "-c", "config.yaml", "--ckpt_path", "last"]) == 2
    assert "--ckpt_path last out/last.ckpt: there is no such file" in capsys.readouterr().err
    for steps in (1, 3):
        assert main(["fit", "-c", "config.yaml", "--ckpt_path", "last", f"--trainer.max_steps={steps}"]) == 0
        assert torch.load("out/last.ckpt", weights_only=True)["global_step"] == steps
        begins = "--ckpt_path last: there is no out/last.ckpt yet; training begins at step 0" in capsys.readouterr().err
        assert begins == (steps == 1)
    assert main(["validate", "-c", "config.yaml", "--ckpt_path", "last"]) == 0
