"""Training options that make latents easier to learn: each option alone, and off by default."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from torch.utils.data import DataLoader

from cmd_lightning.components import ContentDiffusion, MotionDiffusion, VideoAutoencoder
from cmd_lightning.components.latent_regulariser import LatentRegulariser
from cmd_lightning.errors import InputError
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
from cmd_lightning.zoo.content.image_unet import ContentUNet
from cmd_lightning.zoo.motion.dit import MotionDiT

SHAPE = (3, 4, 8, 12)
SMALL = {"patch_size": 2, "width": 16, "motion_channels": 3, "depth": 1, "heads": 2, "head_dim": 8, "output": "linear"}


def draw(name, shape):
    generator = torch.Generator().manual_seed(len(name))
    return torch.randn(5000 if len(shape) == 1 else 40, *shape, generator=generator)


def batch():
    return {
        "video": torch.randint(0, 256, (2, *SHAPE), dtype=torch.uint8),
        "key": ["a", "b"],
        "epoch": 0,
        "fps": torch.full((2,), 8.0),
    }


def first_loss(network, **options):
    """The loss of the first step of a training run on a fixed batch."""
    component = VideoAutoencoder(lambda: network, **options)
    component.log = lambda *given, **more: None
    torch.manual_seed(1)
    return component.training_step(batch(), 0).item()


def test_nothing_is_done_by_default(tiny_autoencoder):
    content, motion = torch.randn(40, 3, 8, 12), torch.randn(40, 3, 4, 10)
    regulariser = LatentRegulariser()
    assert regulariser.disturb(content, motion, draw) == (content, motion)
    assert regulariser.extra_loss(None, None, None, None) == 0
    network = tiny_autoencoder()
    torch.manual_seed(1)
    video = batch()["video"] / 127.5 - 1
    torch.manual_seed(1)
    assert first_loss(network) == pytest.approx(F.mse_loss(network(video), video).item(), rel=1e-5)


def test_noise_has_the_given_deviation():
    content, motion = torch.randn(40, 3, 8, 12), torch.randn(40, 3, 4, 10)
    noisy_content, noisy_motion = LatentRegulariser(content_noise=0.1, motion_noise=0.3).disturb(content, motion, draw)
    for noisy, clean, deviation in ((noisy_content, content, 0.1), (noisy_motion, motion, 0.3)):
        assert (noisy - clean).std().item() == pytest.approx(deviation, rel=0.05)
        assert abs((noisy - clean).mean().item()) < 0.1 * deviation
    assert torch.equal(LatentRegulariser(motion_noise=0.3).disturb(content, motion, draw)[0], content)


def test_masks_hide_whole_slots():
    content, motion = torch.randn(5000, 1, 1, 1), torch.randn(5000, 2, 3, 10)
    same, masked = LatentRegulariser(motion_mask=0.3).disturb(content, motion, draw)
    assert same is content
    hidden = masked == 0
    assert torch.equal(hidden, hidden[:, :1, :1].expand_as(hidden))
    assert torch.equal(masked[~hidden], motion[~hidden])
    assert hidden.float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_scale_equivariance_compares_the_clip_at_half_size(tiny_autoencoder):
    network = tiny_autoencoder(weights="pixel")
    video = torch.randn(2, *SHAPE)
    content = network.encode(video)[0]
    loss = LatentRegulariser(scale_weight=0.5).extra_loss(network, video, content, F.mse_loss)
    small = F.interpolate(video, scale_factor=(1, 0.5, 0.5), mode="trilinear")  # for halves, the mean of four
    halved = F.interpolate(content, scale_factor=0.5, mode="bilinear")
    expected = 0.5 * F.mse_loss(network.decode(halved, network.encode(small)[1]), small)
    torch.testing.assert_close(loss, expected)
    torch.nn.init.zeros_(network.content_head.weight)
    assert torch.autograd.grad(loss, network.content_stem.weight)[0].abs().max() > 0


@pytest.mark.parametrize(
    "option", [{"content_noise": 0.5}, {"motion_noise": 0.5}, {"motion_mask": 0.6}, {"scale_weight": 1.0}]
)
def test_every_option_reaches_the_loss_of_training(option, tiny_autoencoder):
    network = tiny_autoencoder()
    plain = first_loss(network)
    changed = first_loss(network, regulariser=LatentRegulariser(**option))
    assert abs(changed - plain) > 1e-4
    assert changed == first_loss(network, regulariser=LatentRegulariser(**option))  # draws belong to the samples


def test_noise_in_training_makes_the_decoder_robust():
    """Trained with noise on the motion latent, the decoder loses less to it."""
    lost = {}
    for noise in (0.0, 0.4):
        torch.manual_seed(0)
        component = VideoAutoencoder(
            partial(CMDAutoencoder, **SMALL),
            regulariser=LatentRegulariser(motion_noise=noise),
            optimizer=partial(torch.optim.Adam, lr=1e-2),
        )
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = Trainer(max_steps=60, accelerator="cpu", **quiet)
        trainer.fit(component, DataLoader([batch() | {"epoch": n} for n in range(60)], batch_size=None))
        video = batch()["video"] / 127.5 - 1
        content, motion = component.network.encode(video)
        noisy = motion + 0.4 * torch.randn(200, *motion.shape[1:]).unflatten(0, (100, 2))
        with torch.no_grad():
            clean = component.network.decode(content, motion)
            moved = torch.stack([component.network.decode(content, one) for one in noisy])
        lost[noise] = (moved - clean).square().mean().item()
    assert lost[0.4] < 0.7 * lost[0.0]


@pytest.mark.parametrize("option", ["content_noise", "motion_noise", "motion_mask", "scale_weight"])
def test_negative_values_are_rejected(option):
    with pytest.raises(InputError, match=f"regulariser.{option} -0.1"):
        LatentRegulariser(**{option: -0.1})
    with pytest.raises(InputError, match="motion_mask 1"):
        LatentRegulariser(motion_mask=1.0)


def test_the_motion_model_may_see_noisy_content(tiny_autoencoder):
    def make(**options):
        network = partial(MotionDiT, width=16, depth=1, heads=2)
        return MotionDiffusion(network, tiny_autoencoder(), video_shape=SHAPE, **options)

    def contents(component):
        return component.training_latents(batch()).content

    torch.manual_seed(0)
    plain = make()
    torch.manual_seed(0)
    noisy = make(content_noise=0.2)
    torch.manual_seed(2)
    clean = contents(plain)
    torch.manual_seed(2)
    seen = contents(noisy)
    torch.manual_seed(2)
    level = noisy.uniform(batch(), "content level")
    expected = 0.2 * level.view(-1, 1, 1, 1) * noisy.normal(batch(), "content noise")(clean.shape[1:])
    torch.testing.assert_close(seen - clean, expected, atol=1e-5, rtol=1e-4)
    torch.manual_seed(2)
    assert torch.equal(noisy.clean_latents(batch()).content, clean)  # validation sees it as it is
    with pytest.raises(InputError, match="content_noise -1"):
        make(content_noise=-1)


@pytest.mark.parametrize("stage", ["content", "motion"])
def test_a_noise_floor_belongs_to_what_is_learned(stage, tiny_autoencoder):
    """Noise of the deviation that the decoder was trained with, in the units of the latent that is learned."""
    autoencoder = tiny_autoencoder()
    kind, network = {
        "content": (ContentDiffusion, partial(ContentUNet, width=8, multipliers=(1, 1), layers=1, heads=2)),
        "motion": (MotionDiffusion, partial(MotionDiT, width=16, depth=1, heads=2)),
    }[stage]
    component = kind(network, autoencoder, video_shape=SHAPE, noise_floor=0.3)
    component.log = lambda *given, **more: None
    seen = {}
    component.objective.loss = lambda prediction, clean, noise, timestep: seen.update(clean=clean) or prediction
    many = {"video": batch()["video"][:1].repeat(60, 1, 1, 1, 1), "key": [str(n) for n in range(60)], "epoch": 0}
    many["fps"] = torch.full((60,), 8.0)
    component.training_step(many, 0)
    noise = seen["clean"] - component.clean_latents(many).latent
    deviation = noise.transpose(0, 1).flatten(1).std(1)
    expected = 0.3 / autoencoder.motion_std if stage == "motion" else torch.full((3,), 0.3)
    torch.testing.assert_close(deviation, expected, rtol=0.1, atol=0)
    with pytest.raises(InputError, match="noise_floor -1"):
        kind(network, autoencoder, video_shape=SHAPE, noise_floor=-1)
