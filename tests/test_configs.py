"""Every config parses and builds what it names, with the stages before it built from their own configs."""

from pathlib import Path

import pytest
import torch
import yaml
from lightning import LightningDataModule, LightningModule

import cmd_lightning
from cmd_lightning import zoo
from cmd_lightning.commands.training import CMDCLI
from cmd_lightning.components.cmd import assemble

CONFIGS = Path(cmd_lightning.__path__[0]).parent / "configs"
FOLDERS = sorted({file.parent.name for file in CONFIGS.glob("*/*.yaml")})
STAGES = ("autoencoder", "content", "motion")


def instantiate(path, *overrides):
    """What the command line makes of a config, without running it."""
    zoo.import_all()
    return CMDCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        run=False,
        parser_kwargs={"exit_on_error": False},
        args=["--config", str(path), "--trainer.accelerator=cpu", "--trainer.logger=false", *overrides],
    )


def video_shape(path):
    data = yaml.safe_load(path.read_text())["data"]["init_args"]
    size = data["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return 3, data["num_frames"], height, width


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """The checkpoints of a folder's stages, written when first asked for, from the folder's own configs."""
    made = {}

    def get(folder, stage):
        if (folder, stage) not in made:
            path = CONFIGS / folder / f"{stage}.yaml"
            needs = [] if stage == "autoencoder" else [f"--model.init_args.autoencoder={get(folder, 'autoencoder')}"]
            component = instantiate(path, *needs).model
            if stage == "autoencoder":
                component.video_shape, component.fps = video_shape(path), 8.0
            checkpoint = {"state_dict": component.state_dict()}
            component.on_save_checkpoint(checkpoint)
            made[folder, stage] = tmp_path_factory.mktemp(folder) / f"{stage}.ckpt"
            torch.save(checkpoint, made[folder, stage])
        return made[folder, stage]

    return get


def test_folders_have_every_stage():
    assert {"shapes32", "shapes64", "clips64"} <= set(FOLDERS)
    for folder in FOLDERS:
        assert {file.stem for file in (CONFIGS / folder).glob("*.yaml")} >= {*STAGES, "cmd"}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_config_builds_what_it_names(path, checkpoints, monkeypatch, tmp_path, tmp_path_factory):
    weights = tmp_path_factory.mktemp("weights")
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(path.read_text())
    folder = path.parent.name
    needed = [stage for stage in STAGES if stage in config["model"]["init_args"]]
    overrides = [f"--model.init_args.{stage}={checkpoints(folder, stage)}" for stage in needed]
    if "model" in config["model"]["init_args"]:  # of the zoo: one made of this folder's stages stands for it
        assert (path.stem, config["model"]["init_args"]["model"]) == ("cmd", folder)
        assemble(*(str(checkpoints(folder, stage)) for stage in STAGES)).save_pretrained(weights / folder)
        monkeypatch.setattr(zoo, "WEIGHTS", weights)
    else:
        assert needed == {"cmd": list(STAGES), "autoencoder": []}.get(path.stem, ["autoencoder"])
    built = instantiate(path, *overrides)

    assert type(built.model).__name__ == config["model"]["class_path"].rpartition(".")[2]
    assert type(built.datamodule).__name__ == config["data"]["class_path"].rpartition(".")[2]
    for option, value in config["trainer"].items():
        if option in ("max_steps", "gradient_clip_val", "check_val_every_n_epoch", "log_every_n_steps"):
            assert getattr(built.trainer, option) == value
    named = [callback["class_path"].rpartition(".")[2] for callback in config["trainer"]["callbacks"]]
    present = [type(callback).__name__ for callback in built.trainer.callbacks]
    assert [name for name in named if name not in present] == []
    if path.stem in STAGES:
        optimizer = built.model.configure_optimizers()["optimizer"]
        settings = config["model"]["init_args"]["optimizer"]["init_args"]
        group = optimizer.param_groups[0]
        assert group["betas"] == tuple(settings["betas"])
        assert group["initial_lr"] == settings["lr"]
    if path.stem in ("content", "motion"):
        assert built.model.video_shape == video_shape(path)
    if path.stem == "cmd":
        assert tuple(built.model.pipeline.config.video_shape) == video_shape(path)
    assert list(tmp_path.iterdir()) == []  # building writes nothing


@pytest.mark.parametrize("folder", FOLDERS)
def test_stages_of_a_folder_agree(folder):
    configs = {file.stem: yaml.safe_load(file.read_text()) for file in (CONFIGS / folder).glob("*.yaml")}
    shared = ("train_shards", "val_shards", "test_shards", "num_frames", "size", "fps", "stride")
    data = [{key: config["data"]["init_args"].get(key) for key in shared} for config in configs.values()]
    assert all(options == data[0] for options in data)
    for stage in STAGES:
        [saved] = [
            callback["init_args"]
            for callback in configs[stage]["trainer"]["callbacks"]
            if callback["class_path"] == "LastCheckpoint"
        ]
        path = f"{saved['folder']}/last.ckpt"
        readers = [config["model"]["init_args"].get(stage) for config in configs.values()]
        shipped = "model" in configs["cmd"]["model"]["init_args"] and stage != "autoencoder"  # nothing reads these
        assert {reader for reader in readers if reader} == (set() if shipped else {path})
