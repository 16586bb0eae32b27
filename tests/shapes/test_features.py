import pytest
import torch

from cmd_lightning.errors import InputError
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.features import CHOICE, PRESENCE, ShapesFeatures
from cmd_lightning.shapes.painting import render

SEED = 20_261_122
"""Of clips that no training has drawn."""


@pytest.fixture(scope="module")
def features():
    return ShapesFeatures.from_pretrained()


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(SEED, index, level="mixed", motion="middle") for index in range(96)]


@pytest.fixture(scope="module")
def clips(scenes):
    return torch.stack([render(scene, 16, 32) for scene in scenes])


def shift(features, clips, others):
    """Distance between the mean features of two sets of clips."""
    return (features(clips).mean(0) - features(others).mean(0)).norm().item()


def test_a_vector_for_each_clip(features, clips):
    assert 64 <= features.num_features <= 128
    assert features(clips[:3]).shape == (3, features.num_features)
    torch.testing.assert_close(features(clips[:3].float() / 255), features(clips[:3]))


def test_features_are_standardised_over_the_world(features, clips):
    plain = [render(draw_scene(SEED, index, level="plain"), 16, 32) for index in range(48)]
    values = features(torch.cat([clips, torch.stack(plain)]))
    assert values.mean().abs() < 0.1
    assert 0.7 < values.std(dim=0).mean() < 1.3


def test_sizes_agree(features, scenes, clips):
    """The same scenes at 64 pixels are much closer to themselves at 32 than to each other."""
    small, large = features(clips), features(torch.stack([render(scene, 16, 64) for scene in scenes]))
    own = (small - large).norm(dim=1)
    others = torch.cdist(small, small)[~torch.eye(len(small), dtype=torch.bool)]
    assert own.mean() < 0.3 * others.mean()


def test_spatial_corruption_moves_features_further_the_stronger_it_is(features, clips):
    video = clips.float() / 255
    noise = torch.randn_like(video)
    moved = [shift(features, clips, (video + sigma * noise).clamp(0, 1)) for sigma in (0, 0.05, 0.12, 0.3)]
    assert moved == sorted(moved)
    assert moved[1] > 0.5
    pools = [video]
    for factor in (2, 4, 8):  # mosaics
        mosaic = torch.nn.functional.avg_pool3d(video, (1, factor, factor))
        pools.append(mosaic.repeat_interleave(factor, 3).repeat_interleave(factor, 4))
    moved = [shift(features, clips, blurred) for blurred in pools]
    assert moved == sorted(moved)


@pytest.mark.parametrize("play", ["shuffled", "frozen"])
def test_temporal_corruption_moves_features_though_frames_stay(features, clips, play):
    other = torch.stack([render(draw_scene(SEED + 1, i, level="mixed", motion="middle"), 16, 32) for i in range(96)])
    if play == "shuffled":
        corrupted = torch.stack([clip[:, torch.randperm(16)] for clip in clips])
    else:
        corrupted = clips[:, :, 7:8].expand_as(clips)
    assert shift(features, clips, corrupted) > 2 * shift(features, clips, other)


def test_classifier_tells_the_scene(features, scenes, clips):
    logits = features.classify(clips)
    assert {name: value.shape[1] for name, value in logits.items()} == {
        name: len(names) for name, names in (PRESENCE | CHOICE).items()
    }
    number = logits["number"].argmax(1) + 1
    assert sum(int(n) == len(scene.things) for n, scene in zip(number, scenes, strict=True)) / 96 > 0.6
    there = [
        [any(thing.colour == colour for thing in scene.things) for colour in PRESENCE["colour"]] for scene in scenes
    ]
    assert ((logits["colour"] > 0) == torch.tensor(there)).float().mean() > 0.9


def test_wrong_files_are_named_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"gone\.safetensors: no weights of ShapesFeatures \(No such.*features.yaml"):
        ShapesFeatures.from_pretrained(tmp_path / "gone.safetensors")
