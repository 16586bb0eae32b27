"""The recipe of docs/scaling-out.md for one GPU, made small, from shards of video to a generated video."""

import json
import shutil

import pytest
from paper_fits import DIT, small
from stable_diffusion_folders import write_stable_diffusion

import cmd_lightning
from cmd_lightning.cli import main

SMALL = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--data.batch_size=2", "--data.num_workers=0"]
BRIEF = ["--trainer.max_steps=4", "--trainer.val_check_interval=4", "--trainer.accumulate_grad_batches=2"]


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


@pytest.mark.slow
def test_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(f"{cmd_lightning.__path__[0]}/configs")
    base = write_stable_diffusion(tmp_path / "sd", "1.5")
    folder = tmp_path / "outputs/openvid256"
    run("shards", "synth", "--out", folder / "shards", "--num", 8, "--size", 64)
    shutil.copytree(folder / "shards/train", folder / "shards/test")

    def encode(what, *more):
        for split in ("train", "test"):
            source, out = folder / "shards" / split, folder / what / split
            run("shards", "encode", source, "--out", out, *more, "--fps", 8, "--clips-per-video", 2, "--num-workers", 0)

    def fit(stage, *more):
        config = f"configs/openvid256/{stage}.yaml"  # its folders and callbacks as they are, but for the steps
        run("fit", "-c", config, *SMALL, *BRIEF, *more)

    encode("moments", "--vae", base, "--size", "32x48", "--frames", 5)
    fit("autoencoder", *small("autoencoder", base))
    encode("latents", "--autoencoder", folder / "autoencoder/last.ckpt", "--text", base)
    fit("content", *small("content", base), "--model.lora.rank=2")
    # ViT-H has no small weights: the base model's text encoder replaces it.
    fit("motion", *DIT, "--model.condition=StableDiffusionText", f"--model.condition.base={base}")

    checkpoints = [folder / stage / "last.ckpt" for stage in ("autoencoder", "content", "motion")]
    run("export", *checkpoints, folder / "model", "--steps", 2, "--guidance", "content=7.5,motion=2")
    run("generate", folder / "model", "--prompt", "a red circle moves left", "--out", tmp_path / "videos")
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 1
    clips = ["--data.size=[32,48]", "--data.num_frames=5", "--model.steps=2"]
    run("test", "-c", "configs/openvid256/cmd.yaml", *SMALL, *clips)
    scores = {record["metric"]: record["value"] for record in json.loads((folder / "cmd/test.json").read_text())}
    assert 3 < scores["psnr"] < 60
