import pytest
import torch

from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, LatentSpec
from cmd_lightning.zoo.autoencoders.triplane import TriplaneAutoencoder
from cmd_lightning.zoo.baselines.pvdm import TriplaneUNet

VIDEO = (3, 5, 8, 12)  # in patches of 2: 4 rows, 6 columns
SMALL = {"patch_size": 2, "width": 16, "plane_channels": 4, "depth": 1, "heads": 2, "head_dim": 8, "output": "linear"}


def autoencoder(**changes):
    return TriplaneAutoencoder(**SMALL | changes)


def denoiser(spec, condition_dim=0, **changes):
    settings = {"width": 8, "multipliers": (1, 2), "layers": 1, "heads": 2, "attention_from_level": 0}
    return TriplaneUNet(spec, condition_dim, **settings | changes)


@torch.no_grad()
def test_shapes_are_those_of_the_spec(wake):
    network = wake(autoencoder())
    spec = network.latent_spec(VIDEO)
    video = torch.randn(2, *VIDEO)
    content, motion = network.encode(video)
    assert content.shape[1:] == spec.content == (4, 4, 6)
    assert motion.shape[1:] == spec.motion == (4, 5, 4 + 6)
    assert [slot[0] for slot in spec.slots] == [0.0] * 4 + [1.0] * 6
    assert spec.slots[0] == (0.0, 0.125) and spec.slots[-1] == (1.0, 11 / 12)
    assert content.abs().max() < 1 and motion.abs().max() < 1
    assert network.decode(content, motion).shape == video.shape
    assert torch.equal(network(video), network.decode(content, motion))


@torch.no_grad()
def test_planes_are_means_over_an_axis_each():
    network = autoencoder()  # fresh transformers are the identity
    video = torch.randn(1, *VIDEO)
    features = network.patchify(video)  # (1, C', T, H', W')
    content, motion = network.encode(video)

    def head(number, plane):
        layer = network.plane_heads[number]
        return (torch.einsum("dc,bcyx->bdyx", layer.weight[:, :, 0, 0], plane) + layer.bias[:, None, None]).tanh()

    torch.testing.assert_close(content, head(0, features.mean(2)))
    torch.testing.assert_close(motion[..., :4], head(1, features.mean(4)))
    torch.testing.assert_close(motion[..., 4:], head(2, features.mean(3)))


@torch.no_grad()
def test_decoder_sees_the_sum_of_three_broadcast_planes(monkeypatch):
    network = autoencoder()
    seen = []
    monkeypatch.setattr(network.decoder, "forward", lambda x, run_block: seen.append(x) or x)
    content, motion = torch.randn(1, 4, 4, 6), torch.randn(1, 4, 5, 10)
    network.decode(content, motion)
    planes = [stem.weight[:, :, 0, 0] for stem in network.plane_stems]
    bias = sum(stem.bias for stem in network.plane_stems)
    for t, y, x in ((0, 0, 0), (4, 3, 5), (2, 1, 4)):
        expected = planes[0] @ content[0, :, y, x] + planes[1] @ motion[0, :, t, y] + planes[2] @ motion[0, :, t, 4 + x]
        torch.testing.assert_close(seen[0][0, :, t, y, x], expected + bias)


def test_wrong_videos_are_reported():
    with pytest.raises(InputError, match="it takes 3 channels, the video has 4; set its `channels`"):
        autoencoder().latent_spec((4, 5, 8, 12))
    with pytest.raises(
        InputError, match="size 8x9: height and width must be multiples of the autoencoder's patch_size"
    ):
        autoencoder().latent_spec((3, 5, 8, 9))


def test_gradient_checkpointing_and_tanh(wake):
    network = wake(autoencoder(output="tanh")).train()
    video = torch.randn(1, *VIDEO)
    network(video).sum().backward()
    plain = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    network.enable_gradient_checkpointing()
    network(video).sum().backward()
    torch.testing.assert_close([p.grad for p in network.parameters()], plain)
    assert network(9 * video).abs().max() <= 1


@torch.no_grad()
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_planes_talk_where_the_network_attends(level, wake):
    spec = autoencoder().latent_spec(VIDEO)
    network = wake(denoiser(spec, attention_from_level=level), 0.2)
    content, motion = torch.randn(1, *spec.content), torch.randn(1, *spec.motion)
    moved = motion.clone()
    moved[..., 0, 1] += 1  # row 1 of the first frame

    def planes(motion):
        content_out, motion_out = spec.unpack(network(spec.pack(content, motion), torch.tensor([300]), None))
        return content_out, motion_out[..., :4], motion_out[..., 4:]

    changed = [(a - b).abs().max() > 1e-6 for a, b in zip(planes(moved), planes(motion), strict=True)]
    assert changed == [level < 3, True, level < 3]  # level 2 is the middle


@torch.no_grad()
def test_planes_and_places_are_reported_apart(wake):
    spec = LatentSpec((2, 4, 4), (2, 4, 8), tuple((float(i // 4), (i % 4) / 4) for i in range(8)))
    network = wake(denoiser(spec))
    same = torch.ones(1, 2, 4 * 4 + 4 * 8)
    content, motion = spec.unpack(network(same, torch.tensor([300]), None))
    rows, columns = motion.split(4, dim=3)
    assert (content - rows).abs().max() > 1e-3 and (rows - columns).abs().max() > 1e-3
    assert (content[..., 1, 1] - content[..., 2, 2]).abs().max() > 1e-3


@torch.no_grad()
def test_any_layout_of_slots_will_do(wake):
    slots = tuple((2.0, y / 2, x / 3) for y in range(2) for x in range(3))  # a grid: one plane of frames and cells
    spec = LatentSpec((4, 5, 7), (4, 3, 6), slots)
    network = wake(denoiser(spec, 12))
    planes = torch.randn(2, 4, 5 * 7 + 3 * 6)
    assert network(planes, torch.tensor([3, 4]), Condition(torch.randn(2, 12))).shape == planes.shape


def test_planes_of_unequal_channels_are_reported():
    with pytest.raises(
        InputError, match="the motion latent has 8 channels, the content frame 3; it denoises planes of"
    ):
        denoiser(LatentSpec((3, 4, 4), (8, 2, 1), ((0.0, 0.5),)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 7}, "heads 7: must divide the channels 8, 16 of the levels that attend; give one of 1, 2, 4, 8$"),
        ({"heads": 16}, "heads 16: must divide the channels 8, 16"),
        ({"heads": 3, "attention_from_level": 1}, "heads 3: must divide the channels 16 of"),
        ({"heads": 0}, "heads 0: must be at least 1"),
        ({"width": 9}, "width 9: .* give an even number"),
        ({"layers": 0}, "layers 0: must be at least 1"),
    ],
)
def test_sizes_of_the_denoiser_that_do_not_fit_are_reported(changes, message):
    with pytest.raises(InputError, match=message):
        denoiser(autoencoder().latent_spec(VIDEO), **changes)


def test_only_levels_that_attend_ask_for_heads():
    spec = autoencoder().latent_spec(VIDEO)
    assert denoiser(spec, heads=16, attention_from_level=1) is not None
    assert denoiser(spec, heads=7, attention_from_level=3) is not None  # none does


@pytest.mark.parametrize("name", ["channels", "patch_size", "width", "plane_channels", "depth", "heads", "head_dim"])
@pytest.mark.parametrize("value", [0, -2])
def test_sizes_of_the_autoencoder_are_positive(name, value):
    with pytest.raises(InputError, match=f"^{name} {value}: must be at least 1; give a greater whole number$"):
        autoencoder(**{name: value})
