"""Every config parses and builds its classes, with earlier stages built from their own configs.

The paper's networks are built on the meta device; those that a later stage reads are replaced by small ones.
"""

import re
import shlex
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from lightning import LightningDataModule, LightningModule
from paper_fits import DIT, small
from stable_diffusion_folders import write_stable_diffusion

import cmd_lightning
from benchmarks.counting import clip_shape
from cmd_lightning import zoo
from cmd_lightning.cli import main
from cmd_lightning.commands.training import CMDCLI
from cmd_lightning.components.cmd import compose, load_stages

CONFIGS = Path(cmd_lightning.__path__[0]).parent / "configs"
OVERRIDES, BASELINES, MOTION = (sorted(CONFIGS.glob(f"{name}/*.yaml")) for name in ("overrides", "baselines", "motion"))
FILES = sorted({*CONFIGS.glob("*/*.yaml")} - {*OVERRIDES, *BASELINES, *MOTION})
FOLDERS = sorted({file.parent.name for file in FILES})
STAGES = ("autoencoder", "content", "motion")
LARGE = ("ucf101", "webvid_sd15", "webvid_sd21", "openvid256")
AXES = ("aligned", "unet")  # motion models that take rows and columns alone


def named(path):
    return f"{path.parent.name}/{path.stem}"


def made_small(folder, stage, base):
    """Options that make a network of a large folder small, and its base model a small folder."""
    if folder == "ucf101":
        return DIT
    lora = ["--model.network.use_linear_projection=false", "--model.lora=null"] if stage == "content" else []
    return [*small(stage, base), *lora]


def open_options(folder, stage):
    """What a user has to give, as names that nothing opens."""
    if folder == "ucf101" or folder not in LARGE:
        return []
    return {"autoencoder": ["--model.latent_space.vae=nobody/none"], "content": ["--model.base=nobody/none"]}.get(
        stage, []
    )


def instantiate(path, *options):
    """What the command line makes of a config, without running it."""
    zoo.import_all()
    return CMDCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        run=False,
        parser_kwargs={"exit_on_error": False},
        args=[
            *(
                "--config",
                str(path),
                "--trainer.accelerator=cpu",
                "--trainer.logger=false",
                "--trainer.precision=32-true",
            ),
            *options,
        ],
    )


