"""Training on latent shards equals training on their videos: same noise, same losses, same weights."""

import csv

import pytest
import torch
from paper_fits import options
from stable_diffusion_folders import write_stable_diffusion

from cmd_lightning.cli import main
from cmd_lightning.pretrained_text import open_text_encoder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base model, shards of videos, a trained autoencoder, and latent shards with two clips per video."""
    folder = tmp_path_factory.mktemp("made")
    base, shards = write_stable_diffusion(folder / "sd"), folder / "videos/train"
    assert main(["shards", "synth", "--out", str(folder / "videos"), "--num", "5", "--size", "64"]) == 0
    assert main(["fit", *options("autoencoder", base, shards, folder, "1.5")]) == 0
    source = {
        "moments": ["--vae", str(base), "--size", "32x48", "--frames", "5", "--stride", "1"],
        "latents": ["--autoencoder", str(folder / "autoencoder/last.ckpt"), "--stride", "1", "--text", str(base)],
    }
    for kind, where in source.items():
        argv = ["shards", "encode", str(shards), "--out", str(folder / kind), *where, "--clips-per-video", "2"]
        assert main([*argv, "--dtype", "float32", "--num-workers", "0"]) == 0
    return folder


def losses(folder):
    with open(folder / "log/version_0/metrics.csv") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize("stage", ["autoencoder", "motion", pytest.param("content", marks=pytest.mark.slow)])
def test_latent_shards_give_the_fit_that_videos_give(made, stage, tmp_path, monkeypatch):
    results = {}
    for kind in ("videos", "latents"):
        folder = tmp_path / kind
        argv = options(stage, made / "sd", made / "videos/train", made, "1.5")
        argv += [
            *("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.01", "--trainer.max_steps=6"),
            *(f"--trainer.default_root_dir={folder}", "--trainer.log_every_n_steps=1", "--trainer.callbacks=[]"),
            *("--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={folder}", "--trainer.logger.name=log"),
        ]
        if kind == "latents":
            argv = [word for word in argv if not word.startswith(("--data.size", "--data.num_frames"))]
            shards = made / ("moments" if stage == "autoencoder" else "latents")
            argv += ["--data=LatentDataModule", f"--data.train_shards={shards}", f"--data.val_shards={shards}"]
            monkeypatch.setattr("cmd_lightning.video_file.VideoFile.__init__", None)  # no video is opened
        assert main(["fit", *argv]) == 0
        results[kind] = losses(folder), torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    (ours, weights), (theirs, expected) = results["latents"], results["videos"]
    assert len(theirs) == 6  # two epochs of three steps: both clips of each video, and other noise
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert len(set(theirs)) == 6
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_latents_of_another_origin_are_rejected(made, tmp_path, capsys):
    other = write_stable_diffusion(tmp_path / "sd", seed=9)
    argv = options("autoencoder", other, made / "videos/train", tmp_path, "1.5")
    latent = ["--data=LatentDataModule", "--data.batch_size=2"]
    latent += [f"--data.{split}_shards={made / 'moments'}" for split in ("train", "val")]
    argv = [word for word in argv if not word.startswith("--data.")]
    assert main(["fit", *argv, *latent]) == 2
    assert "these latents are of another latent space" in capsys.readouterr().err

    argv = [word for word in options("motion", other, "none", made, "1.5") if not word.startswith("--data.")]
    wrong = ["--model.condition=StableDiffusionText", f"--model.condition.base={other}"]
    latent = [word.replace("moments", "latents") for word in latent]
    argv = [word for word in argv if not word.startswith("--model.condition")]
    assert main(["fit", *argv, *wrong, *latent, f"--trainer.default_root_dir={tmp_path}"]) == 2
    theirs, ours = (open_text_encoder(str(path)).fingerprint for path in (made / "sd", other))
    line = capsys.readouterr().err
    assert f"text of other encoders ({theirs}) than the motion stage's ({ours})" in line

    checkpoint = torch.load(made / "autoencoder/last.ckpt", weights_only=True)
    next(iter(checkpoint["ema"].values())).add_(0.1)
    (tmp_path / "autoencoder").mkdir(exist_ok=True)
    torch.save(checkpoint, tmp_path / "autoencoder/last.ckpt")
    argv = [word for word in options("motion", "none", "none", tmp_path, "1.5") if not word.startswith("--data.")]
    assert main(["fit", *argv, *latent]) == 2
    assert "these latents are of another autoencoder" in capsys.readouterr().err


@pytest.mark.slow
def test_moments_serve_the_diffusion_stages_too(made, tmp_path):
    """Moments are read as videos are: the autoencoder makes the latents of them on the fly."""
    argv = [word for word in options("motion", "none", "none", made, "1.5") if not word.startswith("--data.")]
    latent = [f"--data.{split}_shards={made / 'moments'}" for split in ("train", "val")]
    assert main(["fit", *argv, "--data=LatentDataModule", *latent, f"--trainer.default_root_dir={tmp_path}"]) == 0
