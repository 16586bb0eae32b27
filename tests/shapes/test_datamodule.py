import json
import tarfile

import pytest
import torch

from cmd_lightning.commands import shards
from cmd_lightning.errors import InputError
from cmd_lightning.shapes.datamodule import SceneStream, ShapesDataModule
from cmd_lightning.shapes.painting import make_clip
from cmd_lightning.shapes.scenes import SHAPES, unseen
from cmd_lightning.video_io import read_video


def module(**options):
    sizes = {"train_clips": 20, "val_clips": 5, "test_clips": 6, "num_frames": 4, "size": 16, "batch_size": 3}
    return ShapesDataModule(**sizes | options)


def stream(rank=0, ranks=1, **options):
    sizes = {"levels": ["plain"], "motions": ["middle"], "size": 16, "frames": 2, "fps": 8.0, "batch_size": 3}
    return SceneStream(20, **sizes | options, rank=rank, ranks=ranks)


def contents(batches):
    """What can be compared: keys, captions and images."""
    return [(batch["key"], batch["caption"], batch["video"].numpy().tobytes()) for batch in batches]


def test_a_batch_is_that_of_the_shards():
    batch = next(iter(module().train_dataloader()))
    assert batch["video"].shape == (3, 3, 4, 16, 16)
    assert batch["video"].dtype == torch.uint8
    assert batch["fps"].tolist() == [8.0] * 3
    for caption, label in zip(batch["caption"], batch["label"], strict=True):
        assert SHAPES[label] in caption
    assert set(batch) == {"video", "caption", "label", "key", "fps", "epoch"}


@pytest.mark.parametrize("repeat", [False, True])
def test_batches_tell_their_epoch(repeat):
    data = module(repeat=repeat)
    epochs = [{batch["epoch"] for batch in data.train_dataloader()} for _ in range(2)]
    assert epochs == [{0}, {1}]
    assert {batch["epoch"] for batch in data.val_dataloader()} == {0}


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(("level", "motion"), [("plain", "middle"), ("mixed", "fast")])
def test_clips_are_those_of_shards_synth(tmp_path, split, level, motion):
    shards.synth(out=str(tmp_path), num=5, size=32, frames=4, fps=4, seed=3, split=split, level=level, motion=motion)
    data = module(size=32, fps=4, seed=3, level=level, motion=motion, train_clips=5, test_clips=5)
    batches = list(getattr(data, f"{split}_dataloader")())
    videos = torch.cat([batch["video"] for batch in batches])
    captions = [caption for batch in batches for caption in batch["caption"]]
    with tarfile.open(tmp_path / split / "000000.tar") as tar:
        for index in range(5):
            member = {end: tar.extractfile(f"{index:011d}.{end}").read() for end in ("mp4", "txt", "json")}
            assert member["txt"].decode() == captions[index]
            images = torch.stack([read_video(member["mp4"]), videos[index]])
            assert torch.corrcoef(images.flatten(1).float())[0, 1] > 0.9  # H.264
            facts = json.loads(member["json"])
            assert (facts["level"], facts["motion"]) == (level, motion)


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_anywhere_the_rest_is_the_same(workers):
    options = {"level": ["plain", "mixed"], "motion": ["slow", "fast"], "num_workers": workers}
    data = module(**options)
    whole = [contents(data.train_dataloader()) for _ in range(2)]
    assert len(whole[0]) == 7
    assert not {key for keys, *_ in whole[0] for key in keys} & {key for keys, *_ in whole[1] for key in keys}
    for done in (0, 1, 4, 7) if workers else range(8):
        stopped = module(**options)
        loader = iter(stopped.train_dataloader())
        for _ in range(done):
            next(loader)
        state = json.loads(json.dumps(stopped.state_dict()))
        resumed = module(**options)
        resumed.load_state_dict(state)
        rest = contents(resumed.train_dataloader())
        assert rest == (whole[0][done:] if done < 7 else whole[1])


def test_workers_change_nothing():
    assert contents(module(num_workers=2).train_dataloader()) == contents(module().train_dataloader())


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_ranks_share_an_epoch_without_overlap(ranks):
    shares = [[batch["key"] for batch in stream(rank, ranks)] for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    keys = [key for share in shares for batch in share for key in batch]
    assert len(keys) == len(set(keys)) == 20
    assert sorted(keys) == sorted(key for batch in stream() for key in batch["key"])


def test_another_epoch_and_split_show_other_clips_and_validation_the_same():
    data = module(num_frames=1)
    first, second = contents(data.train_dataloader()), contents(data.train_dataloader())
    assert contents(data.val_dataloader()) == contents(data.val_dataloader())
    images = [contents(loader) for loader in (data.val_dataloader(), data.test_dataloader())]
    batches = [video for part in (first, second, *images) for *_, video in part]
    assert len(set(batches)) == len(batches)
    assert contents(data.test_dataloader()) == contents(data.predict_dataloader())


def test_training_shows_seen_combinations_only():
    train = module(size=8, num_frames=2, train_clips=600, batch_size=100).train_dataloader()
    captions = {caption for batch in train for caption in batch["caption"]}
    hidden = {f"{colour} {shape} moves {direction}" for shape, colour, direction in unseen()}
    message = {caption.removeprefix("a ").removeprefix("small ").removeprefix("large ") for caption in captions}
    assert not message & hidden
    test = module(size=8, num_frames=2, test_clips=600, batch_size=100).test_dataloader()
    captions = {caption for batch in test for caption in batch["caption"]}
    assert {caption.removeprefix("a ").removeprefix("small ").removeprefix("large ") for caption in captions} & hidden


def test_lists_of_levels_and_motions_are_all_drawn_and_clips_depend_on_their_own():
    mixed = stream(levels=["plain", "mixed"], motions=["still", "extreme"])
    clips = [mixed.clip(index) for index in range(40)]
    expected = [
        [
            make_clip(0, index, level=level, motion=motion, size=16, frames=2)[0]
            for level in ("plain", "mixed")
            for motion in ("still", "extreme")
        ]
        for index in range(40)
    ]
    found = [
        next(number for number, video in enumerate(options) if torch.equal(video, clip["video"]))
        for options, clip in zip(expected, clips, strict=True)
    ]
    assert set(found) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": "plane"}, "level plane: give one or several of plain, mixed"),
        ({"level": []}, "level"),
        ({"motion": ["middle", "quick"]}, "motion middle, quick: give one or several of still"),
        ({"size": 4}, "size 4"),
        ({"train_clips": 0}, "train_clips 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"fps": 0}, "fps 0"),
    ],
)
def test_a_wrong_option_is_an_error(options, words):
    with pytest.raises(InputError, match=words):
        module(**options)


def test_repeated_epochs_are_the_same_clips():
    options = {"level": "plain", "train_clips": 5, "size": 16, "num_frames": 4, "batch_size": 2}
    for repeat in (False, True):
        data = ShapesDataModule(**options, repeat=repeat)
        data.setup("fit")
        first, second = ([key for batch in data.train_dataloader() for key in batch["key"]] for _ in range(2))
        assert len(first) == 5
        assert (first == second) == repeat
        assert repeat or not set(first) & set(second)
