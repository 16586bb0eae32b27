import os
import subprocess
import sys

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from stable_diffusion_folders import vae_of, write_stable_diffusion
from taef2 import TAEF2
from torch import nn

from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import FrameLatents, Pixels, from_uint8
from cmd_lightning.networks.classes import build, describe
from cmd_lightning.stable_diffusion import StableDiffusion
from cmd_lightning.video_io import read_video

VIDEO = torch.rand(2, 3, 5, 16, 24) * 2 - 1


def by_frame(function, video):
    return torch.stack([function(frame) for frame in video.unbind(2)], 2)


def tiny():
    torch.manual_seed(4)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )


def test_pixels_stay():
    space = Pixels()
    assert space.encode(VIDEO) is VIDEO
    assert torch.equal(space.decode(2 * VIDEO), (2 * VIDEO).clamp(-1, 1))
    assert (space.factor, space.fingerprint, space.vae) == (1, "pixels", None)


@pytest.mark.parametrize("chunk_size", [1, 3, 64])
def test_stable_diffusions_vae_frame_by_frame(chunk_size):
    vae = vae_of(scaling_factor=0.3, shift_factor=0.1).eval()
    space = FrameLatents(vae, chunk_size=chunk_size)
    with torch.no_grad():
        mean = by_frame(lambda frame: (vae.encode(frame).latent_dist.mode() - 0.1) * 0.3, VIDEO)
        torch.testing.assert_close(space.encode(VIDEO), mean, atol=1e-5, rtol=1e-4)
        images = by_frame(lambda latent: vae.decode(latent / 0.3 + 0.1).sample.clamp(-1, 1), mean)
    torch.testing.assert_close(space.decode(mean), images, atol=1e-5, rtol=1e-4)
    assert space.factor == 8


def test_a_draw_is_that_of_diffusers_with_the_same_noise():
    vae = vae_of()
    space = FrameLatents(vae)
    moments = space.moments(VIDEO)
    noise = torch.randn(2, 4, 5, 2, 3)
    shapes = []

    def draw(shape):
        shapes.append(shape)
        return noise

    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    expected = []
    for frame in range(5):
        posterior = DiagonalGaussianDistribution(moments[:, :, frame])
        expected.append((posterior.mean + posterior.std * noise[:, :, frame]) * vae.config.scaling_factor)
    torch.testing.assert_close(space.latent(moments, draw), torch.stack(expected, 2))
    assert shapes == [(4, 5, 2, 3)]
    mean = FrameLatents(vae, posterior="mean")
    assert torch.equal(mean.latent(moments, draw), space.latent(moments))


def test_a_tiny_autoencoder_has_no_posterior(tmp_path):
    vae = tiny().eval()
    vae.save_pretrained(tmp_path)
    space = FrameLatents(str(tmp_path))  # its own folder
    with torch.no_grad():
        expected = by_frame(lambda frame: vae.encode(frame).latents, VIDEO)
    torch.testing.assert_close(space.encode(VIDEO, lambda shape: torch.full((2, *shape), 9.0)), expected)
    assert isinstance(space.vae, AutoencoderTiny)


def test_a_real_autoencoder_of_ones_own(assets):
    space = FrameLatents(TAEF2(str(assets / "weights/taef2")))
    frame = from_uint8(read_video(assets / "videos/weizmann64/bend_s0.mp4", range(1)))[None]
    latent = space.encode(frame)
    assert latent.shape == (1, 32, 1, 8, 8)
    error = (space.decode(latent) - frame).square().mean() / 4
    assert -10 * error.log10() == pytest.approx(32.3, abs=0.1)  # as measured when the weights were collected


def test_a_module_of_ones_own_opens_from_its_folder(tmp_path):
    torch.manual_seed(6)
    vae = TAEF2()
    vae.save_pretrained(tmp_path)
    space = FrameLatents(str(tmp_path))
    assert isinstance(space.open() or space.vae, TAEF2)
    assert space.fingerprint == FrameLatents(vae).fingerprint


