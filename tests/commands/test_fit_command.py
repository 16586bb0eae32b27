"""`fit`, `validate`, `test` and `predict` on the command line: files, messages and errors."""

import csv
import importlib.util
import json
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

import cmd_lightning
from cmd_lightning.callbacks import LastCheckpoint, StageProgress
from cmd_lightning.cli import main
from cmd_lightning.commands.early_checks import check_class
from cmd_lightning.commands.next_steps import next_commands
from cmd_lightning.components import VideoAutoencoder
from cmd_lightning.errors import InputError
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder

CONFIGS = Path(cmd_lightning.__path__[0], "configs").resolve()

AUTOENCODER = {"patch_size": 4, "width": 16, "depth": 1, "heads": 2, "head_dim": 8}
CONFIG = {
    "model": {
        "class_path": "VideoAutoencoder",
        "init_args": {
            "network": {"class_path": "CMDAutoencoder", "init_args": AUTOENCODER},
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}},
        },
    },
    "data": {
        "class_path": "ShapesDataModule",
        "init_args": {"num_frames": 4, "size": 16, "batch_size": 2, "train_clips": 8, "val_clips": 2},
    },
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 1,
        "val_check_interval": 1,
        "check_val_every_n_epoch": None,
        "limit_val_batches": 1,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "default_root_dir": "out",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "EMA"}, {"class_path": "VideoLogger"}, {"class_path": "LastCheckpoint"}],
    },
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a verb on CONFIG in an empty working directory; gives back the exit code and the lines of standard error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))

    def call(verb, *options, config="config.yaml"):
        capsys.readouterr()
        code = main([verb, "-c", str(config), *map(str, options)])
        return code, capsys.readouterr().err.splitlines()

    return call


def files(folder="."):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def test_ctrl_c_ends_every_verb_with_130(run, monkeypatch):
    def interrupt(component):
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoAutoencoder, "on_validation_start", interrupt)
    before = signal.getsignal(signal.SIGINT)
    try:
        code, lines = run("validate")
    finally:
        signal.signal(signal.SIGINT, before)  # which Lightning turns off
    assert (code, lines[-1]) == (130, "cmd-lightning: interrupted")


LOGGERS = {
    "CSVLogger": "lightning_logs/version_0/",
    "TensorBoardLogger": "lightning_logs/version_0/",
    "true": "lightning_logs/version_0/",
    "false": "",
    '[{"class_path": "CSVLogger"}, {"class_path": "TensorBoardLogger", "init_args": {"name": "tb"}}]': (
        "lightning_logs/version_0/"
    ),
}


@pytest.mark.parametrize("logger", LOGGERS)
def test_one_option_moves_a_whole_run(run, logger):
    code, lines = run("fit", "--trainer.default_root_dir=elsewhere", f"--trainer.logger={logger}")
    assert code == 0, lines
    assert {path.split("/")[0] for path in files()} == {"config.yaml", "elsewhere"}
    written = files("elsewhere")
    log = LOGGERS[logger]
    assert {"last.ckpt", f"{log}config.yaml", f"{log}videos/video-autoencoder-step1.gif"} <= {*written}
    assert any("metrics.csv" in path for path in written) == ("CSV" in logger)
    assert any("tfevents" in path for path in written) == ("Tensor" in logger or logger == "true")
    if "tb" in logger:
        assert any(path.startswith("tb/version_0/events") for path in written)
    # The config that is saved names the folder once too.
    saved = Path("elsewhere", log, "config.yaml")
    run("fit", "--trainer.default_root_dir=third", config=saved)
    assert {path.split("/")[0] for path in files()} == {"config.yaml", "elsewhere", "third"}
    assert files("elsewhere") == written


def test_a_logger_may_have_a_folder_of_its_own(run):
    run("fit", "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs")
    assert Path("logs/lightning_logs/version_0/metrics.csv").exists()
    assert files("out") == ["last.ckpt"]
    assert "version_0" in str(files("logs"))


def test_a_trial_run_leaves_the_trained_checkpoint_alone(run):
    run("fit", "--trainer.logger=false")
    trained = Path("out/last.ckpt").read_bytes()
    run("fit", "--trainer.logger=false", "--trainer.default_root_dir=trial")
    assert Path("out/last.ckpt").read_bytes() == trained
    code, lines = run("fit", "--trainer.logger=false")
    assert code == 0
    assert "cmd-lightning: out/last.ckpt of another run is kept as out/last-1.ckpt" in lines
    assert Path("out/last-1.ckpt").read_bytes() == trained
    run("fit", "--trainer.logger=false", "--trainer.max_steps=2", "--ckpt_path=last")
    assert torch.load("out/last.ckpt", weights_only=True)["global_step"] == 2
    assert sorted(path.name for path in Path("out").glob("*.ckpt")) == ["last-1.ckpt", "last.ckpt"]


