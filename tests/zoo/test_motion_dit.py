import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cmd_lightning.networks import Condition, LatentSpec
from cmd_lightning.networks.dit import DiTBlock
from cmd_lightning.networks.embeddings import coordinates_embedding
from cmd_lightning.zoo.motion.dit import MotionDiT


def spec_of(content, motion):
    return LatentSpec(content, motion, tuple((0.0, i / motion[2]) for i in range(motion[2])))


SPEC = spec_of((3, 8, 12), (3, 5, 10))


def make(spec=SPEC, condition_dim=6, **settings):
    return MotionDiT(spec, condition_dim, **{"width": 16, "depth": 2, "heads": 2, "content_patch_size": 4} | settings)


def inputs(spec=SPEC, batch=2, condition_dim=6):
    condition = Condition(torch.randn(batch, condition_dim)) if condition_dim else None
    timestep = torch.tensor([3, 950])[:batch]
    return torch.randn(batch, *spec.motion), timestep, torch.randn(batch, *spec.content), condition


def test_patches_are_cut_and_put_together_in_place(wake):
    """Without blocks each patch is mapped by itself: the whole network written out, patch by patch."""
    spec = spec_of((3, 8, 12), (2, 6, 4))
    network = wake(make(spec, 0, depth=0), 0.5)
    motion, timestep, content, _ = inputs(spec, 1, 0)
    output = network.predict(motion, timestep, content, None)

    signal = network.timestep(timestep)[0]
    shift, scale = (network.modulation[1].weight @ F.silu(signal) + network.modulation[1].bias).chunk(2)
    for i in range(3):
        for j in range(2):
            patch = motion[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten()
            token = network.motion_stem.weight.flatten(1) @ patch + network.motion_stem.bias
            token = token + coordinates_embedding(torch.tensor([[float(i), float(j)]]), 16)[0]
            normed = (token - token.mean()) / (token.var(unbiased=False) + 1e-6).sqrt()
            said = network.head.weight @ (normed * (1 + scale) + shift) + network.head.bias
            torch.testing.assert_close(
                output[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], said.view(2, 2, 2), atol=1e-5, rtol=1e-5
            )


def test_block_is_adaptive_norms_around_attention_and_perceptron(wake):
    block = wake(DiTBlock(8, 2, 4.0), 0.3)
    x, signal = torch.randn(2, 7, 8), torch.randn(2, 8)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(block.attention.qkv.weight)
        attention.in_proj_bias.copy_(block.attention.qkv.bias)
        attention.out_proj.weight.copy_(block.attention.out.weight)
        attention.out_proj.bias.copy_(block.attention.out.bias)
    parts = F.linear(F.silu(signal), block.modulation[1].weight, block.modulation[1].bias).view(2, 6, 1, 8)
    shift1, scale1, gate1, shift2, scale2, gate2 = parts.unbind(1)
    h = F.layer_norm(x, (8,), eps=1e-6) * (1 + scale1) + shift1
    y = x + gate1 * attention(h, h, h, need_weights=False)[0]
    h = F.layer_norm(y, (8,), eps=1e-6) * (1 + scale2) + shift2
    expected = y + gate2 * block.mlp[2](F.gelu(block.mlp[0](h), approximate="tanh"))
    torch.testing.assert_close(block(x, signal), expected)


def test_odd_sizes_are_padded_with_their_last_values(wake):
    odd = spec_of((3, 7, 9), (3, 5, 9))
    network = wake(make(odd))
    motion, timestep, content, condition = inputs(odd)
    rows, slots = torch.arange(6).clamp_max(4), torch.arange(10).clamp_max(8)
    below, right = torch.arange(8).clamp_max(6), torch.arange(12).clamp_max(8)
    whole = network.predict(motion[:, :, rows][..., slots], timestep, content[:, :, below][..., right], condition)
    torch.testing.assert_close(network.predict(motion, timestep, content, condition), whole[:, :, :5, :9])


@pytest.mark.parametrize(("tokens", "content_patch", "tera"), [(320, 8, 0.143), (512, 4, 0.228)])
def test_cost_and_size_are_the_papers(tokens, content_patch, tera):
    """DiT-XL/2 at 512x512: table 8's 0.14 TMAC with 8x8 patches of the content frame, 0.228 with table 6's 4x4."""
    spec = spec_of((4, 64, 64), (8, 16, 64))
    with torch.device("meta"):
        network = MotionDiT(spec, 1024, content_patch_size=content_patch)
        call = (
            torch.empty(1, 8, 16, 64),
            torch.empty(1),
            torch.empty(1, 4, 64, 64),
            Condition(torch.empty(1, 1024)),
        )
    lengths = []
    network.blocks[0].register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    with FlopCounterMode(display=False) as counter:
        network.predict(*call)
    counts = counter.get_flop_counts()["Global"]
    macs = sum(n for op, n in counts.items() if "bmm" not in str(op) and "attention" not in str(op)) / 2
    assert lengths == [tokens]
    assert macs / 1e12 == pytest.approx(tera, abs=0.001)

    d, depth = 1152, 28
    assert macs == pytest.approx(depth * 12 * d**2 * tokens, rel=0.005)  # what is left is stems, head and modulation
    block = (4 * d**2 + 4 * d) + (8 * d**2 + 5 * d) + (6 * d**2 + 6 * d)
    stems = 8 * 4 * d + d + 4 * content_patch**2 * d + d
    signal = 256 * d + d + d**2 + d + 1024 * d + d
    ends = 2 * d**2 + 2 * d + 32 * d + 32
    assert sum(p.numel() for p in network.parameters()) == depth * block + stems + signal + ends