def video_shape(folder):
    """Of what the autoencoder of a folder sees of its clips."""
    clips, first = (yaml.safe_load((CONFIGS / folder / f"{name}.yaml").read_text()) for name in ("cmd", "autoencoder"))
    return clip_shape(clips["data"]["init_args"], first["model"]["init_args"].get("latent_space"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_stable_diffusion(tmp_path_factory.mktemp("base") / "sd", "1.5")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, base):
    """The checkpoints of a folder's stages, written when first asked for, from the folder's own configs."""
    made = {}

    def get(folder, stage):
        if (folder, stage) not in made:
            path = CONFIGS / folder / f"{stage}.yaml"
            options = [*made_small(folder, stage, base)] if folder in LARGE else []
            if stage != "autoencoder":
                options.append(f"--model.init_args.autoencoder={get(folder, 'autoencoder')}")
            component = instantiate(path, *options).model
            if stage == "autoencoder":
                component.video_shape, component.fps = video_shape(folder), 8.0
            checkpoint = {"state_dict": component.state_dict()}
            component.on_save_checkpoint(checkpoint)
            made[folder, stage] = tmp_path_factory.mktemp(folder) / f"{stage}.ckpt"
            torch.save(checkpoint, made[folder, stage])
        return made[folder, stage]

    return get


def test_folders_have_every_stage():
    assert set(FOLDERS) == {"shapes32", "shapes32paper", "shapes64", "clips64", "emoji64", *LARGE}
    for folder in FOLDERS:
        assert {file.stem for file in (CONFIGS / folder).glob("*.yaml")} >= {*STAGES, "cmd"}


def check_classes(built, config):
    """The objects are of the classes that a config names, and the Trainer is as it says."""
    assert type(built.model).__name__ == config["model"]["class_path"].rpartition(".")[2]
    assert type(built.datamodule).__name__ == config["data"]["class_path"].rpartition(".")[2]
    for option in ("max_steps", "gradient_clip_val", "check_val_every_n_epoch", "log_every_n_steps"):
        if option in config["trainer"]:
            assert getattr(built.trainer, option) == config["trainer"][option]
    wanted = [callback["class_path"].rpartition(".")[2] for callback in config["trainer"]["callbacks"]]
    present = [type(callback).__name__ for callback in built.trainer.callbacks]
    assert [name for name in wanted if name not in present] == []


def check_optimizer(component, config):
    """The optimiser is as a config says."""
    weight = torch.nn.Parameter(torch.zeros(1))  # fused optimisers refuse those of the meta device
    optimizer = component.optimizer_factory([weight])
    component.schedule_factory(optimizer)
    settings = config["model"]["init_args"]["optimizer"]["init_args"]
    group = optimizer.param_groups[0]
    assert group["betas"] == tuple(settings["betas"])
    assert group["initial_lr"] == settings["lr"]
    assert group["weight_decay"] == 0


@pytest.mark.parametrize("path", FILES, ids=named)
def test_config_builds_what_it_names(path, checkpoints, monkeypatch, tmp_path, tmp_path_factory):
    weights = tmp_path_factory.mktemp("weights")
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(path.read_text())
    folder = path.parent.name
    needed = [stage for stage in STAGES if stage in config["model"]["init_args"]]
    options = [f"--model.init_args.{stage}={checkpoints(folder, stage)}" for stage in needed]
    if "model" in config["model"]["init_args"]:  # of the zoo: one made of this folder's stages stands for it
        assert (path.stem, config["model"]["init_args"]["model"]) == ("cmd", folder)
        compose(load_stages(*(str(checkpoints(folder, stage)) for stage in STAGES))).save_pretrained(weights / folder)
        monkeypatch.setattr(zoo, "WEIGHTS", weights)
    elif "teacher" in config["model"]["init_args"]:
        assert (config["model"]["init_args"]["teacher"], needed) == (folder, [])
    else:
        assert needed == {"cmd": list(STAGES), "autoencoder": []}.get(path.stem, ["autoencoder"])
    meta = folder in LARGE and path.stem != "cmd"
    with torch.device("meta") if meta else nullcontext():
        built = instantiate(path, *options, *open_options(folder, path.stem))

    check_classes(built, config)
    if path.stem != "cmd":
        check_optimizer(built.model, config)
        devices = {weight.device.type for weight in built.model.network.parameters()}
        assert devices == {"meta" if meta else "cpu"}
    if path.stem not in ("autoencoder", "cmd"):
        assert built.model.video_shape == video_shape(folder)
    if path.stem == "cmd":
        assert tuple(built.model.pipeline.config.video_shape) == video_shape(folder)
    assert list(tmp_path.iterdir()) == []  # building writes nothing


@pytest.fixture(scope="module")
def planes(tmp_path_factory):
    """The checkpoint of the autoencoder of the PVDM-like baseline."""
    component = instantiate(CONFIGS / "baselines/pvdm_autoencoder.yaml").model
    component.video_shape, component.fps = (3, 16, 32, 32), 8.0
    component.on_save_checkpoint(checkpoint := {"state_dict": component.state_dict()})
    torch.save(checkpoint, path := tmp_path_factory.mktemp("pvdm") / "last.ckpt")
    return path


@pytest.mark.parametrize("path", BASELINES, ids=named)
def test_baseline_builds_what_it_names(path, planes, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(path.read_text())
    of_planes = "autoencoder" in config["model"]["init_args"]
    if of_planes:
        assert config["model"]["init_args"]["autoencoder"] == "outputs/baselines/pvdm_autoencoder/last.ckpt"
    built = instantiate(path, *([f"--model.autoencoder={planes}"] if of_planes else []))
    check_classes(built, config)
    check_optimizer(built.model, config)
    assert type(built.model.network).__name__ == config["model"]["init_args"]["network"]["class_path"]
    assert last_checkpoint(config) == f"outputs/{named(path)}/last.ckpt"
    assert list(tmp_path.iterdir()) == []
    if path.stem == "pvdm_autoencoder":
        return
    data = config["data"]["init_args"]
    assert built.model.video_shape == (3, data["num_frames"], data["size"], data["size"])
    assert 1e6 < sum(weight.numel() for weight in built.model.network.parameters()) < 5e6


@pytest.mark.parametrize("path", MOTION, ids=named)
def test_motion_model_goes_into_a_motion_config(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    [command] = commands(path)
    model = "shapes32paper" if path.stem in AXES else "shapes32"
    configs = f"-c configs/{model}/motion.yaml -c configs/motion/{path.name}"
    options = [f"--model.autoencoder {model}", f"--trainer.default_root_dir outputs/motion/{path.stem}"]
    assert command == " ".join(["fit", configs, *options])
    built = instantiate(CONFIGS / model / "motion.yaml", f"--config={path}", f"--model.autoencoder={model}").model
    network = yaml.safe_load(path.read_text())["model"]["init_args"]["network"]
    assert type(built).__name__ == "MotionDiffusion"
    assert type(built.network).__name__ == network["class_path"].rpartition(".")[2]
    for name, value in network.get("init_args", {}).items():
        built_with = built.network.config[name]
        assert (list(built_with) if isinstance(built_with, tuple) else built_with) == value


def leaves(value, *path):
    """The plain values of nested dictionaries, by their path."""
    if not isinstance(value, dict):
        return {path: value}
    return {key: leaf for name, item in value.items() for key, leaf in leaves(item, *path, name).items()}


def commands(path):
    """The command lines of LightningCLI in the comments of a config, with a name for the user's base model."""
    lines = path.read_text().replace("\\\n#  ", "").splitlines()
    found = [line.removeprefix("#").partition("   # ")[0].split() for line in lines if line.startswith("#   cmd-light")]
    verbs = ("fit", "validate", "test", "predict")
    return [" ".join(words[1:]).replace("BASE", "nobody/none") for words in found if words[1] in verbs]


@pytest.mark.parametrize("path", [*FILES, *OVERRIDES, *BASELINES], ids=named)
def test_commands_in_the_comments_print_the_config(path, monkeypatch, capsys):
    monkeypatch.chdir(CONFIGS.parent)
    message = commands(path)
    assert any(f"-c configs/{named(path)}.yaml" in command for command in message)
    for command in message:
        assert main([*shlex.split(command.replace(" ...", "")), "--print_config"]) == 0, command
        printed = leaves(yaml.safe_load(capsys.readouterr().out))
        *_, last = re.findall(r"-c (\S+)", command)
        given = leaves(yaml.safe_load(Path(last).read_text()))
        options = re.findall(r"--([\w.]+)", command)
        for key, value in given.items():
            name = ".".join(part for part in key if part != "init_args")
            changed = any(key[-1] in option or name.startswith(f"{option}.") for option in options)
            if key[-1] == "class_path" or key[0] == "trainer" or changed:
                continue
            assert key in printed and printed[key] == value, (command, key)


def last_checkpoint(config):
    """Where a config writes its checkpoint: into the folder that it names once for everything."""
    trainer = config["trainer"]
    assert [made["class_path"] for made in trainer["callbacks"]].count("LastCheckpoint") == 1
    assert str(trainer).count("outputs/") == 1
    return f"{trainer['default_root_dir']}/last.ckpt"


@pytest.mark.parametrize("folder", FOLDERS)
def test_stages_of_a_folder_agree(folder):
    configs = {file.stem: yaml.safe_load(file.read_text()) for file in (CONFIGS / folder).glob("*.yaml")}
    shared = ("train_shards", "val_shards", "test_shards", "num_frames", "size", "fps", "stride")
    of_video = [config["data"] for config in configs.values() if config["data"]["class_path"] != "LatentDataModule"]
    data = [{key: given["init_args"].get(key) for key in shared} for given in of_video]
    assert all(options == data[0] for options in data)
    assert configs.keys() >= {*STAGES, "cmd"}
    for stage in configs.keys() - {"cmd"}:
        path = last_checkpoint(configs[stage])
        assert path == f"outputs/{folder}/{stage}/last.ckpt"
        readers = [config["model"]["init_args"].get(stage) for config in configs.values()]
        shipped = "model" in configs["cmd"]["model"]["init_args"] and stage != "autoencoder"  # nothing reads these
        assert {reader for reader in readers if reader} == (set() if shipped else {path})


@pytest.mark.parametrize("folder", LARGE)
def test_batches_of_the_paper(folder):
    """On one device a step is of as many clips as the paper's; 64 are ours in the recipe for one small GPU."""
    for stage, clips in (("autoencoder", 24), ("content", 256), ("motion", 256)):
        config = yaml.safe_load((CONFIGS / folder / f"{stage}.yaml").read_text())
        own = config["data"]["init_args"]["batch_size"] * config["trainer"]["accumulate_grad_batches"]
        assert own == (64 if folder == "openvid256" and stage != "autoencoder" else clips)


@pytest.mark.parametrize(
    ("config", "option"),
    [("webvid_sd21/content", "model.base"), ("webvid_sd15/autoencoder", "model.latent_space.vae")],
)
def test_what_a_user_must_give_is_reported(config, option, capsys):
    assert main(["fit", "-c", str(CONFIGS / f"{config}.yaml")]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"cmd-lightning: {option}: ")
    assert f"add --{option} with the folder of a Stable Diffusion" in line
    assert "docs/stable-diffusion.md" in line


def test_any_option_that_is_needed_is_reported(capsys):
    assert main(["fit", "--model", "MotionDiffusion", "--data", "ShapesDataModule"]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(
        "cmd-lightning: model.network: MotionDiffusion needs it, and none is given; add --model.network"
    )