WRONG = {
    "--ckpt_path=best": "--ckpt_path best: only the run that wrote a best checkpoint knows it",
    "--ckpt_path=none.ckpt": "--ckpt_path none.ckpt: there is no such file",
    "--trainer.max_steps=0": "--trainer.max_steps 0: nothing would be trained",
    "--trainer.max_epochs=0": "--trainer.max_epochs 0: nothing would be trained",
    "--trainer.limit_train_batches=0.0": "--trainer.limit_train_batches 0: nothing would be trained",
    "--trainer.val_check_interval=0": "--trainer.val_check_interval 0: give a number of batches",
    "--trainer.accumulate_grad_batches=0": "--trainer.accumulate_grad_batches 0: give at least 1",
    "--trainer.check_val_every_n_epoch=0": "--trainer.check_val_every_n_epoch 0: give at least 1, or null",
    "--trainer.default_root_dir=one.yaml": "--trainer.default_root_dir one.yaml: this is a file; give a folder",
    "--trainer.gradient_clip_val=-1": "--trainer.gradient_clip_val -1: would reverse gradients",
    "--model.autoencoder=shapes33": "model.autoencoder shapes33: there is no such file",
    "-c none.yaml": "-c none.yaml: there is no such file; did you mean one.yaml?",
    "-c folder": "-c folder: this is a folder; give one of its files: motion.yaml",
}


@pytest.mark.parametrize("option", WRONG)
def test_cheap_checks_come_before_the_libraries(run, monkeypatch, option):
    Path("folder").mkdir()
    Path("folder/motion.yaml").touch()
    Path("one.yaml").touch()
    monkeypatch.setitem(sys.modules, "cmd_lightning.commands.training", None)  # cannot be imported
    code, lines = run("fit", *option.split())
    assert code == 2 and len(lines) == 1
    assert lines[0].startswith(f"cmd-lightning: {WRONG[option]}")
    assert not Path("out").exists()


def test_a_wrong_component_is_reported_before_the_libraries_are_loaded():
    check_class("MotionDiffusion")
    check_class("my_package.Model")
    check_class({"class_path": "X"})
    with pytest.raises(InputError, match="class_path MotionDifusion: there is no such class; did you mean MotionDiff"):
        check_class("MotionDifusion")


def test_fit_without_a_config_is_reported(run, capsys):
    for words in ([], ["config.yaml"]):
        assert main(["fit", *words]) == 2
        assert "fit: no config; give one, such as -c configs/shapes32/autoencoder.yaml" in capsys.readouterr().err


