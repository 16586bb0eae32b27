"""What is particular to each motion model that is not the paper's."""

import pytest
import torch
import torch.nn.functional as F

from cmd_lightning.networks import Condition, LatentSpec
from cmd_lightning.networks.attention import Attention
from cmd_lightning.networks.counting import count
from cmd_lightning.zoo.motion.cached import CachedAttention, CachedDiT
from cmd_lightning.zoo.motion.factorised import AxisAttention
from cmd_lightning.zoo.motion.linear import LinearAttention, linear_attention
from cmd_lightning.zoo.motion.mixer import MotionMixer
from cmd_lightning.zoo.motion.unet import PlanesUNet, plane_indices

SPEC = LatentSpec((3, 8, 12), (3, 5, 5), tuple([(0.0, i / 2) for i in range(2)] + [(1.0, i / 3) for i in range(3)]))


@pytest.mark.parametrize("over_time", [True, False])
def test_factorised_attention_is_attention_to_the_own_row_or_column_alone(over_time):
    """Full attention, with all weights that join other times and other slots set to zero."""
    frames, slots, heads = 4, 3, 2
    attention = AxisAttention(8, heads, slots, over_time)
    x = torch.randn(2, frames * slots, 8)
    token = torch.arange(frames * slots)
    group = token % slots if over_time else token // slots
    q, k, v = attention.qkv(x).unflatten(-1, (3, heads, 4)).permute(2, 0, 3, 1, 4)
    allowed = F.scaled_dot_product_attention(q, k, v, attn_mask=group[:, None] == group)
    torch.testing.assert_close(attention(x), attention.out(allowed.transpose(1, 2).flatten(2)))


def test_linear_attention_is_the_attention_with_the_whole_matrix_of_weights():
    q, k, v = (torch.randn(2, 3, 7, 4) for _ in range(3))
    weights = torch.einsum("bhnc,bhmc->bhnm", q.softmax(-1), k.softmax(-2))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 7))
    torch.testing.assert_close(linear_attention(q, k, v), torch.einsum("bhnm,bhmc->bhnc", weights, v))


def test_linear_attention_is_linear_in_the_tokens_and_looks_at_neighbours_in_time():
    attention = LinearAttention(16, 2, slots=3)
    one, two = (count(attention, torch.empty(1, 12 * times, 16)).macs for times in (1, 2))
    assert two == 2 * one
    full = Attention(16, 2, 8)
    one, two = (count(full, torch.empty(1, 12 * times, 16)).macs for times in (1, 2))
    assert two > 2 * one

    for weight in (attention.qkv.weight, attention.out.weight):  # values pass as they are, attention is even
        torch.nn.init.zeros_(weight)
    attention.qkv.weight.data[32:], attention.out.weight.data[:] = torch.eye(16), torch.eye(16)
    x = torch.zeros(1, 12, 16, requires_grad=True)  # 4 times of 3 slots
    spread = torch.autograd.functional.jacobian(attention, x).abs().sum((0, 2, 3, 5))  # from each to each
    near = torch.tensor([abs(i // 3 - j // 3) <= 1 and i % 3 == j % 3 for i in range(12) for j in range(12)])
    assert spread.flatten()[near].min() > spread.flatten()[~near].max()


def test_the_mixer_has_no_attention():
    network = MotionMixer(SPEC, 0, width=16, depth=2, tokens_width=8)
    inputs = torch.empty(1, 3, 5, 5), torch.empty(1), torch.empty(1, 3, 8, 12), None
    counted = count(network, *inputs, call=lambda model, *call: model.predict(*call))
    assert counted.attention == 0
    assert counted.products > 0


def test_planes_are_runs_of_one_kind_made_equally_long():
    planes, places = plane_indices(SPEC, 4)
    assert planes.tolist() == [[0, 1, 1, 1], [2, 3, 4, 4]]
    assert planes.flatten()[places].tolist() == [0, 1, 2, 3, 4]
    grid = LatentSpec((3, 8, 8), (1, 1, 4), tuple((2.0, y, x) for y in (0.25, 0.75) for x in (0.25, 0.75)))
    planes, places = plane_indices(grid, 2)
    assert planes.tolist() == [[0, 1, 2, 3]] and places.tolist() == [0, 1, 2, 3]


def test_planes_hear_of_each_other_frame_by_frame(wake):
    """By the mean over a frame alone: with one block and no other level, and without group norms."""
    network = wake(PlanesUNet(SPEC, 0, width=8, multipliers=(1,), blocks=1))
    for part in network.modules():
        for name, child in part.named_children():
            if isinstance(child, torch.nn.GroupNorm):
                setattr(part, name, torch.nn.Identity())
    motion, content = torch.randn(1, 3, 9, 5), torch.randn(1, 3, 8, 12)
    moved = motion.clone()
    moved[:, :, 0, 0] += 1  # a row
    before, after = (network.predict(latent, torch.tensor([5]), content, None) for latent in (motion, moved))
    change = (after - before).abs()
    columns = change[0, :, :, 2:].sum((0, 2))
    assert columns[0] > 1e-4
    assert columns[6:].max() < 1e-6


def cached(depth=2, content_depth=2):
    return CachedDiT(SPEC, 16, width=16, depth=depth, heads=2, content_patch_size=2, content_depth=content_depth)


def test_cached_attention_is_attention_of_the_motion_tokens_in_the_joint_sequence():
    attention = CachedAttention(8, 2, 4, qkv_bias=True)
    motion, content = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    q, k, v = attention.qkv(torch.cat([motion, content], 1)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    joint = F.scaled_dot_product_attention(q, k, v)[:, :, :5].transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(motion, k[:, :, 5:], v[:, :, 5:]), attention.out(joint))


def test_a_step_with_what_is_cached_costs_less_however_deep_the_content_goes():
    def macs(content_depth, prepared):
        network = cached(content_depth=content_depth)
        content = torch.empty(1, 3, 8, 12)
        given = network.prepare(content).detach() if prepared else content
        call = [torch.empty(1, 3, 5, 5), torch.empty(1), given, torch.empty(1, 16)]
        method = "forward" if prepared else "predict"
        return count(
            network, *call, call=lambda model, *parts: getattr(model, method)(*parts[:3], Condition(parts[3]))
        ).macs

    assert macs(1, True) == macs(4, True) < macs(1, False) < macs(4, False)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_sampling_reads_the_content_once(tiny_pipeline, wake, guidance):
    pipeline = tiny_pipeline()
    spec = pipeline.autoencoder.latent_spec(pipeline.config.video_shape)
    network = wake(CachedDiT(spec, 16, width=16, depth=1, heads=2, content_depth=1), 0.3)
    pipeline.register_modules(motion_model=network)
    content = torch.randn(2, *spec.content)
    calls = []
    network.content_blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))

    def generate():
        calls.clear()
        return pipeline.generate_motion(content, ["a", "b"], seeds=[0, 1], steps=4, guidance=guidance), len(calls)

    once, count_once = generate()
    prepare, forward = network.prepare, network.forward  # as of a model that prepares nothing
    network.prepare = lambda frames: frames
    network.forward = lambda motion, timestep, frames, condition: forward(motion, timestep, prepare(frames), condition)
    again, count_again = generate()
    assert (count_once, count_again) == (1, 4)
    torch.testing.assert_close(once, again)
