"""The counter against sums by hand, and every network of the paper's set-ups against the counts derived from it."""

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn

import cmd_lightning
from benchmarks.counting import calls, main, read, table
from cmd_lightning.errors import InputError
from cmd_lightning.networks.attention import Attention, time_angles
from cmd_lightning.networks.counting import Count, count

CONFIGS = Path(cmd_lightning.__path__[0]).parent / "configs"


def test_linear_layers_and_convolutions_by_hand():
    # 2 x 5 rows of 7 numbers to 3; biases are additions.
    assert count(nn.Linear(7, 3), torch.zeros(2, 5, 7)) == Count(7 * 3 + 3, 2 * 5 * 7 * 3, 0)
    layer = nn.Conv2d(4, 6, (3, 2), stride=2)
    out = layer(torch.zeros(2, 4, 9, 8)).shape
    assert count(layer, torch.zeros(2, 4, 9, 8)) == Count(4 * 6 * 6 + 6, out.numel() * 4 * 3 * 2, 0)
    back = nn.ConvTranspose2d(4, 6, 2, stride=2)  # each point of the input meets the whole kernel
    assert count(back, torch.zeros(1, 4, 3, 5)).products == 3 * 5 * 4 * 6 * 2 * 2


@pytest.mark.parametrize("positions", [False, True])
def test_attention_by_hand(positions):
    batch, tokens, width, heads, head_dim = 3, 5, 24, 2, 8
    angles = (time_angles(tokens, head_dim, torch.device("meta")),) if positions else ()
    found = count(Attention(width, heads, head_dim), torch.zeros(batch, tokens, width), *angles)
    inner = heads * head_dim
    assert found.products == batch * tokens * width * inner * 4
    assert found.attention == batch * tokens**2 * inner * 2
    assert found.parameters == 4 * width * inner + width
    assert found.macs == found.products + found.attention


def test_attention_written_out_is_attention():
    q = torch.zeros(2, 4, 6, 8, device="meta")
    fused = count(nn.Identity(), q, call=lambda _, x: F.scaled_dot_product_attention(x, x, x))
    by_hand = count(nn.Identity(), q, call=lambda _, x: (x @ x.mT).softmax(-1) @ x)
    assert fused == by_hand == Count(0, 0, 2 * 2 * 4 * 6 * 6 * 8)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learned", [True, False])
def test_a_linear_layer_is_none_however_its_input_is_stored_in_memory(bias, learned):
    layer = nn.Linear(7, 3, bias=bias).requires_grad_(learned)
    with torch.no_grad():  # here torch itself makes a batched product of it
        found = count(layer, torch.zeros(7, 5, 2).permute(2, 1, 0))
    assert (found.products, found.attention) == (2 * 5 * 7 * 3, 0)


