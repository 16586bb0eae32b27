"""The contract that every baseline keeps, and what the wrappers of diffusers' networks add to it."""

import json
import re

import pytest
import torch
from diffusers import (
    LatteTransformer3DModel,
    LTXVideoTransformer3DModel,
    MotionAdapter,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetMotionModel,
)

from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, LatentSpec, VideoDenoiser
from cmd_lightning.networks.classes import build, describe
from cmd_lightning.networks.counting import count
from cmd_lightning.zoo.baselines.animatediff import AnimateDiff
from cmd_lightning.zoo.baselines.latte import Latte
from cmd_lightning.zoo.baselines.ltx import LTX, latent_shape
from cmd_lightning.zoo.baselines.lvdm import LVDM
from cmd_lightning.zoo.baselines.modelscope import ModelScope
from cmd_lightning.zoo.baselines.pvdm import TriplaneUNet

K = 12  # channels of the condition
VIDEO = (3, 5, 6, 10)
SPEC = LatentSpec((3, 2, 3), (3, 5, 4), ((0.0, 0.2), (0.0, 0.7), (1.0, 0.3), (1.0, 0.8)))
TRANSFORMER = {"num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16, "num_layers": 1}
UNET = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}


def levels(kind):
    return {
        "down_block_types": (f"CrossAttnDownBlock{kind}", f"DownBlock{kind}"),
        "up_block_types": (f"UpBlock{kind}", f"CrossAttnUpBlock{kind}"),
    }


SETTINGS = {
    ModelScope: UNET | levels("3D") | {"attention_head_dim": 4},
    AnimateDiff: UNET | levels("Motion") | {"num_attention_heads": 2, "motion_num_attention_heads": 2},
    Latte: TRANSFORMER,
    LTX: TRANSFORMER,
}
OWN = {
    LVDM: {"width": 8, "multipliers": (1, 2), "layers": 1, "heads": 2},
    TriplaneUNet: {"width": 8, "multipliers": (1, 2), "layers": 1, "heads": 2, "attention_from_level": 0},
}
WRAPPERS = pytest.mark.parametrize("kind", SETTINGS)
ALL = pytest.mark.parametrize("kind", [*SETTINGS, *OWN])


def small(kind, condition_dim=K):
    if kind in OWN:
        return kind(SPEC if kind is TriplaneUNet else VIDEO, condition_dim, **OWN[kind])
    return kind(VIDEO, condition_dim, settings=SETTINGS[kind])


def inputs(kind, batch=2):
    latent = torch.randn(batch, *VIDEO) if kind is not TriplaneUNet else torch.randn(batch, 3, 2 * 3 + 5 * 4)
    mask = torch.ones(batch, 4, dtype=torch.bool)
    mask[0, 2:] = False
    return latent, torch.tensor([30, 700])[:batch], Condition(torch.randn(batch, K), torch.randn(batch, 4, K), mask)


def differ(a, b):
    return (a - b).abs().amax(dim=tuple(range(1, a.ndim))) > 1e-5


@ALL
@torch.no_grad()
def test_every_input_matters_and_samples_do_not_mix(kind, wake):
    network = wake(small(kind))
    assert isinstance(network, VideoDenoiser)
    latent, timestep, condition = inputs(kind)
    out = network(latent, timestep, condition)
    assert out.shape == latent.shape
    second = torch.tensor([False, True])
    far = latent.clone()
    far[1].flatten()[-1] += 5
    assert torch.equal(differ(network(far, timestep, condition), out), second)
    assert torch.equal(differ(network(latent, torch.tensor([30, 100]), condition), out), second)
    other = Condition(condition.pooled.clone(), condition.tokens.clone(), condition.mask)
    other.pooled[1] += 3
    other.tokens[1] += torch.randn(4, K)
    assert torch.equal(differ(network(latent, timestep, other), out), second)


@ALL
@torch.no_grad()
def test_pooled_condition_alone_and_none(kind, wake):
    latent, timestep, condition = inputs(kind)
    network = wake(small(kind))
    pooled = Condition(condition.pooled)
    one_token = Condition(condition.pooled, condition.pooled[:, None])
    torch.testing.assert_close(network(latent, timestep, pooled), network(latent, timestep, one_token))
    unconditional = wake(small(kind, 0))
    out = unconditional(latent, timestep, None)
    assert out.shape == latent.shape and out.std() > 0


