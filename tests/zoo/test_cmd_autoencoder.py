"""The acceptance checks of the paper's autoencoder that need no data."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from cmd_lightning.errors import InputError
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder

SIZES = [(3, 5, 8, 12), (3, 1, 4, 6), (3, 24, 6, 4)]


def linear_macs(run):
    """Multiply-accumulates of linear and convolution layers; products inside attention are left out."""
    with FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts()["Global"]
    return sum(n for op, n in counts.items() if "bmm" not in str(op) and "attention" not in str(op)) / 2


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("weights", ["channel", "pixel", "mean"])
def test_content_lies_between_the_frames(tiny_autoencoder, shape, weights):
    network = tiny_autoencoder(weights=weights)
    video = torch.randn(2, *shape)
    content, motion = network.encode(video)
    assert content.shape == (2, *network.latent_spec(shape).content)
    assert motion.shape == (2, *network.latent_spec(shape).motion)
    assert motion.abs().max() <= 1
    assert (content >= video.amin(2) - 1e-6).all()
    assert (content <= video.amax(2) + 1e-6).all()
    assert network(video).shape == video.shape


def test_content_is_the_softmax_over_time_of_equation_3(tiny_autoencoder):
    network = tiny_autoencoder(weights="channel")
    head = network.content_head
    torch.nn.init.normal_(head.weight)
    video = torch.randn(1, 3, 5, 8, 12)
    features = {}
    network.encoder.register_forward_hook(lambda *call: features.update(u=call[2]))
    content, _ = network.encode(video)

    logits = torch.zeros(3, 5, 8, 12)
    for y in range(8):
        for x in range(12):
            u = features["u"][0, :, :, y // 2, x // 2]  # (C', T)
            logits[:, :, y, x] = head.weight[:, :, 0, y % 2, x % 2].T @ u + head.bias[:, None]
    weights = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(content[0], (weights * video[0]).sum(1), atol=1e-5, rtol=1e-5)
    assert (content - video.mean(2)).abs().max() > 0.1


def test_shared_weights_are_shared_by_the_channels(tiny_autoencoder):
    network = tiny_autoencoder(weights="pixel")
    torch.nn.init.normal_(network.content_head.weight)
    video = torch.randn(1, 1, 5, 8, 12).repeat(1, 3, 1, 1, 1)
    content, _ = network.encode(video)
    torch.testing.assert_close(content[:, 0], content[:, 2])
    assert (content - video.mean(2)).abs().max() > 0.1


@pytest.mark.parametrize("frames", [1, 5, 24])
def test_equal_logits_give_the_mean(tiny_autoencoder, frames):
    network = tiny_autoencoder()
    torch.nn.init.zeros_(network.content_head.weight)
    torch.nn.init.constant_(network.content_head.bias, 3.0)
    video = torch.randn(2, 3, frames, 8, 12)
    torch.testing.assert_close(network.encode(video)[0], video.mean(2))
    torch.testing.assert_close(tiny_autoencoder(weights="mean").encode(video)[0], video.mean(2))


def test_a_static_clip_gives_its_frame(tiny_autoencoder):
    frame = torch.randn(2, 3, 8, 12)
    content, _ = tiny_autoencoder().encode(frame[:, :, None].repeat(1, 1, 7, 1, 1))
    torch.testing.assert_close(content, frame, atol=1e-6, rtol=0)


def test_motion_is_the_mean_over_each_axis_rows_first(tiny_autoencoder):
    network = tiny_autoencoder()
    features = {}
    network.encoder.register_forward_hook(lambda *call: features.update(u=call[2]))
    _, motion = network.encode(torch.randn(2, 3, 5, 8, 12))
    u = features["u"]  # (B, C', T, 4, 6)
    for b in range(2):
        for t in range(5):
            for h in range(4):
                mean = sum(u[b, :, t, h, w] for w in range(6)) / 6
                slot = network.row_head.weight[:, :, 0, 0] @ mean + network.row_head.bias
                torch.testing.assert_close(motion[b, :, t, h], slot.tanh())
            for w in range(6):
                mean = sum(u[b, :, t, h, w] for h in range(4)) / 4
                slot = network.column_head.weight[:, :, 0, 0] @ mean + network.column_head.bias
                torch.testing.assert_close(motion[b, :, t, 4 + w], slot.tanh())


def decoder_input(network, content, motion):
    seen = {}
    handle = network.decoder.register_forward_pre_hook(lambda _, inputs: seen.update(v=inputs[0]))
    network.decode(content, motion)
    handle.remove()
    return seen["v"].detach()


def test_decoder_input_is_the_sum_of_equation_6(tiny_autoencoder):
    network = tiny_autoencoder()
    content, motion = torch.randn(1, 3, 8, 12), torch.randn(1, 3, 5, 10)
    v = decoder_input(network, content, motion)
    assert v.shape == (1, 16, 5, 4, 6)
    stem = network.content_stem
    for t in range(5):
        for h in range(4):
            for w in range(6):
                patch = content[0, :, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2].flatten()
                still = stem.weight.flatten(1) @ patch + stem.bias
                row = network.row_stem.weight[:, :, 0, 0] @ motion[0, :, t, h] + network.row_stem.bias
                column = network.column_stem.weight[:, :, 0, 0] @ motion[0, :, t, 4 + w] + network.column_stem.bias
                torch.testing.assert_close(v[0, :, t, h, w], still + row + column, atol=1e-5, rtol=1e-5)


def test_the_sum_of_equation_6_is_taken_in_one_order(tiny_autoencoder):
    """Rows, then columns: the last bits of a model's videos stay as they were."""
    network = tiny_autoencoder()
    content, motion = torch.randn(1, 3, 8, 12), torch.randn(1, 3, 5, 10)
    row, column = network.row_stem(motion[..., :4])[..., None], network.column_stem(motion[..., 4:])[..., None, :]
    total = (network.content_stem(content)[:, :, None] + row) + column
    assert torch.equal(decoder_input(network, content, motion), total)