def test_a_count_leaves_the_network_and_its_inputs_alone():
    network = nn.BatchNorm1d(3)
    x = torch.randn(4, 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count(network, x)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.weight.device.type == x.device.type == "cpu"


def test_table():
    assert table({"a": Count(47_300_000, 773 * 10**9, 27 * 10**9)}).splitlines()[2] == "| a | 47.3 | 0.7730 | 0.8000 |"


@functools.cache
def networks(folder, size=None, **overrides):
    """The calls of a folder's networks, with files of configs/overrides by stage; at another size if one is given."""
    files = {stage: [CONFIGS / "overrides" / f"{name}.yaml"] for stage, name in overrides.items()}
    return calls(read(CONFIGS / folder, files | ({"cmd": [size]} if size else {})))


def autoencoder_blocks(depth, inner, width=384):
    """Two attentions and a gated feed-forward layer of four times the width a block, in encoder and decoder."""
    return 2 * depth * (2 * 4 * width * inner + 12 * width**2)


def dit_blocks(depth, width):
    """Attention 4, perceptron 8, modulation 6 times the width squared: "28 * 18 * 1152^2 = 0.669 B"."""
    return depth * 18 * width**2


def of_blocks(network):
    """Parameters of a network's blocks; of all of Stable Diffusion's U-Net, whose published number has them all."""
    whole = isinstance(network, UNet2DConditionModel)
    return sum(weight.numel() for name, weight in network.named_parameters() if whole or "blocks" in name.split("."))


MEASURED = {"autoencoder": "autoencoder_measured"}


@pytest.mark.parametrize(
    ("folder", "overrides", "stage", "parameters", "tmacs"),
    [
        ("ucf101", MEASURED, "autoencoder", autoencoder_blocks(8, 384), 0.773),
        pytest.param(
            *("webvid_sd15", MEASURED, "autoencoder", autoencoder_blocks(8, 384), 0.773), marks=pytest.mark.slow
        ),
        ("webvid_sd21", MEASURED, "autoencoder", autoencoder_blocks(8, 384), 1.546),
        ("openvid256", {}, "autoencoder", autoencoder_blocks(8, 384), 0.773 / 4),
        ("ucf101", {}, "autoencoder", autoencoder_blocks(12, 512), 1.314),
        pytest.param(*("webvid_sd15", {}, "autoencoder", autoencoder_blocks(12, 512), 1.314), marks=pytest.mark.slow),
        ("ucf101", {}, "content", dit_blocks(28, 1152), 28 * 12 * 1152**2 * 1024 / 1e12),
        ("ucf101", {"content": "content_dit_l"}, "content", dit_blocks(24, 1024), 24 * 12 * 1024**2 * 1024 / 1e12),
        ("ucf101", {}, "motion", dit_blocks(24, 1024), 0.155),
        ("webvid_sd15", {}, "content", 859_520_964, 0.339),
        ("webvid_sd21", {}, "content", 865_910_724, 0.676),
        ("webvid_sd15", {}, "motion", dit_blocks(28, 1152), 0.228),
        ("webvid_sd21", {}, "motion", dit_blocks(28, 1152), 0.228),
        ("webvid_sd15", {"motion": "content_patch_8"}, "motion", dit_blocks(28, 1152), 0.143),  # table 8: 320 tokens
    ],
    ids=lambda value: "+".join(value.values()) if isinstance(value, dict) else str(value),
)
def test_networks_of_the_paper(folder, overrides, stage, parameters, tmacs):
    """Within 1 %; of the multiply-adds those outside attention, which is what the paper's counter saw."""
    call = networks(folder, **overrides)[stage]
    assert of_blocks(call.network) == pytest.approx(parameters, rel=0.01)
    assert call.count().products / 1e12 == pytest.approx(tmacs, rel=0.01)


def tokens(network, call):
    """How many tokens the first block sees of a clip."""
    block = next(module for name, module in network.named_modules() if name.endswith("blocks.0"))
    seen = []
    hook = block.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1:-1].numel()))
    call.count()
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("folder", "content", "motion", "seen_by_autoencoder", "seen_by_motion"),
    [
        ("ucf101", (3, 64, 64), (8, 16, 64), 16_384, 256 + 256),
        ("webvid_sd15", (4, 64, 64), (8, 16, 64), 16_384, 256 + 256),
        ("webvid_sd21", (4, 64, 128), (8, 16, 96), 32_768, 384 + 128),
    ],
)
def test_shapes_and_tokens_of_the_paper(folder, content, motion, seen_by_autoencoder, seen_by_motion):
    found = networks(folder, **MEASURED)
    assert found["motion"].inputs[0].shape[1:] == motion
    assert found["motion"].inputs[2].shape[1:] == found["content"].inputs[0].shape[1:] == content
    assert tokens(found["autoencoder"].network.encoder, found["autoencoder"]) == seen_by_autoencoder
    assert tokens(found["motion"].network, found["motion"]) == seen_by_motion


@pytest.mark.parametrize(
    ("override", "stage", "changed"),
    [
        ("motion_channels_16", "autoencoder", lambda call: call["motion"].inputs[0].shape[1] == 16),
        ("mean_frame", "autoencoder", lambda call: not hasattr(call["autoencoder"].network, "content_head")),
        ("frames_24", "cmd", lambda call: call["motion"].inputs[0].shape[2] == 24),
        ("content_patch_16", "motion", lambda call: tokens(call["motion"].network, call["motion"]) == 256 + 16),
        ("content_patch_4", "motion", lambda call: tokens(call["motion"].network, call["motion"]) == 256 + 256),
    ],
)
def test_ablations_of_the_paper(override, stage, changed):
    assert changed(networks("ucf101", **{stage: override}))


@pytest.mark.parametrize("space", ["null", "{class_path: Pixels}"])
def test_overrides_may_take_the_latent_space_away(tmp_path, space):
    path = tmp_path / "pixels.yaml"
    path.write_text(f"model: {{init_args: {{latent_space: {space}, network: {{init_args: {{channels: 3}}}}}}}}")
    found = calls(read(CONFIGS / "openvid256", {"autoencoder": [path]}))
    assert found["autoencoder"].inputs[0].shape == (1, 3, 16, 256, 256)
    assert found["content"].inputs[0].shape == (1, 3, 256, 256)


def test_command_line(capsys, monkeypatch):
    override = CONFIGS / "overrides" / "autoencoder_measured.yaml"
    monkeypatch.setattr("sys.argv", ["counting", str(CONFIGS / "ucf101"), "-o", f"autoencoder={override}"])
    assert main() == 0
    assert "| autoencoder | 47.4 | 0.7733 | 0.98" in capsys.readouterr().out


def test_wrong_stages_and_files_are_reported(tmp_path):
    (tmp_path / "wrong.yaml").write_text("model: {init_args: {network: {init_args: {dept: 8}}}}")
    with pytest.raises(InputError, match=r"wrong.yaml: dept: there is no such option; did you mean depth\?"):
        read(CONFIGS / "ucf101", {"autoencoder": [tmp_path / "wrong.yaml"]})
    with pytest.raises(InputError, match=r"--override contents=.*: there is no such stage"):
        read(CONFIGS / "ucf101", {"contents": []})
    with pytest.raises(InputError, match=r"nowhere/autoencoder.yaml: there is no such config"):
        read(CONFIGS / "nowhere")
