"""Models of whole videos: trained, tested and sampled from their configs; samples compared with a separate loop."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from lightning import Trainer
from torch.utils.data import DataLoader

import cmd_lightning
from cmd_lightning.cli import main
from cmd_lightning.components import ContentDiffusion, MotionDiffusion, VideoAutoencoder, VideoDiffusion
from cmd_lightning.components.checkpoints import load_stage, stage_of
from cmd_lightning.components.schedules import WarmupSchedule
from cmd_lightning.diffusion import Diffusion
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import from_uint8, to_uint8
from cmd_lightning.networks import VideoDenoiser
from cmd_lightning.provenance import sha256
from cmd_lightning.shapes.painting import make_clip
from cmd_lightning.video_encoding import write_video
from cmd_lightning.video_io import read_video
from cmd_lightning.zoo.autoencoders.triplane import TriplaneAutoencoder
from cmd_lightning.zoo.baselines.pvdm import TriplaneUNet
from cmd_lightning.zoo.content.unet import unet
from cmd_lightning.zoo.motion.dit import MotionDiT

CONFIGS = Path(cmd_lightning.__path__[0]).parent / "configs/baselines"
SHAPE = (3, 4, 8, 8)
WORLD = ["--data.num_frames=4", "--data.size=8", "--data.batch_size=2", "--data.val_clips=2", "--data.test_clips=3"]
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
TEXT = "--model.condition.text_cfg={context_length: 12, width: 16, heads: 2, layers: 1}"
FRAMES = "--model.video_shape=[3, 4, 8, 8]"
STOCK = (
    "{block_out_channels: [8, 16], norm_num_groups: 4, attention_head_dim: 8, layers_per_block: 1, down_block_types: "
    "[DownBlock3D, CrossAttnDownBlock3D], up_block_types: [CrossAttnUpBlock3D, UpBlock3D]}"
)
SMALL = {
    "lvdm": [TEXT, FRAMES, "--model.network.width=8"],
    "modelscope": [TEXT, FRAMES, f"--model.network.settings={STOCK}"],
    "pvdm_autoencoder": ["--model.network.width=16", "--model.network.depth=1", "--model.network.patch_size=2"],
    "pvdm": [TEXT, "--model.network.width=8", "--model.network.multipliers=[1, 2]"],
}
"""Options that make a config's network small."""


class Means(torch.nn.Module):
    """Features of any clip."""

    num_features, name = 6, "means"

    def forward(self, video):
        return torch.nn.functional.adaptive_avg_pool3d(video, (2, 1, 1)).flatten(1)


class Mixer(VideoDenoiser):
    """A small denoiser: convolutions over space and time, that know where they are, told of time and condition."""

    def __init__(self, latent: tuple[int, int, int, int], condition_dim: int, width: int = 16) -> None:
        super().__init__()
        self.stem = torch.nn.Conv3d(latent[0], width, 3, padding=1)
        self.notices = torch.nn.Linear(1 + condition_dim, width)
        self.place = torch.nn.Parameter(torch.zeros(width, *latent[1:]))
        self.body = torch.nn.Conv3d(width, width, 3, padding=1)
        self.head = torch.nn.Conv3d(width, latent[0], 3, padding=1)

    def forward(self, latent, timestep, condition):
        notices = timestep[:, None].to(latent) / 1000
        if condition is not None:
            notices = torch.cat([notices, condition.pooled], dim=1)
        x = (self.stem(latent) + self.place + self.notices(notices)[:, :, None, None, None]).tanh()
        return self.head(x + self.body(x).tanh())


def triplane(**changes):
    settings = {"patch_size": 2, "width": 16, "plane_channels": 4, "depth": 1, "heads": 2, "head_dim": 8}
    return TriplaneAutoencoder(**settings | {"output": "linear"} | changes)


@pytest.fixture
def autoencoder(wake):
    network = wake(triplane())
    network.motion_mean.copy_(torch.randn(4))
    network.motion_std.copy_(0.5 + torch.rand(4))
    return network