def test_planes_are_constant_along_the_right_axes(tiny_autoencoder):
    network = tiny_autoencoder()
    content, motion = torch.randn(1, 3, 8, 12), torch.randn(1, 3, 5, 10)
    before = decoder_input(network, content, motion)

    moved = motion.clone()
    moved[:, :, 2, 1] += 1  # frame 2, row 1
    change = decoder_input(network, content, moved) - before
    torch.testing.assert_close(change[0, :, 2, 1], change[0, :, 2, 1, :1].expand(-1, 6), atol=1e-5, rtol=0)
    assert change[0, :, 2, 1].abs().amax(0).min() > 1e-3
    change[:, :, 2, 1] = 0
    assert change.abs().max() == 0

    moved = motion.clone()
    moved[:, :, 3, 4 + 5] += 1  # frame 3, column 5
    change = decoder_input(network, content, moved) - before
    torch.testing.assert_close(change[0, :, 3, :, 5], change[0, :, 3, :1, 5].expand(-1, 4), atol=1e-5, rtol=0)
    assert change[0, :, 3, :, 5].abs().amax(0).min() > 1e-3
    change[:, :, 3, :, 5] = 0
    assert change.abs().max() == 0

    moved = content.clone()
    moved[:, :, 2:4, 10:12] += 1  # the patch in row 1, column 5
    change = decoder_input(network, moved, motion) - before
    torch.testing.assert_close(change[0, :, :, 1, 5], change[0, :, :1, 1, 5].expand(-1, 5), atol=1e-5, rtol=0)
    change[:, :, :, 1, 5] = 0
    assert change.abs().max() == 0


@pytest.mark.parametrize("shape", SIZES)
def test_starts_as_the_mean_frame(shape):
    video = torch.randn(2, *shape)
    mean = video.mean(2, keepdim=True).expand_as(video)
    network = CMDAutoencoder(patch_size=2, width=16, depth=2, heads=2, head_dim=8, output="linear")
    content, motion = network.encode(video)
    torch.testing.assert_close(network.decode(content, motion), mean, atol=1e-5, rtol=1e-5)
    network.output = "tanh"
    torch.testing.assert_close(network.decode(content, motion), mean.tanh(), atol=1e-5, rtol=1e-5)


