"""Every content frame that the autoencoders offer, over both layouts of motion: contract, start, and an overfit."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from cmd_lightning.errors import InputError
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
from cmd_lightning.zoo.autoencoders.grid import GridAutoencoder

SMALL = {"patch_size": 2, "width": 16, "motion_channels": 3, "depth": 1, "heads": 2, "head_dim": 8, "output": "linear"}
SHAPE = (3, 6, 8, 12)
FRAMES = ["channel", "pixel", "patch", "frame", "mean", "first", "middle"]
LAYOUTS = {
    "axes": partial(CMDAutoencoder, **SMALL),
    "grid": partial(GridAutoencoder, **SMALL, grid=(4, 6)),
    "coarse grid": partial(GridAutoencoder, **SMALL, grid=(2, 3), motion_stride=2),
    "axes, fewer frames": partial(CMDAutoencoder, **SMALL, motion_stride=3),
    "grid, warped": partial(GridAutoencoder, **SMALL, grid=(4, 6), warp=True),
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


@pytest.mark.parametrize("residual", [0.0, 0.25])
@pytest.mark.parametrize("weights", FRAMES)
def test_contract(layout, weights, residual, wake, tmp_path):
    network = wake(layout(weights=weights, residual=residual))
    video = torch.randn(2, *SHAPE)
    content, motion = network.encode(video)
    spec = network.latent_spec(SHAPE)
    assert (content.shape[1:], motion.shape[1:]) == (spec.content, spec.motion)
    assert network.decode(content, motion).shape == video.shape
    assert torch.equal(network.encode_content(video), content)
    assert motion.abs().max() <= 1
    assert (content >= video.amin(2) - residual - 1e-5).all()
    assert (content <= video.amax(2) + residual + 1e-5).all()
    network.save_pretrained(tmp_path)
    assert torch.equal(type(network).from_pretrained(tmp_path)(video), network(video))


@pytest.mark.parametrize("weights", FRAMES)
def test_starts_as_a_still_clip_of_the_content_frame(layout, weights):
    network = layout(weights=weights, residual=0.5)
    video = torch.randn(2, *SHAPE)
    content, motion = network.encode(video)
    frame = {"first": video[:, :, 0], "middle": video[:, :, 3]}.get(weights, video.mean(2))
    torch.testing.assert_close(content, frame)
    still = frame[:, :, None].expand_as(video)
    torch.testing.assert_close(network.decode(content, motion), still, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "weights",
    [pytest.param(weights, marks=[pytest.mark.slow] * (weights not in ("patch", "first"))) for weights in FRAMES],
)
def test_overfits(layout, weights):
    torch.manual_seed(0)
    network = layout(weights=weights, residual=0.25 if weights == "first" else 0.0)
    video = 0.5 * torch.randn(1, *SHAPE)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    start = F.mse_loss(network(video), video).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.mse_loss(network(video), video)
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None for p in network.parameters())
    assert loss < 0.5 * start


@pytest.mark.parametrize("weights", ["first", "middle"])
def test_any_image_is_a_content_frame(layout, weights, wake):
    """A key frame is a frame of the video, bit for bit, whatever the network."""
    video = torch.randn(2, *SHAPE)
    content, _ = wake(layout(weights=weights)).encode(video)
    assert torch.equal(content, video[:, :, 0 if weights == "first" else 3])


@pytest.mark.parametrize("weights", ["first", "middle", "mean"])
def test_what_needs_no_features_computes_none(layout, weights):
    network = layout(weights=weights)
    network.encoder.forward = None
    assert network.encode_content(torch.randn(1, *SHAPE)).shape == (1, 3, 8, 12)


def weights_of(network, video):
    return network.frame_weights(video, network.encoder(network.patchify(video), network.run_block))


def test_weights_of_frames_are_the_same_everywhere(wake):
    network, video = wake(CMDAutoencoder(**SMALL, weights="frame"), 0.5), torch.randn(2, *SHAPE)
    weights = weights_of(network, video)
    assert weights.shape == (2, 1, 6, 1, 1)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 1, 1, 1))
    assert weights.std(dim=2).min() > 1e-3


def test_weights_of_patches_are_interpolated_logits(wake):
    network, video = wake(CMDAutoencoder(**SMALL, weights="patch"), 0.5), torch.randn(2, *SHAPE)
    weights = weights_of(network, video)
    assert weights.shape == (2, 1, 6, 8, 12)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 1, 8, 12))
    logits = network.content_head(network.encoder(network.patchify(video), network.run_block))  # one a patch
    expected = torch.stack([F.interpolate(frame, scale_factor=2, mode="bilinear") for frame in logits.unbind(2)], 2)
    torch.testing.assert_close(weights, expected.softmax(dim=2))


def test_patch_weights_cannot_make_a_halftone(wake):
    """Inside a patch of four pixels the logits are linear; per pixel they are free."""
    video = torch.randn(1, 3, 6, 16, 16)
    settings = SMALL | {"patch_size": 4}
    rough = {}
    for weights in ("pixel", "patch"):
        network = wake(CMDAutoencoder(**settings, weights=weights), 0.5)
        w = weights_of(network, video).clamp_min(1e-12).log()
        w = w - w.mean(2, keepdim=True)
        inner = (w[..., 1:-1] - (w[..., :-2] + w[..., 2:]) / 2)[..., 2:-2]
        rough[weights] = (inner.square().mean() / w.var()).item()
    assert rough["patch"] < 0.1 * rough["pixel"]


def test_a_residual_is_bounded_and_smooth(wake):
    network = wake(CMDAutoencoder(**SMALL, weights="first", residual=0.1))
    torch.nn.init.normal_(network.residual_head.weight, std=100)
    video = torch.randn(2, *SHAPE)
    residual = network.encode(video)[0] - video[:, :, 0]
    assert residual.abs().max() <= 0.1 + 1e-6
    assert residual.abs().max() > 0.09
    low = F.interpolate(residual, scale_factor=0.5, mode="bilinear")
    torch.testing.assert_close(F.interpolate(low, scale_factor=2, mode="bilinear"), residual, atol=0.06, rtol=0)


def test_strided_motion_has_a_slot_for_several_frames(wake):
    network = wake(GridAutoencoder(**SMALL, grid=(4, 6), motion_stride=2))
    content, motion = network.encode(torch.randn(1, *SHAPE))
    assert motion.shape == (1, 3, 3, 24)
    planes = network.content_stem(content)
    moved = motion.clone()
    moved[:, :, 1, 7] += 1  # frames 2 and 3, row 1, column 1
    change = (network.spread(planes, moved) - network.spread(planes, motion)).abs().amax(1)[0]
    assert change[2:4, 1, 1].min() > 1e-4
    change[2:4, 1, 1] = 0
    assert change.max() == 0
    assert (network.spread(planes, moved) - planes[:, :, None])[0, :, 2:4, 1, 1].diff(dim=1).abs().max() > 1e-4


def test_a_flow_warps_the_content_frame(wake):
    """A flow of one pixel to the right everywhere takes every pixel from there; outside the image its border counts."""
    network = wake(GridAutoencoder(**SMALL, grid=(4, 6), warp=True))
    content = torch.randn(2, 3, 8, 12)
    flow = torch.zeros(2, 2, 5, 4, 6)
    torch.testing.assert_close(network.warped(content, flow)[:, :, 3], network.content_stem(content))
    flow[:, 0, 3] = 2 / 12
    moved = torch.cat([content[..., 1:], content[..., -1:]], dim=3)
    torch.testing.assert_close(network.warped(content, flow)[:, :, 3], network.content_stem(moved))
    flow[:, 1, 3] = -2 / 8
    moved = torch.cat([moved[:, :, :1], moved[:, :, :-1]], dim=2)
    features = network.warped(content, flow)
    torch.testing.assert_close(features[:, :, 3], network.content_stem(moved))
    torch.testing.assert_close(features[:, :, 2], network.content_stem(content))


def test_a_flow_learns_that_everything_moves():
    """A pan over a smooth scene: motion latents are found with which the decoder as it starts shows it, by warping."""
    torch.manual_seed(0)
    network = GridAutoencoder(**SMALL, grid=(4, 6), weights="first", warp=True)
    scene = F.interpolate(torch.randn(1, 3, 2, 5), scale_factor=4, mode="bilinear")
    video = torch.stack([scene[..., t : t + 12] for t in range(6)], dim=2)
    motion = torch.nn.Parameter(0.1 * torch.randn(1, 3, 6, 24))
    optimizer = torch.optim.Adam([motion, *network.flow_head.parameters(), *network.grid_stem.parameters()], lr=1e-2)
    errors = []
    for _ in range(150):
        optimizer.zero_grad()
        errors.append(F.mse_loss(network.decode(video[:, :, 0], motion)[..., :7], video[..., :7]))  # what it can know
        errors[-1].backward()
        optimizer.step()
    assert errors[-1] < 0.1 * errors[0]


def test_what_is_rejected():
    with pytest.raises(InputError, match="frames 6: must be a multiple of the autoencoder's motion_stride 4"):
        CMDAutoencoder(**SMALL, motion_stride=4).latent_spec(SHAPE)
    with pytest.raises(InputError, match="residual -1"):
        CMDAutoencoder(**SMALL, residual=-1)
    with pytest.raises(InputError, match="motion_stride 0"):
        CMDAutoencoder(**SMALL, motion_stride=0)