@pytest.fixture
def model(wake, tiny_condition):
    """Makes an awake model of small videos, conditioned on captions, labels or nothing."""

    def make(condition="caption", network=Mixer, **options):
        options = {"video_shape": SHAPE} | options
        return wake(VideoDiffusion(network, condition=tiny_condition(condition), **options)).eval()

    return make


@pytest.fixture
def batch():
    video = torch.stack([make_clip(0, index, frames=4, fps=8.0, size=8)[0] for index in range(2)])
    return {
        "video": video,
        "caption": ["a red circle", "a blue square"],
        "label": torch.tensor([0, 3]),
        "key": ["0", "1"],
        "fps": torch.full((2,), 8.0),
        "epoch": 0,
    }


def run(verb, name, *more):
    return main([verb, "-c", str(CONFIGS / f"{name}.yaml"), *WORLD, *QUIET, *SMALL[name], *more])


@pytest.mark.filterwarnings("ignore:.*generated clips for 6 features", "ignore:.*does not have many workers")
def without_average(checkpoint):
    """A copy of a checkpoint as a run without `EMA` writes it."""
    kept = torch.load(checkpoint, weights_only=True)
    del kept["ema"]
    torch.save(kept, "raw.ckpt")
    return "raw.ckpt"


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("lvdm", "modelscope")), "pvdm"]
)
def test_a_baseline_from_its_config(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.val_check_interval=2"]
    if name == "pvdm":
        assert run("fit", "pvdm_autoencoder", *short) == 0
    assert run("fit", name, *short, "--model.steps=2") == 0
    folder = Path("outputs/baselines") / name
    checkpoint = folder / "last.ckpt"
    assert len(list(folder.rglob("log/*/videos/video-diffusion-step2.gif"))) == 1

    if name == "pvdm":  # the checkpoint stands by itself; a config names the autoencoder all the same
        kept = Path("outputs/baselines/pvdm_autoencoder/last.ckpt")
        opened = VideoDiffusion.load_from_checkpoint(checkpoint)
        assert stage_of(checkpoint) == "video"
        own = load_stage(kept, "autoencoder", "model").parts["network"].state_dict()
        assert all(torch.equal(weight, own[key]) for key, weight in opened.autoencoder.state_dict().items())
    opened = VideoDiffusion.load_from_checkpoint(checkpoint)
    assert opened.video_shape == SHAPE and opened.fps == 8.0
    assert opened.averaged and not VideoDiffusion.load_from_checkpoint(without_average(checkpoint)).averaged
    averages = torch.load(checkpoint, weights_only=True)["ema"]
    assert all(torch.equal(weight, averages[f"network.{key}"]) for key, weight in opened.network.named_parameters())

    assert run("predict", name, "--ckpt_path=last", "--model.steps=2", "--model.guidance=2") == 0
    written = sorted((folder / "videos").glob("*.mp4"))
    about = [json.loads(path.with_suffix(".json").read_text()) for path in written]
    assert len(written) == 3 and read_video(written[0]).shape == (3, 4, 8, 8)
    captions, seeds = ([entry[key] for entry in about] for key in ("caption", "seed"))
    assert len(set(seeds)) == 3 and all(caption.startswith("a ") for caption in captions)
    again = opened.sample(captions, seeds=seeds, steps=2, guidance=2)
    for video, path in zip(again, written, strict=True):
        write_video("again.mp4", video, fps=8.0)  # H.264 leaves little of so few pixels, but always the same
        assert (read_video("again.mp4").float() - read_video(path).float()).abs().mean() < 1

    metrics = '--model.metrics=["frechet:test_video_diffusion.Means"]'
    assert run("test", name, "--ckpt_path=last", "--model.steps=2", metrics) == 0
    [record] = json.loads((folder / "test.json").read_text())
    assert (record["metric"], record["of"]) == ("frechet_distance(means)", "generation")
    assert record["model"]["weights"] == {"last.ckpt": sha256(checkpoint)}
    assert record["model"]["averaged_weights"] is True
    assert record["model"]["sampling"] == {"video": {"steps": 2, "guidance": 4.0}}
    assert record["clips"] == {"real": 3, "fake": 3} and record["real"]["frames"] == 4

    capsys.readouterr()
    shutil.rmtree(folder / "videos")
    assert run("predict", name) == 2
    assert "predict needs trained weights; add --ckpt_path last" in capsys.readouterr().err


def test_a_seed_gives_the_same_video_in_every_batch(model):
    made = model("label")
    labels, seeds = [0, 1, 2], [5, 6, 7]
    videos = made.sample(labels, seeds=seeds, steps=4, guidance=3.0)
    assert videos.shape == (3, *SHAPE) and videos.dtype == torch.uint8
    for number, (label, seed) in enumerate(zip(labels, seeds, strict=True)):
        alone = made.sample([label], seeds=[seed], steps=4, guidance=3.0)
        assert (alone[0].int() - videos[number].int()).abs().max() <= 1
    assert torch.equal(made.sample(labels, seeds=seeds, steps=4, guidance=3.0), videos)
    assert len({tuple(video.flatten().tolist()) for video in made.sample([1, 1], seeds=[1, 2], steps=4)}) == 2


def test_defaults_of_sampling(model):
    assert model().sampling() == (50, 4.0)
    assert model(steps=7, guidance=2.0).sampling() == (7, 2.0)
    assert model(steps=7).sampling(3, {"video": 1.5}) == (3, 1.5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_sampling_is_a_loop_over_the_scheduler_of_diffusers(prediction, guidance, model):
    made = model(objective=Diffusion(prediction, clip_sample=True))
    captions, seeds, steps = ["a red circle", "a blue square"], [3, 4], 5
    noise = torch.stack([torch.randn(SHAPE, generator=torch.Generator().manual_seed(2 * seed)) for seed in seeds])
    scheduler = DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, prediction_type=prediction, clip_sample=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    x = noise
    with torch.no_grad():
        condition, null = made.condition_encoder(captions), made.condition_encoder(["", ""])
        for timestep in scheduler.timesteps:
            said = made.network(x, timestep.expand(2), condition)
            if guidance != 1:
                empty = made.network(x, timestep.expand(2), null)
                said = empty + guidance * (said - empty)
            x = scheduler.step(said, timestep, x).prev_sample
    video = made.sample(captions, seeds=seeds, steps=steps, guidance=guidance)
    assert (video.int() - to_uint8(x).int()).abs().max() <= 1
    assert video.float().std() > 10


@pytest.mark.parametrize("planes", [False, True])
def test_half_precision_samples_in_float32(planes, model, autoencoder, monkeypatch):
    """All but the networks: noise and solver."""
    small = partial(TriplaneUNet, width=8, multipliers=(1, 2), layers=1, heads=2)
    made = model("caption", **({"network": small, "autoencoder": autoencoder} if planes else {}))
    captions, seeds = ["a red circle", "a blue square"], [3, 4]
    video = made.sample(captions, seeds=seeds, steps=20)
    made.bfloat16()
    seen = {"network": set(), "solver": set()}
    made.network.register_forward_pre_hook(lambda _, inputs: seen["network"].add(inputs[0].dtype))
    step = made.scheduler.step

    def watched(said, timestep, x, **rest):
        seen["solver"] |= {said.dtype, x.dtype}
        return step(said, timestep, x, **rest)

    monkeypatch.setattr(made.scheduler, "step", watched)
    half = made.sample(captions, seeds=seeds, steps=20)
    assert seen == {"network": {torch.bfloat16}, "solver": {torch.float32}}
    assert (half.float() - video.float()).abs().mean() < 8


def test_planes_are_decoded_by_the_autoencoder(model, autoencoder, batch):
    made = model(None, partial(TriplaneUNet, width=8, multipliers=(1, 2), layers=1, heads=2), autoencoder=autoencoder)
    planes, _ = made.clean_latents(batch)
    assert planes.shape == (2, 4, 4 * 4 + 4 * 8) and made.latent_shape == planes.shape[1:]
    with torch.no_grad():
        content, motion = autoencoder.encode(from_uint8(batch["video"]))
        video = autoencoder.decode(content, motion)
    mean, std = (values[:, None, None] for values in (autoencoder.motion_mean, autoencoder.motion_std))
    assert torch.equal(planes[:, :, :16], content.flatten(2))
    torch.testing.assert_close(planes[:, :, 16:], ((motion - mean) / std).flatten(2))
    torch.testing.assert_close(made.decode(planes), video.clamp(-1, 1), atol=1e-5, rtol=0)
    stored = {"content": content, "motion": motion, "made_by": [made.origin()] * 2, "key": batch["key"]}
    torch.testing.assert_close(made.clean_latents(stored).latent, planes)
    assert made.sample(2, seeds=[1, 2], steps=2).shape == (2, *SHAPE)


def test_checkpoint_comes_back_without_other_files(model, autoencoder, batch, tmp_path, save_checkpoint):
    small = partial(TriplaneUNet, width=8, multipliers=(1, 2), layers=1, heads=2)
    objective = Diffusion("v_prediction", clip_sample=True)
    for number, made in enumerate(
        (model("label", small, autoencoder=autoencoder), model("caption", objective=objective), model(None))
    ):
        made.fps = 7.0
        opened = VideoDiffusion.load_from_checkpoint(save_checkpoint(made, tmp_path / f"{number}.ckpt"))
        values = made.values(batch)
        assert (opened.fps, opened.trained_on, opened.origin()) == (7.0, made.trained_on, made.origin())
        assert torch.equal(opened.sample(values, seeds=[1, 2], steps=3), made.sample(values, seeds=[1, 2], steps=3))
        again = VideoDiffusion.load_from_checkpoint(save_checkpoint(opened, tmp_path / "again.ckpt"))
        assert torch.equal(again.sample(values, seeds=[1, 2], steps=3), made.sample(values, seeds=[1, 2], steps=3))


def test_it_learns_a_clip_by_heart(batch, tmp_path):
    torch.manual_seed(0)
    one = {name: value[:1] if isinstance(value, torch.Tensor | list) else value for name, value in batch.items()}
    many = {name: value.repeat_interleave(8, 0) if isinstance(value, torch.Tensor) else value * 8
            for name, value in one.items() if name != "epoch"}  # fmt: skip
    many["key"] = [str(copy) for copy in range(8)]
    made = VideoDiffusion(
        partial(Mixer, width=32),
        video_shape=SHAPE,
        objective=Diffusion("v_prediction"),
        optimizer=partial(torch.optim.Adam, lr=1e-2),
        schedule=partial(WarmupSchedule, warmup_steps=5),
    )
    trainer = Trainer(
        max_steps=200, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(made, DataLoader([many] * 200, batch_size=None))
    made.eval()
    clean, _ = made.clean_latents(one)
    generator, losses, zero = torch.Generator().manual_seed(1), [], []
    for timestep in torch.linspace(0, 999, 16).long():
        noise = torch.randn(clean.shape, generator=generator)
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)[timestep]
        target = kept.sqrt() * noise - (1 - kept).sqrt() * clean
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        with torch.no_grad():
            losses.append((made.predict(noisy, timestep.expand(1), None) - target).square().mean())
        zero.append(target.square().mean())
    print(f"loss {torch.stack(losses).mean():.4f}, of predicting zero {torch.stack(zero).mean():.4f}")
    assert torch.stack(losses).mean() < 0.25 * torch.stack(zero).mean()


def test_what_is_no_image_is_not_shown_as_one(model, autoencoder, batch, wake):
    first = VideoAutoencoder(lambda: autoencoder).eval()
    assert list(first.preview(batch)) == ["original", "reconstruction"]
    options = {"autoencoder": autoencoder, "video_shape": SHAPE}
    motion = wake(MotionDiffusion(lambda spec, dim: MotionDiT(spec, dim, width=16, depth=1, heads=2), **options))
    assert list(motion.preview(batch)) == ["reconstruction", "sampled motion"]
    content = wake(ContentDiffusion(lambda spec, dim: unet(spec, dim, (8, 16), 1, 2), **options)).eval()
    rows = content.preview(batch)
    assert all(row.shape == (2, *SHAPE) for row in rows.values())
    assert {name: list(model(None, **given).preview(batch)) for name, given in {
        "frames": {},
        "planes": {"autoencoder": autoencoder, "network": partial(TriplaneUNet, width=8, multipliers=(1,), heads=2)},
    }.items()} == {"frames": ["original", "sample"], "planes": ["original", "reconstruction", "sample"]}  # fmt: skip


def test_wrong_inputs(model, tiny_autoencoder, batch, tmp_path, save_checkpoint):
    planes = VideoAutoencoder(triplane)
    planes.video_shape, planes.fps = SHAPE, 8.0
    path = str(save_checkpoint(planes, tmp_path / "planes.ckpt"))
    cases = [
        (lambda: VideoDiffusion(Mixer), "model.video_shape: needed, .* give C, T, H, W in the latent space"),
        (lambda: VideoDiffusion(Mixer, video_shape=(3, 8, 8)), r"model.video_shape \[3, 8, 8\]: give C, T, H, W"),
        (lambda: VideoDiffusion(Mixer, autoencoder=triplane()), "model.video_shape: needed, as the network"),
        (
            lambda: VideoDiffusion(Mixer, autoencoder=tiny_autoencoder(motion_channels=5), video_shape=SHAPE),
            "model.autoencoder: its content plane has 3 channels and its motion 5, .* give one with equal numbers",
        ),
        (lambda: VideoDiffusion(Mixer, planes.latent_space, path), "model.latent_space: .* leave it out"),
        (lambda: model("caption").sample([1], seeds=[0]), "the video model is conditioned on captions: .* not a label"),
        (lambda: model("label").sample(["a"], seeds=[0]), "the video model is conditioned on labels: .* a caption"),
        (lambda: model("caption").sample(1, seeds=[0]), "the video model is conditioned on captions: give a prompt"),
        (
            lambda: model(None).sample(["a"], seeds=[0]),
            "'a': this model is unconditional; give .*, only the number of videos",
        ),
        (lambda: model(None).sample(2, seeds=[0]), "seeds: 1 given for 2 videos; give one for each"),
        (lambda: model(None).sample(1, seeds=[0], steps=1001), "steps 1001: the video model takes 1 to 1000"),
        (lambda: model(None).sample(1, seeds=[0], steps=0), "steps 0: the video model takes 1 to 1000"),
        (lambda: model(None).sample(1, seeds=[0], guidance=float("nan")), "guidance nan: give a finite number"),
        (
            lambda: model(None).sample(1, seeds=[0], steps={"motion": 3}),
            "`steps`: no stage 'motion'; the stages are video",
        ),
        (lambda: model(None).clips(batch | {"video": batch["video"][:, :, :3]}), "data: videos of 3 frames, 8x8, but"),
        (lambda: model(None).clips({"key": ["0"]}), "data: testing needs videos, these are latent shards"),
        (lambda: model(None).clean_latents({"key": ["0"]}), "no videos and no moments, which the video stage needs"),
        (
            lambda: VideoDiffusion.load_from_checkpoint(path),
            "this checkpoint holds the autoencoder stage, not video; .*baselines",
        ),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_wrong_options_are_reported_on_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options, notices in (
        (["--model.gradient_checkpointing=true"], "ModelScope does not offer it; leave it out"),
        (["--model.video_shape=null"], "model.video_shape: needed, as the network is built for it"),
    ):
        assert run("fit", "modelscope", *options) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cmd-lightning: ")]
        assert notices in line


def test_a_test_without_metrics_is_rejected(model):
    made = model(None)
    made.sources = ["last.ckpt"]
    with pytest.raises(InputError, match=r"model\.metrics: none is given, so there is nothing to test"):
        made.on_test_start()
