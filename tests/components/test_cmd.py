"""The three stages composed: a seed gives the same frames everywhere; `test` and `predict` as commands."""

import json

import numpy as np
import pytest
import torch
import yaml

from cmd_lightning.cli import main
from cmd_lightning.components import CMD
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import from_uint8, to_uint8
from cmd_lightning.metrics.frechet import frechet_distance_from_features
from cmd_lightning.metrics.kernel import kernel_distance
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.shapes.synth import write_shapes
from cmd_lightning.video_encoding import write_video
from cmd_lightning.video_io import read_video

STEPS, GUIDANCE = {"content": 3, "motion": 4}, {"content": 2.0, "motion": 1.5}


def uint8(frames):
    """Frames (B, T, H, W, C) in [0, 1] as the videos (B, C, T, H, W) that components and files have."""
    return torch.from_numpy((frames * 255).round().astype(np.uint8)).permute(0, 4, 1, 2, 3)


def test_pipeline_component_and_command_give_the_same_frames(tiny_stages, tmp_path):
    paths, _ = tiny_stages("caption")
    model, prompts, seeds = tmp_path / "model", ["a red circle", "a blue square"], [5, 6]
    assert main(["export", *map(str, paths.values()), str(model)]) == 0

    pipeline = CMDPipeline.from_pretrained(model)
    each = [prompt for prompt in prompts for _ in seeds]
    few = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    frames = uint8(pipeline(each, seeds=seeds * 2, **few, output_type="np").frames)

    from_stages = CMD(**{name: str(path) for name, path in paths.items()}, steps=STEPS, guidance=GUIDANCE)
    assert torch.equal(from_stages.sample(each, seeds=seeds * 2), frames)
    assert torch.equal(CMD(str(model)).sample(each, seeds=seeds * 2, steps=STEPS, guidance=GUIDANCE), frames)

    options = ["--steps", "content=3,motion=4", "--guidance", "content=2,motion=1.5", "--out", str(tmp_path / "out")]
    assert main(["generate", str(model), "--prompt", *prompts, "--num", "2", "--seed", "5", *options]) == 0
    for video, prompt, seed in zip(frames, each, seeds * 2, strict=True):
        name = prompt.replace(" ", "-")
        write_video(tmp_path / "same.mp4", video, fps=pipeline.config.fps)
        written = tmp_path / "out" / f"{name}-{seed}.mp4"
        assert written.read_bytes() == (tmp_path / "same.mp4").read_bytes()
        assert json.loads(written.with_suffix(".json").read_text())["seed"] == seed


@pytest.mark.slow
def test_a_fresh_process_generates_the_same_from_an_export(python, tiny_stages, tmp_path):
    paths, _ = tiny_stages("caption")
    model = tmp_path / "model"
    assert main(["export", *map(str, paths.values()), str(model)]) == 0
    system = CMD(**{name: str(path) for name, path in paths.items()})
    prompts = ["a red circle", "a blue square", "a green one"]
    options = {"num_inference_steps": 3, "guidance_scale": 2.0}
    options["output_type"] = "np"
    frames = uint8(CMDPipeline.from_pretrained(model)(prompts, seeds=[7, 7, 7], **options).frames)
    # The last bit of a product depends on memory addresses, which differ between checkpoints and an export.
    sampled = system.sample(prompts, seeds=[7, 7, 7], steps=3, guidance=2.0)
    assert (sampled.int() - frames.int()).abs().max() <= 1
    code = (
        "import sys, numpy; from cmd_lightning.pipeline import CMDPipeline; "
        f"p = CMDPipeline.from_pretrained(sys.argv[1]); p = p({prompts!r}, seeds=[7, 7, 7], **{options!r}); "
        "numpy.save(sys.argv[2], p.frames)"
    )
    python.run("-c", code, model, tmp_path / "frames.npy").check_returncode()
    assert torch.equal(uint8(np.load(tmp_path / "frames.npy")), frames)


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    write_shapes(folder, num=5, size=12, frames=5, fps=7.0, seed=0, split="test", shard_size=5)
    return folder


def run(tmp_path, verb, paths, shards, **options):
    """Runs the verb on the tiny stages; the logged scores."""
    model = {name: str(path) for name, path in paths.items()} | {"steps": 2} | options
    callbacks = [{"class_path": "VideoWriter"}, {"class_path": "VideoLogger", "init_args": {"num_videos": 2}}]
    config = {
        "model": {"class_path": "CMD", "init_args": model},
        "data": {
            "class_path": "WebVidDataModule",
            "init_args": {"test_shards": str(shards), "num_frames": 5, "size": [8, 12], "batch_size": 3},
        },
        "trainer": {
            "accelerator": "cpu",
            "default_root_dir": str(tmp_path / "run"),
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": str(tmp_path / "run")},
            },
            "enable_progress_bar": False,
            "callbacks": callbacks,
        },
    }
    (tmp_path / "cmd.yaml").write_text(yaml.safe_dump(config))
    return main([verb, "-c", str(tmp_path / "cmd.yaml")])


