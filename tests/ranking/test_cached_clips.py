"""The cached clips: their contents, when they are reused, and when not."""

import pytest
import torch

from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import from_uint8
from cmd_lightning.networks import Condition
from cmd_lightning.ranking.latents import StoredCaptions, frozen, open_bench, scenes
from cmd_lightning.ranking.protocol import Protocol
from cmd_lightning.shapes.features import ShapesFeatures
from cmd_lightning.shapes.painting import render
from cmd_lightning.shapes.reader import ShapesReader


def test_latents_are_those_of_the_clips(small, bench):
    drawn = scenes(small, "test", small.test_clips)
    video = torch.stack([render(scene, 16, 32) for scene in drawn])
    with torch.no_grad():
        content, motion = bench.pipeline.autoencoder.encode(from_uint8(video))
    torch.testing.assert_close(bench.tensors["test/content"], content)
    torch.testing.assert_close(bench.tensors["test/motion"], motion)
    torch.testing.assert_close(bench.tensors["test/features"], ShapesFeatures.from_pretrained()(video))
    assert bench.captions["test"] == [scene.caption for scene in drawn]
    assert [scene.level for scene in drawn] == [*small.levels] * (small.test_clips // len(small.levels))
    assert bench.directions == {i: scene.things[0].direction for i, scene in enumerate(drawn) if scene.level == "plain"}
    assert len(bench.tensors["train/motion"]) == small.train_clips


def test_training_shows_only_seen_combinations(small):
    assert all(scene.seen for scene in scenes(small, "train", 200))
    assert not all(scene.seen for scene in scenes(small, "test", 200))


def test_captions_are_encoded_once(bench):
    encoder, stored = frozen("shapes32paper").motion_text_encoder, bench.pipeline.motion_text_encoder
    captions = bench.captions["train"][:3]
    for own, right in ((stored(captions), encoder(captions)), (stored.null(2), encoder.null(2))):
        torch.testing.assert_close(own.pooled, right.pooled, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(own.tokens, right.tokens, atol=2e-3, rtol=2e-3)
        assert torch.equal(own.mask, right.mask)
    with pytest.raises(InputError, match="a purple cow"):
        stored(["a purple cow"])


def test_stored_captions_record_no_captions():
    pooled, mask = torch.arange(6.0).view(2, 3), torch.tensor([[True], [False]])
    stored = StoredCaptions.of(["", "a red circle"], Condition(pooled, mask=mask))
    assert {name for name in stored.config if not name.startswith("_")} == {"dim"}
    found = stored(["a red circle", ""])
    assert torch.equal(found.pooled, pooled.flip(0))
    assert found.tokens is None
    assert torch.equal(found.mask, mask.flip(0))


@pytest.fixture
def open_small(tmp_path, monkeypatch):
    """Opens the clips of a protocol of four, with networks that are read once; and the notices."""
    parts = ShapesFeatures.from_pretrained(), ShapesReader.from_pretrained()
    monkeypatch.setattr(ShapesFeatures, "from_pretrained", lambda: parts[0])
    monkeypatch.setattr(ShapesReader, "from_pretrained", lambda: parts[1])
    pipeline, notices = frozen("shapes32paper"), []
    encoder = pipeline.motion_text_encoder

    def opened(**changes):
        pipeline.register_modules(motion_text_encoder=encoder)
        return open_bench(Protocol(**{"train_clips": 4, "test_clips": 4} | changes), tmp_path, notices.append, pipeline)

    opened.notices, opened.autoencoder = notices, pipeline.autoencoder
    return opened


def test_the_cache_is_taken_again_only_for_the_same(open_small):
    first = open_small()
    assert len(open_small.notices) == 1
    again = open_small(samples=99)  # of training, not of the clips
    assert len(open_small.notices) == 1
    assert again.key == first.key
    assert (again.captions, again.directions) == (first.captions, first.directions)
    assert all(torch.equal(again.tensors[name], value) for name, value in first.tensors.items())

    other = open_small(motion="fast")
    assert len(open_small.notices) == 2
    assert other.key != first.key
    open_small.autoencoder.motion_mean += 1
    assert open_small().key not in (first.key, other.key)
    assert len(open_small.notices) == 3


def test_a_file_of_something_else_is_made_again(open_small, tmp_path):
    first = open_small()
    path = tmp_path / f"{first.key}.safetensors"
    right = {name: value.clone() for name, value in first.tensors.items()}
    other = open_small(data_seed=1)
    (tmp_path / f"{other.key}.safetensors").replace(path)
    for notices in (3, 4):
        again = open_small()
        assert len(open_small.notices) == notices
        assert all(torch.equal(again.tensors[name], value) for name, value in right.items())
        path.write_bytes(path.read_bytes()[:1000])