def test_motion_is_learned_from_the_first_steps():
    network = CMDAutoencoder(patch_size=2, width=16, depth=1, heads=2, head_dim=8, output="linear")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    video = torch.randn(2, 3, 5, 8, 12)
    for learning in ((network.row_stem, network.column_stem), (network.row_head, network.column_head)):
        optimizer.zero_grad()
        F.mse_loss(network(video), video).backward()
        assert all(layer.weight.grad.abs().max() > 0 for layer in learning)
        optimizer.step()


def test_checkpointed_gradients_are_equal(tiny_autoencoder):
    network = tiny_autoencoder(depth=2).train()
    video = torch.randn(2, 3, 3, 4, 6)
    calls = []
    network.encoder.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients():
        calls.clear()
        network.zero_grad()
        F.mse_loss(network(video), video).backward()
        return len(calls), [p.grad.clone() for p in network.parameters()]

    once, plain = gradients()
    network.enable_gradient_checkpointing()
    twice, recomputed = gradients()
    assert (once, twice) == (1, 2)
    torch.testing.assert_close(recomputed, plain)


def test_spec_of_a_video_that_is_not_square():
    spec = CMDAutoencoder(patch_size=2, width=16, depth=1, heads=2, head_dim=8).latent_spec((3, 5, 4, 6))
    assert (spec.content, spec.motion) == ((3, 4, 6), (8, 5, 5))
    kinds, places = zip(*spec.slots, strict=True)
    assert kinds == (0, 0, 1, 1, 1)
    assert places == pytest.approx((1 / 4, 3 / 4, 1 / 6, 3 / 6, 5 / 6))


@pytest.mark.parametrize(
    ("shape", "message"), [((4, 5, 8, 12), "3 channels"), ((3, 5, 7, 12), "7x12"), ((3, 5, 8, 11), "8x11")]
)
def test_videos_that_do_not_fit_are_reported(tiny_autoencoder, shape, message):
    with pytest.raises(InputError, match=message):
        tiny_autoencoder().latent_spec(shape)


@pytest.mark.parametrize(("width", "tera"), [(64, 0.773), (128, 1.546)])
def test_cost_and_size_are_the_papers(width, tera):
    """Table 8's 0.77 TMAC at 512x512 and the constant 1.55 of table 9 at 512x1024, as linear layers alone."""
    with torch.device("meta"):
        network = CMDAutoencoder(channels=4, patch_size=2, width=384, depth=8, heads=8, head_dim=48, output="linear")
        video = torch.empty(1, 4, 16, 64, width)
    macs = linear_macs(lambda: network(video))
    assert macs / 1e12 == pytest.approx(tera, abs=0.001)

    tokens, d = 16 * 32 * width // 2, 384
    transformers = 2 * 8 * tokens * 20 * d**2  # two attentions of 4 d² and a gated feed-forward of 12 d², each token
    patches = 3 * tokens * 16 * d + tokens // 16 * 16 * d  # patchify, frame weights, unpatchify; the content frame's
    slots = 2 * 16 * (32 + width // 2) * 8 * d
    assert macs == transformers + patches + slots

    block = 2 * (4 * d**2 + d) + (8 * d**2 + 8 * d) + (4 * d**2 + d) + 3 * 2 * d
    ends = 2 * (16 * d + d) + 2 * (16 * d + 4) + 2 * (8 * d + 8) + 2 * (8 * d + d)
    assert sum(p.numel() for p in network.parameters()) == 2 * 8 * block + ends


def test_defaults_are_those_of_table_5():
    config = CMDAutoencoder.__init__.__wrapped__.__defaults__
    assert config == (3, 2, 384, 8, 12, 8, 64, True, False, "channel", "tanh", 0.0, 1, False)


@pytest.mark.parametrize("name", ["channels", "patch_size", "width", "motion_channels", "depth", "heads", "head_dim"])
@pytest.mark.parametrize("value", [0, -2])
def test_sizes_are_positive(name, value):
    with pytest.raises(InputError, match=f"^{name} {value}: must be at least 1; give a greater whole number$"):
        CMDAutoencoder(**{"width": 16, "depth": 1, "heads": 2, "head_dim": 8, name: value})


def test_heads_need_not_divide_the_width():
    network = CMDAutoencoder(patch_size=2, width=10, depth=1, heads=3, head_dim=8)
    assert network(torch.randn(1, 3, 2, 4, 6)).shape == (1, 3, 2, 4, 6)