def test_the_folder_of_a_model_gives_its_vae(tmp_path):
    base = write_stable_diffusion(tmp_path / "sd")
    whole, part = FrameLatents(str(base)), FrameLatents(str(base / "vae"))
    assert isinstance(whole.open() or whole.vae, AutoencoderKL)
    assert whole.fingerprint == part.fingerprint == FrameLatents(vae_of()).fingerprint
    assert torch.equal(whole.encode(VIDEO), part.encode(VIDEO))
    others = [vae_of(seed=9), vae_of(scaling_factor=0.5), vae_of(shift_factor=0.5)]
    assert len({whole.fingerprint, *(FrameLatents(other).fingerprint for other in others)}) == 4


@pytest.mark.slow
def test_what_the_hubs_cache_holds_needs_no_network(tmp_path):
    """A VAE whose part alone was downloaded once, as we download it, in a process without network."""
    model, commit = tmp_path / "models--owner--sd", "0123456789" * 4
    vae_of().save_pretrained(model / "snapshots" / commit / "vae")
    (model / "refs").mkdir()
    (model / "refs/main").write_text(commit)
    code = "from cmd_lightning.latent_space import FrameLatents; print(FrameLatents('owner/sd').fingerprint)"
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    message = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert message.stdout.split()[-1:] == [FrameLatents(vae_of()).fingerprint], message.stderr
    cached = StableDiffusion("owner/sd", options={"cache_dir": tmp_path})
    assert cached.config("vae")["latent_channels"] == 4
    with pytest.raises(
        InputError, match=r"base owner/sd: there is no unet on the hub or in its cache; .* unet, vae, .*"
    ):
        cached.config("unet")


def test_half_precision_is_stored_and_not_computed_in(tmp_path):
    vae_of().half().save_pretrained(tmp_path, variant="fp16")
    space = FrameLatents(str(tmp_path), variant="fp16")
    assert space.encode(VIDEO).dtype == torch.float32
    torch.testing.assert_close(space.encode(VIDEO), FrameLatents(vae_of()).encode(VIDEO), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("storage", [torch.float8_e4m3fn, torch.float16])
def test_a_vae_under_layerwise_casting(storage):
    """Against the same VAE with the weights rounded by hand, which is all that the storage type may change."""
    rounded, cast = vae_of(), vae_of()
    cast.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
    stored = {name for name, weight in cast.named_parameters() if weight.dtype == storage}
    assert stored
    for name, weight in rounded.named_parameters():
        if name in stored:
            weight.data = weight.data.to(storage).float()
    wanted, found = FrameLatents(rounded), FrameLatents(cast)
    latent = wanted.encode(VIDEO)
    torch.testing.assert_close(found.encode(VIDEO), latent)
    torch.testing.assert_close(found.decode(latent), wanted.decode(latent))


@pytest.mark.parametrize("module", [False, True])
def test_a_space_can_be_built_from_its_description(tmp_path, module):
    vae = tiny()
    vae.save_pretrained(tmp_path)
    description = describe(FrameLatents(AutoencoderTiny.from_config(vae.config) if module else str(tmp_path)))
    again = build(description)
    assert description["init_args"]["chunk_size"] == 4
    if not module:
        assert again.fingerprint == FrameLatents(vae).fingerprint
    assert again.encode(VIDEO).shape == (2, 4, 5, 2, 3)


def test_what_cannot_be_used_is_reported(tmp_path):
    with pytest.raises(InputError, match=r"^latent_space.chunk_size 0: give at least 1 frame$"):
        FrameLatents("x", chunk_size=0)
    with pytest.raises(InputError, match="Conv2d does not record"):
        FrameLatents(nn.Conv2d(3, 3, 1))
    with pytest.raises(
        InputError, match=r"vae none/such: it is not a folder, and cannot be loaded from the hub .*sd2-comm"
    ):
        FrameLatents("none/such").open()
    with pytest.raises(InputError, match="there is no vae in this folder"):
        FrameLatents(str(tmp_path)).open()
    write_stable_diffusion(tmp_path / "sd")
    with pytest.raises(InputError, match="it holds a UNet2DConditionModel, which is no image autoencoder"):
        FrameLatents(str(tmp_path / "sd/unet")).open()
    weights = next((tmp_path / "sd/vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="vae cannot be opened"):
        FrameLatents(str(tmp_path / "sd")).open()
    with pytest.raises(InputError, match=r"videos of 16x25 pixels: height and width must be multiples of 8"):
        FrameLatents(vae_of()).encode(torch.zeros(1, 3, 2, 16, 25))