def test_test_scores_reconstructions(tiny_stages, shards, tmp_path):
    paths, components = tiny_stages("caption")
    assert run(tmp_path, "test", paths, shards) == 0
    table = next((tmp_path / "run").rglob("metrics.csv")).read_text().splitlines()
    scores = dict(zip(table[0].split(","), table[-1].split(","), strict=True))
    # By hand, from the files: crop of the middle 8 rows of 12, reconstruction, ten times the logarithm.
    expected, best = [], []
    data = WebVidDataModule(test_shards=str(shards), num_frames=5, size=[8, 12], batch_size=5)
    video = from_uint8(next(iter(data.test_dataloader()))["video"])
    with torch.no_grad():
        result = components["autoencoder"].network(video).clamp(-1, 1)
    for original, copy in zip(video.double(), result.double(), strict=True):
        expected.append(10 * torch.log10(4 / (original - copy).square().mean()))
        best.append(max(10 * torch.log10(4 / (original - original[:, [t]]).square().mean()) for t in range(5)))
    assert float(scores["test/psnr"]) == pytest.approx(float(torch.stack(expected).mean()), abs=1e-3)
    assert float(scores["test/psnr_of_best_frame"]) == pytest.approx(float(torch.stack(best).mean()), abs=1e-3)
    assert list((tmp_path / "run").rglob("videos/*.gif"))


class Means(torch.nn.Module):
    """Features of any clip."""

    num_features, name = 6, "means"

    def forward(self, video):
        return torch.nn.functional.adaptive_avg_pool3d(video, (2, 1, 1)).flatten(1)


@pytest.mark.filterwarnings("ignore:.*generated clips for 6 features")
def test_test_feeds_one_distance_three_ways(tiny_stages, shards, tmp_path):
    paths, _ = tiny_stages("caption")
    assert run(tmp_path, "test", paths, shards, metrics=["frechet:test_cmd.Means", "kernel:test_cmd.Means"]) == 0
    records = json.loads((tmp_path / "run" / "test.json").read_text())
    values = {(record["metric"], record["of"]): record["value"] for record in records}
    assert ("psnr", "reconstruction") in values
    for record in records:  # no number is naked
        assert {"value", "real", "model", "versions", "commit", "hardware", "date"} <= set(record)
    assert records[0]["model"]["sampling"]["content"]["steps"] == 2
    assert len(records[0]["model"]["weights"]) == 3
    assert records[0]["model"]["averaged_weights"] == {"autoencoder": False, "content": False, "motion": False}
    assert records[0]["real"]["frames"] == 5
    # By hand: the three sets of clips in one batch, without Lightning.
    system = CMD(**{name: str(path) for name, path in paths.items()}, steps=2)
    batch = next(
        iter(WebVidDataModule(test_shards=str(shards), num_frames=5, size=[8, 12], batch_size=5).test_dataloader())
    )
    seeds = system.predict_step(batch, 0)["seed"]
    with torch.no_grad():
        content, motion = system.pipeline.autoencoder.encode(from_uint8(batch["video"]))
        moved = system.pipeline.generate_motion(content, batch["caption"], seeds, 2, None)
        ways = {
            "reconstruction": to_uint8(system.pipeline.decode(content, motion)),
            "motion prediction": to_uint8(system.pipeline.decode(content, moved)),
            "generation": system.sample(batch["caption"], seeds=seeds),
        }
    real = Means()(batch["video"] / 255)
    for way, video in ways.items():
        fake = Means()(video / 255)
        distance = frechet_distance_from_features(real, fake)
        assert values["frechet_distance(means)", way] == pytest.approx(float(distance), rel=1e-3, abs=1e-6)
        assert values["kernel_distance(means)", way] == pytest.approx(
            float(kernel_distance(real, fake)), rel=1e-3, abs=1e-6
        )
    assert len({values["frechet_distance(means)", way] for way in ways}) == 3


def test_predict_writes_a_video_a_sample_and_overwrites_none(tiny_stages, shards, tmp_path, capsys):
    paths, _ = tiny_stages("caption")
    assert run(tmp_path, "predict", paths, shards) == 0
    videos = sorted((tmp_path / "run" / "videos").rglob("*.mp4"))
    assert len(videos) == 5
    assert read_video(videos[0]).shape == (3, 5, 8, 12)
    about = json.loads(videos[0].with_suffix(".json").read_text())
    assert about["caption"].startswith("a ")
    assert len({json.loads(v.with_suffix(".json").read_text())["seed"] for v in videos}) == 5
    before = [video.stat().st_mtime_ns for video in videos]
    assert run(tmp_path, "predict", paths, shards) == 2
    assert f"{tmp_path / 'run' / 'videos'} is not empty; give another, or remove it" in capsys.readouterr().err
    assert [video.stat().st_mtime_ns for video in videos] == before


def test_stages_of_different_autoencoders_are_rejected(tiny_stages, tmp_path, save_checkpoint, tiny_autoencoder):
    from cmd_lightning.components import VideoAutoencoder

    paths, components = tiny_stages()
    other = VideoAutoencoder(tiny_autoencoder)
    other.video_shape, other.fps = components["autoencoder"].video_shape, 7.0
    save_checkpoint(other, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="another autoencoder"):
        CMD(**{name: str(path) for name, path in paths.items()} | {"autoencoder": str(tmp_path / "other.ckpt")})
    with pytest.raises(InputError, match="holds the autoencoder stage, not content"):
        CMD(autoencoder=str(paths["autoencoder"]), content=str(paths["autoencoder"]), motion=str(paths["motion"]))
