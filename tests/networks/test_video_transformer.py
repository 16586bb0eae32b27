import pytest
import torch
import torch.nn.functional as F

from cmd_lightning.networks.attention import space_angles, time_angles
from cmd_lightning.networks.video_transformer import VideoTransformer


def plain(block, *inputs):
    return block(*inputs)


@pytest.mark.parametrize("size", [(1, 2, 3), (5, 3, 4), (24, 4, 2)])
def test_starts_as_the_identity_at_any_size(size):
    network = VideoTransformer(8, 2, 2, 4)
    video = torch.randn(2, 8, *size)
    torch.testing.assert_close(network(video, plain), video)


def test_attends_over_time_for_each_place_then_over_space_for_each_frame(wake):
    frames, height, width = 5, 3, 4
    network = wake(VideoTransformer(8, 1, 2, 4), 0.5)
    block = network.blocks[0]
    video = torch.randn(1, 8, frames, height, width)

    expected = video.clone()
    for y in range(height):
        for x in range(width):
            track = expected[0, :, :, y, x].T  # (T, C)
            normed = F.layer_norm(track, (8,), block.norm_time.weight, block.norm_time.bias)
            expected[0, :, :, y, x] = (track + block.time(normed[None], time_angles(frames, 4))[0]).T
    for t in range(frames):
        frame = expected[0, :, t].reshape(8, -1).T  # (H W, C)
        normed = F.layer_norm(frame, (8,), block.norm_space.weight, block.norm_space.bias)
        frame = frame + block.space(normed[None], space_angles(height, width, 4))[0]
        normed = F.layer_norm(frame, (8,), block.norm_feed_forward.weight, block.norm_feed_forward.bias)
        frame = frame + block.feed_forward(normed)
        expected[0, :, t] = frame.T.reshape(8, height, width)

    torch.testing.assert_close(network(video, plain), expected, atol=1e-5, rtol=1e-5)


def test_knows_positions_only_if_rotary(wake):
    video = torch.randn(1, 8, 5, 3, 4).double()
    order = torch.tensor([3, 0, 4, 1, 2])
    for rotary in (True, False):
        network = wake(VideoTransformer(8, 1, 2, 4, rotary=rotary), 0.5).double()
        same_in_time = torch.allclose(network(video[:, :, order], plain), network(video, plain)[:, :, order], atol=1e-5)
        flipped = network(video.flip(4), plain).flip(4)
        same_in_space = torch.allclose(flipped, network(video, plain), atol=1e-5)
        assert (same_in_time, same_in_space) == (not rotary, not rotary)
