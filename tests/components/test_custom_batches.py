"""Batches of custom DataLoaders: float clips, missing entries, seeds; and captions checked before training."""

import re
import warnings

import pytest
import torch
from lightning import LightningDataModule, Trainer, seed_everything
from small_models import TEXT
from torch.utils.data import DataLoader

from cmd_lightning.components import MotionDiffusion, VideoAutoencoder
from cmd_lightning.components.batches import ClipRange, complete
from cmd_lightning.components.video_model import VideoModel
from cmd_lightning.conditioning import OpenCLIPTextEncoder
from cmd_lightning.errors import InputError
from cmd_lightning.zoo.motion.dit import MotionDiT

SHAPE = (3, 4, 8, 12)
CLIPS = torch.randint(0, 256, (4, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def unseeded(monkeypatch):
    """As in a script that has not called `seed_everything`."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


def loader(**entries):
    """Two batches of two clips, with these entries besides `video`, lists or tensors of four."""
    entries = {"video": CLIPS} | entries
    names = [name for name, value in entries.items() if value is not None]
    return DataLoader(
        range(4), 2, collate_fn=lambda rows: {name: [entries[name][row] for row in rows] for name in names} | (
            {"video": torch.stack([entries["video"][row] for row in rows])} if entries["video"] is not None else {}
        ),
    )  # fmt: skip


def small(spec, condition_dim):
    return MotionDiT(spec, condition_dim, width=16, depth=1, heads=2)


def fit(model, data, steps=2, **options):
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(model, data)
    said = [str(warning.message) for warning in caught if re.search("data:|caption", str(warning.message))]
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}, said


def differ(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("stage", ["autoencoder", "motion"])
@pytest.mark.parametrize(
    "video",
    [CLIPS / 127.5 - 1, CLIPS / 255, (CLIPS / 127.5 - 1).double(), CLIPS.float().div(255).clamp(0, 1)],
    ids=["[-1, 1]", "[0, 1]", "double", "float"],
)
def test_float_clips_train_as_uint8_ones(tiny_autoencoder, stage, video):
    autoencoder = tiny_autoencoder()

    def model():
        torch.manual_seed(0)
        if stage == "motion":
            return MotionDiffusion(small, autoencoder, video_shape=SHAPE)
        return VideoAutoencoder(lambda: tiny_autoencoder(), optimizer=lambda weights: torch.optim.SGD(weights, 0.1))

    entries = {"key": list("abcd"), "fps": [8.0] * 4}
    wanted, _ = fit(model(), loader(**entries))
    found, said = fit(model(), loader(video=video, **entries))
    assert differ(found, wanted) < 1e-5
    assert said == []


@pytest.mark.parametrize(
    ("video", "words"),
    [
        (CLIPS.float(), "floats from 0 to 255"),
        (CLIPS.float() / 127.5, "floats from 0 to 2"),
        (CLIPS / 127.5 - 1.5, "floats from -1.5"),
        (torch.full((2, *SHAPE), float("nan")), "floats from nan"),
        (CLIPS.long(), "`video` is torch.int64"),
        (CLIPS[0], r"`video` has the shape \(3, 4, 8, 12\)"),
    ],
)
def test_other_clips_are_rejected(video, words):
    with pytest.raises(InputError, match=words) as error:
        ClipRange().pixels(video)
    assert "uint8 or floats in [-1, 1] or [0, 1]" in str(error.value)


def test_the_range_is_that_of_the_data():
    clips = ClipRange()
    bright = torch.full((1, *SHAPE), 0.5)
    assert clips.pixels(CLIPS / 127.5 - 1).min() < -0.9
    assert clips.pixels(bright).unique().tolist() == [0.5]  # of data in [-1, 1]
    assert ClipRange().pixels(bright).unique().tolist() == [0]
    other = ClipRange()
    other.pixels(CLIPS / 255)
    with pytest.raises(InputError, match="in earlier batches from 0 to 1; give all clips in one range"):
        other.pixels(CLIPS / 127.5 - 1)


@pytest.mark.parametrize("missing", [["key"], ["fps"], ["key", "fps"]], ids=str)
def test_keys_and_rates_have_defaults(tiny_autoencoder, missing):
    entries = {"key": list("abcd"), "fps": [12.0] * 4} | dict.fromkeys(missing)
    model = MotionDiffusion(small, tiny_autoencoder(), video_shape=SHAPE)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    after, said = fit(model, loader(**entries))
    assert differ(before, after) > 0
    assert model.fps == (8 if "fps" in missing else 12)
    assert len(said) == ("fps" in missing)


def test_samples_without_keys_have_draws_of_their_own():
    batches = [{"video": CLIPS}, {"video": CLIPS}]
    for number, batch in enumerate(batches):
        assert not complete(batch, "train", 0, number)
    assert len({key for batch in batches for key in batch["key"]}) == 8
    numbered = {"video": CLIPS, "key": torch.arange(4)}
    assert complete(numbered)
    assert numbered["key"] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DataLoader([torch.zeros(3)]), "a batch is a Tensor; a batch is a dictionary with `video`"),
        (DataLoader([(torch.zeros(3), 1)]), "a batch is a list;"),
        (DataLoader([{"image": torch.zeros(3)}]), "a batch has image; a batch is a dictionary"),
        (loader(caption=None), "a batch has no `caption`, which the motion stage is conditioned on"),
    ],
)
def test_what_a_batch_needs_is_said_on_one_line(tiny_autoencoder, data, words):
    encoder = OpenCLIPTextEncoder(TEXT)
    with pytest.raises(InputError, match=words) as error:
        fit(MotionDiffusion(small, tiny_autoencoder(), video_shape=SHAPE, condition=encoder), data)
    assert "\n" not in str(error.value)


def test_a_cache_needs_keys(tiny_autoencoder):
    with pytest.raises(InputError, match="cache_latents true: batches have no `key`"):
        fit(MotionDiffusion(small, tiny_autoencoder(), video_shape=SHAPE, cache_latents=True), loader())


@pytest.mark.parametrize("seed", [torch.manual_seed, seed_everything])
def test_seeds_have_an_effect(tiny_autoencoder, monkeypatch, seed):
    autoencoder = tiny_autoencoder()
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # so that it is put back
    monkeypatch.delenv("PL_GLOBAL_SEED")

    def trained(number):
        torch.manual_seed(0)
        model = MotionDiffusion(small, autoencoder, video_shape=SHAPE)
        seed(number)
        return fit(model, loader())[0]

    assert differ(trained(1), trained(1)) == 0
    assert differ(trained(1), trained(2)) > 1e-6


def test_without_a_seed_two_runs_are_alike(tiny_autoencoder):
    autoencoder = tiny_autoencoder()
    model = MotionDiffusion(small, autoencoder, video_shape=SHAPE)
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    first, _ = fit(model, loader())
    model.load_state_dict(start)
    second, _ = fit(model, loader())
    assert differ(first, second) == 0


def test_float_clips_are_tested_as_uint8_ones():
    class Any(VideoModel):
        pass

    Any.__abstractmethods__ = frozenset()
    for video in (CLIPS / 127.5 - 1, CLIPS / 255, CLIPS):
        assert torch.equal(Any().clips({"video": video}), CLIPS)


# Captions


def warnings_of(autoencoder, captions):
    """What is said of captions of a DataModule, and of those of a plain DataLoader."""

    class Data(LightningDataModule):
        def train_dataloader(self):
            return loader(caption=["x"] * 4)

        def captions(self):
            return captions

    said = []
    for data in (Data(), loader(caption=captions)):
        encoder = OpenCLIPTextEncoder(TEXT)
        said.append(fit(MotionDiffusion(small, autoencoder, video_shape=SHAPE, condition=encoder), data, steps=1)[1])
    return [[text for text in one if "caption" in text] for one in said]


def test_empty_and_cut_captions_are_reported(tiny_autoencoder):
    long = "a dog runs over the green grass and then it sits down for a while"
    module, plain = warnings_of(tiny_autoencoder(), [long, "", "a cat", "short"])
    assert module == [
        "1 of 4 checked training clips have no caption.",
        "1 of 4 checked training clips have a caption longer than the 12 tokens that the motion stage's text "
        "encoder reads; their ends are not used.",
    ]
    assert [text[:35] for text in plain] == ["1 of 2 clips of the first batch hav"] * 2
    assert warnings_of(tiny_autoencoder(), ["a cat", "a dog runs over the green grass now"[:30], "x", "y"]) == [[], []]


def test_all_empty_captions_are_rejected(tiny_autoencoder):
    with pytest.raises(InputError, match="none of 4 clips has a caption, which the motion stage is conditioned on"):
        warnings_of(tiny_autoencoder(), [""] * 4)