@ALL
@torch.no_grad()
def test_comes_back_from_folder_and_description(kind, wake, tmp_path):
    network = wake(small(kind))
    given = inputs(kind)
    network.save_pretrained(tmp_path)
    assert torch.equal(kind.from_pretrained(tmp_path)(*given), network(*given))
    again = build(json.loads(json.dumps(describe(network))))
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(*given), network(*given))


@ALL
@torch.no_grad()
def test_half_precision_takes_a_condition_in_full(kind, wake):
    network = wake(small(kind))
    latent, timestep, condition = inputs(kind)
    expected = network(latent, timestep, condition)
    out = network.bfloat16()(latent.bfloat16(), timestep, condition)
    assert out.dtype == torch.bfloat16
    assert (out - expected).abs().mean() < 0.1 * expected.std()


@pytest.mark.parametrize("kind", OWN)
@torch.no_grad()
def test_own_networks_start_at_zero(kind):
    assert not small(kind)(*inputs(kind)).any()


@pytest.mark.parametrize("kind", [AnimateDiff, Latte, LTX, *OWN])
def test_recomputing_activations_changes_no_gradient(kind, wake):
    network = wake(small(kind)).train()
    given = inputs(kind)

    def gradients():
        network.zero_grad()
        network(*given).square().sum().backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    plain = gradients()
    network.enable_gradient_checkpointing()
    torch.testing.assert_close(gradients(), plain)


@torch.no_grad()
def stock_says(kind, stock, latent, timestep, condition):
    """What the stock network says when it is called as its pipeline in diffusers calls it."""
    text = condition.tokens
    frames, height, width = latent.shape[2:]
    if kind is ModelScope:
        return stock(latent, timestep, encoder_hidden_states=text).sample
    if kind is AnimateDiff:
        return stock(latent, timestep, encoder_hidden_states=text.repeat_interleave(frames, 0)).sample
    if kind is Latte:
        text = text * condition.mask[:, :, None]
        return stock(latent, timestep, encoder_hidden_states=text).sample.chunk(2, dim=1)[0]
    tokens = latent.permute(0, 2, 3, 4, 1).reshape(len(latent), -1, latent.shape[1])
    out = stock(
        tokens,
        encoder_hidden_states=text,
        timestep=timestep,
        encoder_attention_mask=condition.mask,
        num_frames=frames,
        height=height,
        width=width,
        rope_interpolation_scale=(8 / 25, 32, 32),
    ).sample
    return out.reshape(len(latent), frames, height, width, -1).permute(0, 4, 1, 2, 3)


@WRAPPERS
@torch.no_grad()
def test_says_what_the_stock_network_says(kind, wake):
    network = wake(small(kind))
    given = inputs(kind)
    torch.testing.assert_close(network(*given), stock_says(kind, network.stock, *given))


@pytest.mark.parametrize("whole", [False, True], ids=["alone", "pipeline"])
@WRAPPERS
@torch.no_grad()
def test_opens_the_stock_network_of_a_folder(kind, whole, wake, tmp_path):
    stock = wake(small(kind)).stock
    stock.save_pretrained(tmp_path / kind.part if whole else tmp_path)
    network = kind.from_pretrained(tmp_path, latent=VIDEO)
    assert type(network) is kind and not network.training
    assert (network.config.latent, network.config.condition_dim) == (VIDEO, K)
    given = inputs(kind)
    assert torch.equal(network(*given), small_again(kind, stock)(*given))
    network.save_pretrained(tmp_path / "own")
    assert torch.equal(kind.from_pretrained(tmp_path / "own")(*given), network(*given))
    assert kind.from_pretrained(tmp_path).config.latent[0] == 3


@WRAPPERS
@torch.no_grad()
def test_opens_own_network_as_a_part_of_what_the_hubs_cache_holds(kind, wake, tmp_path):
    network = wake(small(kind))
    cached, commit = tmp_path / "models--owner--some", "0123456789" * 4
    network.save_pretrained(cached / "snapshots" / commit / kind.part)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(commit)
    opened = kind.from_pretrained("owner/some", cache_dir=tmp_path, torch_dtype=torch.float64)
    assert type(opened) is kind and opened.dtype == torch.float64
    assert torch.equal(next(opened.parameters()), next(network.parameters()).double())
    assert torch.equal(
        next(kind.from_pretrained(cached / "snapshots" / commit).parameters()), next(network.parameters())
    )
    with pytest.raises(InputError, match=r"owner/some: it is not a folder, .* not in the cache, and local_files_only"):
        kind.from_pretrained("owner/some", cache_dir=tmp_path / "empty", local_files_only=True)
    other = next(other for other in SETTINGS if other.part != kind.part)
    with pytest.raises(InputError, match=rf"owner/some: there is no config.json in it; .*has it as {other.part}"):
        other.from_pretrained("owner/some", cache_dir=tmp_path)