LATE = {
    "--trainer.accelerator=gpu": "trainer.accelerator gpu: ",
    "--trainer.accelerator=tpu": "trainer.accelerator tpu: ",
    "--trainer.strategy=none": "trainer.strategy none: ",
    "--trainer.max_steps=-5": "trainer.max_steps -5: ",
    "--trainer.devices=-3": "trainer.devices -3: ",
    "--seed_everything=-1": "-1 is not in bounds, numpy accepts from 0",
    "--model.optimizer.lr=-1": "model.optimizer: Invalid learning rate: -1.0; give other values",
    "--trainer.max_steps=ten": "trainer.max_steps ten: expected 'int'",
    "--trainer.precision=banana": "trainer.precision banana: expected one of 16, 16-mixed, ",
    "--trainer.logger=WandbLogger": "trainer.logger WandbLogger: ",
    "--model.network=MotionDiT": "model.network MotionDiT: a MotionModel does not fit there",
    "--model.optimizer=CMDAutoencoder": "model.optimizer CMDAutoencoder: an AutoencoderNetwork does not fit there",
    "--data.size=abc": "data.size abc: expected 'int'",
    "--model=Nothing": "class_path Nothing: there is no such class",
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
@pytest.mark.parametrize("option", LATE)
def test_a_mistake_is_reported_on_one_line(run, option):
    if "Wandb" in option and importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    code, lines = run("fit", "--seed_everything=false", option)
    assert code == 2
    assert [line.startswith(f"cmd-lightning: {LATE[option]}") for line in lines] == [True], lines
    assert len(lines[0]) < 300


def test_what_the_trainer_finds_when_it_has_begun_is_reported_in_the_last_line(run):
    code, lines = run("fit", "--trainer.check_val_every_n_epoch=1", "--trainer.val_check_interval=99999")
    assert code == 2
    assert lines[-1].startswith("cmd-lightning: `val_check_interval` (99999) must be less than or equal to the number")
    code, lines = run("fit", "--trainer.max_time=00:00:00:00")
    assert code == 2 and lines[-1].startswith("cmd-lightning: trainer: no step was trained; ")
    assert not any("last.ckpt" in line for line in lines)


@pytest.mark.parametrize("first", [True, False])
def test_best_is_that_of_model_checkpoint_whatever_the_order(tmp_path, first):
    """Case 09."""

    class Falling(BoringModel):
        def validation_step(self, batch, batch_idx):
            self.log("loss", float(abs(self.global_step - 2)))  # best after two steps

    best, last = ModelCheckpoint(tmp_path, "{step}", monitor="loss"), LastCheckpoint(str(tmp_path))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(
        max_steps=4, val_check_interval=2, limit_val_batches=1, limit_test_batches=1, num_sanity_val_steps=0,
        callbacks=[best, last] if first else [last, best], **quiet,
    )  # fmt: skip
    trainer.fit(model := Falling())
    trainer.test(model, ckpt_path="best", verbose=False, weights_only=True)
    assert trainer.ckpt_path == best.best_model_path == str(tmp_path / "step=2.ckpt")
    without = Trainer(callbacks=[LastCheckpoint(str(tmp_path / "other"))], max_steps=1, **quiet)
    without.fit(model)
    with pytest.raises(ValueError, match="not configured to save the best model"):
        without.test(model, ckpt_path="best", verbose=False)


def rates(path):
    """Learning rate of the optimiser, and the peak of its schedule, in a checkpoint."""
    checkpoint = torch.load(path, weights_only=True)
    [group] = checkpoint["optimizer_states"][0]["param_groups"]
    return group["lr"], checkpoint["lr_schedulers"][0]["base_lrs"]


def test_a_learning_rate_changed_at_a_resume_holds_and_is_reported(run):
    """Case 15."""
    quick = ["--trainer.logger=false", "--trainer.limit_val_batches=0"]
    run("fit", *quick, "--trainer.max_steps=2")
    assert rates("out/last.ckpt") == (1e-3, [1e-3])
    resume = [*quick, "--ckpt_path=last", "--trainer.max_steps=3"]
    code, lines = run("fit", *resume, "--model.optimizer.lr=1e-5")
    assert code == 0
    assert any("model.optimizer.lr 1e-05: the checkpoint was trained with 0.001" in line for line in lines), lines
    assert rates("out/last.ckpt") == (1e-5, [1e-5])
    code, lines = run("fit", *quick, "--ckpt_path=last", "--trainer.max_steps=4", "--model.optimizer.lr=1e-5")
    assert not any("model.optimizer" in line for line in lines)


def test_a_run_ends_with_a_validation_images_and_the_next_command(run):
    shapes = files_of("shapes32paper")
    for name in ("autoencoder", "content", "motion"):
        Path(f"{name}.yaml").write_text(shapes[name])
    small = ["--trainer.limit_val_batches=1", "--trainer.enable_progress_bar=false", "--data.val_clips=2"]
    small += ["--trainer.accelerator=cpu", "--trainer.max_steps=3", "--trainer.val_check_interval=2"]
    small += ["--trainer.num_sanity_val_steps=0"]
    network = "--model.network.init_args={patch_size: 8, width: 16, depth: 1, heads: 2, head_dim: 8, output: linear}"
    code, lines = run("fit", *small, network, "--trainer.default_root_dir=moved", config="autoencoder.yaml")
    assert code == 0, lines
    [ended] = [line for line in lines if "after step 3" in line]
    assert ended.startswith("cmd-lightning: moved/last.ckpt after step 3: val/loss ") and "val/psnr " in ended
    [image] = [line.partition("images: ")[2] for line in lines if "images: " in line]
    assert Path(image).stat().st_size > 1000 and image.startswith("moved/")
    following = [line.partition("next: ")[2] for line in lines if "next: " in line]
    assert following == [
        f"cmd-lightning fit -c {name}.yaml --model.autoencoder moved/last.ckpt --data.val_clips=2"
        for name in ("content", "motion")
    ]
    _, *words = shlex.split(following[1])
    assert main([*words, *small, "--model.network.init_args={width: 20, depth: 1, heads: 5, frames: 4}"]) == 0


def files_of(folder):
    return {path.stem: path.read_text() for path in Path(CONFIGS, folder).glob("*.yaml")}


class Model:
    def __init__(self, stage):
        self.stage = stage


def test_next_commands_of_every_shipped_config(tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(CONFIGS)
    monkeypatch.chdir(tmp_path)
    base = ["--model.latent_space.vae", "BASE"]

    def after(path, stage, *more):
        words = ["fit", "-c", f"configs/{path}.yaml", *more]
        return next_commands(Model(stage), words, Path("outputs", path, "last.ckpt"))

    for folder in (
        "shapes32",
        "shapes32paper",
        "shapes64",
        "clips64",
        "ucf101",
        "openvid256",
        "webvid_sd15",
        "webvid_sd21",
    ):
        stable = folder in ("openvid256", "webvid_sd15", "webvid_sd21")
        needed = " --model.base BASE" if stable else ""
        assert after(f"{folder}/autoencoder", "autoencoder", *(base if stable else [])) == [
            f"cmd-lightning fit -c configs/{folder}/content.yaml{needed}",
            f"cmd-lightning fit -c configs/{folder}/motion.yaml",
        ]
        assert after(f"{folder}/motion", "motion") == [f"cmd-lightning fit -c configs/{folder}/content.yaml{needed}"]
        run_of = Path("outputs", folder, "content")
        run_of.mkdir(parents=True)
        (run_of / "last.ckpt").touch()
        stages = " ".join(f"outputs/{folder}/{stage}/last.ckpt" for stage in ("autoencoder", "content", "motion"))
        assert after(f"{folder}/motion", "motion") == [f"cmd-lightning export {stages} outputs/{folder}/model"]
        Path("outputs", folder, "model").mkdir()
        assert after(f"{folder}/content", "content")[0].startswith("cmd-lightning fit -c configs/")
    assert after("baselines/pvdm_autoencoder", "autoencoder") == ["cmd-lightning fit -c configs/baselines/pvdm.yaml"]
    for name in ("lvdm", "modelscope", "pvdm"):
        assert after(f"baselines/{name}", "video", "--ckpt_path", "last") == [
            f"cmd-lightning predict -c configs/baselines/{name}.yaml --ckpt_path last"
        ]
    mine = ["--model.autoencoder=shapes32", "-c", "configs/motion/dit.yaml"]
    assert after("shapes32/motion", "motion", *mine) == [
        "cmd-lightning export shapes32 outputs/shapes32/motion/last.ckpt outputs/shapes32/model-2"
    ]
    data = ["--data.train_shards", "a b", "--data.val_shards=c", "--data.batch_size", "2"]
    assert after("clips64/autoencoder", "autoencoder", "-c", "configs/overrides/frames_24.yaml", *data)[0] == (
        "cmd-lightning fit -c configs/clips64/content.yaml -c configs/overrides/frames_24.yaml "
        "--data.train_shards 'a b' --data.val_shards=c"
    )


def test_next_commands_import_what_this_one_did(monkeypatch, tmp_path):
    monkeypatch.setattr("cmd_lightning.zoo.discovery.OTHERS", [json, csv, json])
    config = f"{CONFIGS}/shapes32/motion.yaml"
    words, made = ["fit", "-c", config, "--model.autoencoder=shapes32"], tmp_path / "motion/last.ckpt"
    [lines] = next_commands(Model("motion"), words, made)
    assert lines == f"cmd-lightning export shapes32 {made} {tmp_path}/model --import json --import csv"
    config = config.replace("motion.yaml", "autoencoder.yaml")
    lines = next_commands(Model("autoencoder"), ["fit", "-c", config], tmp_path / "last.ckpt")
    assert len(lines) == 2 and all(line.endswith(" --import json --import csv") for line in lines)


class OwnAutoencoder(CMDAutoencoder):
    """A class of another package."""


def test_next_commands_import_the_modules_of_the_parts():
    made = VideoAutoencoder(lambda: OwnAutoencoder(3, **AUTOENCODER))
    lines = next_commands(made, ["fit", "-c", f"{CONFIGS}/shapes32/autoencoder.yaml"], Path("last.ckpt"))
    assert len(lines) == 2 and all(line.endswith(f" --import {__name__}") for line in lines)


def test_a_run_is_quiet(run):
    bar = "--trainer.enable_progress_bar=true"
    code, lines = run("fit", bar, "--trainer.logger=false", "--trainer.max_steps=2", "--trainer.num_sanity_val_steps=1")
    text = "\n".join(lines)
    assert code == 0
    for word in ("FLOPs", "/-2", "litlogger", "LeafSpec", "Trainer.fit` stopped"):
        assert word not in text
    assert "fit autoencoder: 100%" in text and "2/2" in text and "validate autoencoder: " in text


class Slow(BoringModel):
    def test_step(self, batch, batch_idx):
        time.sleep(1.5)


def test_a_bar_moves_while_a_batch_takes_long(tmp_path, capsys):
    moves = []

    class Watched(StageProgress):
        def _open(self, *arguments, **options):
            super()._open(*arguments, **options)
            refresh = self._bars[-1].refresh
            self._bars[-1].refresh = lambda *a, **k: (moves.append(time.monotonic()), refresh(*a, **k))

    Trainer(
        logger=False, accelerator="cpu", callbacks=[Watched()], limit_test_batches=1, enable_model_summary=False
    ).test(Slow(), verbose=False)
    assert len(moves) >= 1
    assert "test Slow: 100%" in capsys.readouterr().err
