import pytest
import torch
from safetensors.torch import save_file

from cmd_lightning.errors import InputError
from cmd_lightning.shapes.convnet import VideoConvNet, prepare
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.features import ShapesFeatures
from cmd_lightning.shapes.painting import render
from cmd_lightning.shapes.reader import ANSWERS, Reading, ShapesReader, joint_accuracy
from cmd_lightning.video_encoding import mp4_bytes
from cmd_lightning.video_io import VideoReader

SEED = 20_261_122
"""Of clips that no training has drawn."""


@pytest.fixture(scope="module")
def reader():
    return ShapesReader.from_pretrained()


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(SEED, index, level="plain", motion="middle") for index in range(128)]


@pytest.fixture(scope="module")
def clips(scenes):
    return torch.stack([render(scene, 16, 32) for scene in scenes])


@pytest.fixture(scope="module")
def truth(scenes):
    """Taken from the captions, "a [size] colour shape moves direction", not from `Reading.of`."""
    message = []
    for scene in scenes:
        thing, direction = scene.caption.split(" moves ")
        message.append(Reading(thing.split()[-1], thing.split()[-2], direction))
    return message


def none_share(readings):
    return sum(reading.none for reading in readings) / len(readings)


def test_reads_plain_clips(reader, clips, truth):
    assert joint_accuracy(reader.read(clips), truth) >= 0.97
    assert reader.chance == 1 / 256


def test_reads_clips_after_h264(reader, clips, truth):
    coded = torch.stack([VideoReader(mp4_bytes(clip, 8.0, crf=23)).read() for clip in clips[:64]])
    assert joint_accuracy(reader.read(coded), truth[:64]) >= 0.95


def test_reads_other_sizes_and_floats(reader, scenes, clips, truth):
    large = torch.stack([render(scene, 16, 64) for scene in scenes[:64]])
    assert joint_accuracy(reader.read(large), truth[:64]) >= 0.95
    assert reader.read(clips[:8].float() / 255) == reader.read(clips[:8])


def test_motion_is_what_tells_the_direction(reader, scenes, clips, truth):
    """A straight clip played backwards is a clip of the opposite direction."""
    swap = {"left": "right", "right": "left", "up": "down", "down": "up"}
    straight = [index for index, scene in enumerate(scenes) if scene.things[0].path == "straight"]
    opposite = [" ".join(swap[word] for word in truth[index].direction.split()) for index in straight]
    expected = [Reading(truth[i].shape, truth[i].colour, way) for i, way in zip(straight, opposite, strict=True)]
    assert len(straight) > 20
    assert joint_accuracy(reader.read(clips[straight].flip(2)), expected) >= 0.9


@pytest.mark.parametrize("kind", ["noise", "frozen", "shuffled"])
def test_says_none_where_there_is_no_plain_clip(reader, clips, kind):
    if kind == "noise":
        clips = torch.randint(0, 256, clips.shape, dtype=torch.uint8)
    elif kind == "frozen":
        clips = clips[:, :, 5:6].expand_as(clips)
    else:
        clips = torch.stack([clip[:, order] for clip, order in zip(clips, orders(len(clips)), strict=True)])
    assert none_share(reader.read(clips)) >= 0.95


def orders(number):
    """Random orders of 16 frames, none of them nearly the true one or its reverse."""
    times, kept = torch.arange(16.0), []
    while len(kept) < number:
        order = torch.randperm(16)
        if torch.corrcoef(torch.stack([order.float(), times]))[0, 1].abs() < 0.4:
            kept.append(order)
    return kept


def test_still_clips_have_a_shape_and_a_colour_but_no_direction(reader):
    scenes = [draw_scene(SEED, index, level="plain", motion="still") for index in range(64)]
    expected = [Reading(scene.things[0].shape, scene.things[0].colour, "none") for scene in scenes]
    readings = reader.read(torch.stack([render(scene, 16, 32) for scene in scenes]))
    assert joint_accuracy(readings, expected) >= 0.95
    assert none_share(readings) >= 0.95


def test_logits_have_the_order_of_the_answers(reader, clips, truth):
    logits = reader(clips[:5])
    assert {name: value.shape for name, value in logits.items()} == {
        "shape": (5, 5),
        "colour": (5, 9),
        "direction": (5, 9),
    }
    colours = [ANSWERS["colour"][number] for number in logits["colour"].argmax(1)]
    assert colours == [reading.colour for reading in truth[:5]]


def test_batches_do_not_matter(reader, clips):
    assert reader.read(clips[:7], batch_size=3) == reader.read(clips[:7])


def test_accuracy_counts_only_what_is_right_altogether():
    right, wrong = Reading("circle", "red", "left"), Reading("circle", "red", "none")
    assert joint_accuracy([right, right, wrong, wrong], [right, wrong, right, wrong]) == 0.5
    assert wrong.none
    assert not right.none
    with pytest.raises(InputError, match="readings 1, expected 2"):
        joint_accuracy([right], [right, right])


def test_trunk_takes_any_square_size_and_eight_frames_or_more():
    network = VideoConvNet(10, width=8)
    assert network(torch.rand(2, 3, 8, 40, 40)).shape == (2, 10)
    assert network(torch.rand(1, 3, 33, 16, 16)).shape == (1, 10)
    for shape in ((1, 3, 7, 32, 32), (1, 3, 16, 32, 48), (1, 1, 16, 32, 32), (3, 16, 32, 32)):
        with pytest.raises(InputError, match="of at least 8"):
            network(torch.rand(shape))


def test_preparing_halves_by_means_of_pixels():
    """Antialiased bilinear halving weighs 4 pixels 1, 3, 3, 1 along each axis."""
    video = torch.rand(1, 3, 8, 64, 64)
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    patch = video[0, 1, 4, 9:13, 19:23]
    assert prepare(video)[0, 1, 4, 5, 10] == pytest.approx((weights @ patch @ weights).item(), abs=1e-5)


def test_weights_come_back_with_their_record(tmp_path):
    network = ShapesReader(width=8, hidden=16).eval()
    network.save_pretrained(tmp_path / "reader.safetensors", {"clips": 3})
    opened = ShapesReader.from_pretrained(tmp_path / "reader.safetensors")
    video = torch.rand(2, 3, 16, 32, 32)
    for name, logits in network(video).items():
        torch.testing.assert_close(opened(video)[name], logits, atol=1e-2, rtol=1e-2)  # kept in half precision
    assert opened.record == {"clips": 3}
    assert not opened.training


def test_wrong_files_are_named_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"gone\.safetensors: no weights of ShapesReader \(No such file.*reader.yaml"):
        ShapesReader.from_pretrained(tmp_path / "gone.safetensors")
    ShapesFeatures(width=8).save_pretrained(tmp_path / "other.safetensors", {})
    with pytest.raises(
        InputError, match=r"other\.safetensors: no weights of ShapesReader.*name the network.*reader.yaml"
    ):
        ShapesReader.from_pretrained(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(InputError, match=r"text\.safetensors: no weights of ShapesReader.*reader.yaml"):
        ShapesReader.from_pretrained(tmp_path / "text.safetensors")
    about = {"network": "ShapesReader", "settings": "{}", "record": "{}"}
    save_file({"heads": torch.zeros(3)}, tmp_path / "part.safetensors", about)
    with pytest.raises(InputError, match=r"part\.safetensors: no weights of ShapesReader.*reader.yaml"):
        ShapesReader.from_pretrained(tmp_path / "part.safetensors")