def small_again(kind, stock):
    network = small(kind).eval()
    network.stock.load_state_dict(stock.state_dict())
    return network


@torch.no_grad()
def test_animatediff_is_stable_diffusion_with_motion_modules(wake, tmp_path):
    image = wake(
        UNet2DConditionModel(
            in_channels=3, out_channels=3, cross_attention_dim=K, attention_head_dim=2, **UNET | levels("2D")
        )
    )
    motion = wake(
        MotionAdapter(
            UNET["block_out_channels"],
            motion_layers_per_block=1,
            motion_num_attention_heads=2,
            motion_norm_num_groups=4,
        )
    )
    image.save_pretrained(tmp_path / "sd" / "unet")
    motion.save_pretrained(tmp_path / "motion")
    network = AnimateDiff.from_pretrained(tmp_path / "sd", latent=VIDEO, motion=tmp_path / "motion")
    given = inputs(AnimateDiff)
    stock = UNetMotionModel.from_unet2d(image, motion).eval()
    torch.testing.assert_close(network(*given), stock_says(AnimateDiff, stock, *given))
    own = dict(network.stock.named_parameters())
    assert torch.equal(own["conv_in.weight"], image.conv_in.weight)
    assert any(torch.equal(value, next(motion.parameters())) for value in own.values())
    with pytest.raises(InputError, match=r"unet: it holds a UNet2DConditionModel; give a folder .* of MotionAdapter$"):
        AnimateDiff.from_pretrained(tmp_path / "sd", motion=tmp_path / "sd" / "unet")
    MotionAdapter((8, 16, 16), 1, motion_num_attention_heads=2, motion_norm_num_groups=4).save_pretrained(
        tmp_path / "other"
    )
    with pytest.raises(InputError, match=r"^latent \(4, 5, 6, 10\): AnimateDiff, .* has 3 channels, not 4"):
        AnimateDiff.from_pretrained(tmp_path / "sd", latent=(4, *VIDEO[1:]), motion=tmp_path / "motion")
    with pytest.raises(InputError, match=r"motion .*other: it does not fit the U-Net of .*sd \(.*\); give a Stable"):
        AnimateDiff.from_pretrained(tmp_path / "sd", motion=tmp_path / "other")


def test_what_cannot_be_opened_is_reported(tmp_path, wake):
    def says(message, kind=ModelScope, name=tmp_path):
        with pytest.raises(InputError, match=message) as caught:
            kind.from_pretrained(name)
        assert "\n" not in str(caught.value)

    says("there is no config.json in it; give a folder or hub id of ModelScope or UNet3DConditionModel, or of a pip")
    says("nowhere: there is no such folder, and a hub id is OWNER/NAME", name="nowhere")
    says(
        r"some/where: it is not a folder, and cannot be loaded from the hub \(.*\); give a folder in diffusers' layout",
        name="some/where",
    )
    small(AnimateDiff).stock.save_pretrained(tmp_path / "unet")
    says(f"{re.escape(str(tmp_path))}: it holds a UNetMotionModel; give a folder or hub id of ModelScope or UNet3DCond")
    small(Latte).save_pretrained(tmp_path / "latte")
    says("it holds a Latte; give a folder or hub id of LTX", LTX, tmp_path / "latte")
    small(LTX).stock.save_pretrained(tmp_path / "transformer")
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    says(r"transformer cannot be opened \(.*\); check the folder", LTX)


def test_settings_that_do_not_fit_are_reported():
    with pytest.raises(InputError, match=r"settings .*widht.*UNet3DConditionModel of diffusers does not take them"):
        ModelScope(VIDEO, K, {"widht": 3})
    with pytest.raises(
        InputError, match="latents of 6x7 points: height and width must be multiples of its patch_size 2"
    ):
        Latte((3, 5, 6, 7), K, TRANSFORMER)


