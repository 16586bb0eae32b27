"""`fit` and its sisters as a user runs them: where files go, and what is reported."""

from pathlib import Path

import pytest
import torch
import yaml

from cmd_lightning.cli import main

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
    code, told = run("fit", "--trainer.default_root_dir=elsewhere", f"--trainer.logger={logger}")
    assert code == 0, told
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
    code, told = run("fit", "--trainer.logger=false")
    assert code == 0
    assert "cmd-lightning: out/last.ckpt of another run is kept as out/last-1.ckpt" in told
    assert Path("out/last-1.ckpt").read_bytes() == trained
    run("fit", "--trainer.logger=false", "--trainer.max_steps=2", "--ckpt_path=last")
    assert torch.load("out/last.ckpt", weights_only=True)["global_step"] == 2
    assert sorted(path.name for path in Path("out").glob("*.ckpt")) == ["last-1.ckpt", "last.ckpt"]