@pytest.mark.parametrize(
    "settings",
    [
        {"norm_num_groups": 3},
        {"norm_num_groups": 0},
        {"attention_head_dim": 0},
        {"block_out_channels": (8,)},
        {"block_out_channels": ()},
        {"down_block_types": ("DownBlock", "DownBlock")},
        {"act_fn": "none"},
    ],
    ids=str,
)
def test_settings_that_the_stock_class_refuses_are_reported(settings):
    with pytest.raises(InputError, match="of diffusers does not take them") as caught:
        ModelScope(VIDEO, K, SETTINGS[ModelScope] | settings)
    assert "\n" not in str(caught.value)


def refused(kind, latent, folder):
    with pytest.raises(InputError, match=r"^latent ") as caught:
        kind.from_pretrained(folder, latent=latent)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("own", [False, True], ids=["stock", "own"])
@WRAPPERS
@torch.no_grad()
def test_latents_that_a_folder_does_not_take_are_reported(kind, own, wake, tmp_path):
    network = wake(small(kind, 0))
    (network if own else network.stock).save_pretrained(tmp_path)
    said = refused(kind, (9, *VIDEO[1:]), tmp_path)
    assert said == (
        f"latent (9, 5, 6, 10): {kind.__name__}, as it is set or opened, has 3 channels, not 9; give (3, 5, 6, 10)"
    )
    assert "give a shape (C, T, H, W), each at least 1" in refused(kind, VIDEO[:3], tmp_path)
    assert "give a shape (C, T, H, W)" in refused(kind, (3, 0, 6, 10), tmp_path)
    if kind is Latte:
        assert refused(kind, (3, 16, 6, 10), tmp_path).endswith("takes 5 frames, not 16; give (3, 5, 6, 10)")
    if kind is AnimateDiff:
        assert refused(kind, (3, 33, 6, 10), tmp_path).endswith("takes up to 32 frames, not 33; give (3, 32, 6, 10)")
    fitting = (3, 5, 8, 12)
    opened = kind.from_pretrained(tmp_path, latent=fitting)
    assert opened.config.latent == fitting and opened.condition_dim == (0 if own else 8)
    assert opened(torch.randn(1, *fitting), torch.tensor([30]), None).shape == (1, *fitting)


def test_latents_that_settings_do_not_take_are_reported():
    with pytest.raises(InputError, match="ModelScope, as it is set or opened, has 4 channels, not 3"):
        ModelScope(VIDEO, K, SETTINGS[ModelScope] | {"in_channels": 4})


def test_latents_of_ltx():
    assert latent_shape((3, 17, 512, 1024)) == (128, 3, 16, 32)
    assert latent_shape((3, 1, 32, 64)) == (128, 1, 1, 2)
    for wrong in ((3, 16, 512, 512), (3, 17, 500, 512), (3, 17, 512, 500)):
        with pytest.raises(InputError, match=r"it takes 1 \+ 8n frames and sides that are multiples of 32"):
            latent_shape(wrong)


PUBLISHED = {  # parameters in millions; TMACs without and with the products of attention, at 512 x 1024
    ModelScope: (UNet3DConditionModel, (4, 16, 64, 128), 1024, 77, 1411.2, 18.75, 22.76),
    AnimateDiff: (UNetMotionModel, (4, 16, 64, 128), 768, 77, 1312.7, 15.7, 19.7),
    Latte: (LatteTransformer3DModel, (4, 16, 64, 128), 4096, 120, 1057.2, 31.8, 36.4),
    LTX: (LTXVideoTransformer3DModel, (128, 3, 16, 32), 4096, 128, 1923.4, 2.56, 2.85),
}


@WRAPPERS
def test_defaults_are_the_published_models(kind):
    stock, latent, channels, _, parameters, _, _ = PUBLISHED[kind]
    with torch.device("meta"):
        network = kind(latent, channels)
    assert type(network.stock) is stock
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(parameters, abs=0.1)


@pytest.mark.slow
@WRAPPERS
def test_defaults_cost_what_the_published_models_do(kind):
    _, latent, channels, length, _, products, macs = PUBLISHED[kind]
    with torch.device("meta"):
        condition = Condition(torch.empty(1, channels), torch.empty(1, length, channels))
        found = count(kind(latent, channels).eval(), torch.empty(1, *latent), torch.zeros(1), condition)
    assert found.products / 1e12 == pytest.approx(products, abs=0.02)
    assert found.macs / 1e12 == pytest.approx(macs, abs=0.05)
