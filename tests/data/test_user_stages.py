"""The stream as a webdataset pipeline, and stages of the user in it."""

import random
import sys

import lightning
import pytest
import torch
import webdataset
import yaml
from lightning.pytorch.cli import LightningArgumentParser
from shard_files import plain, sample, write_tar

from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError
from cmd_lightning.shapes.datamodule import ShapesDataModule

STAGES = '''
import random
import webdataset

def shout(samples):
    """Numbers the captions in the order in which they come: a state that a resume must bring back."""
    for number, sample in enumerate(samples):
        yield sample | {"txt": f"{number} {sample['txt'].decode().upper()}"}

def half(samples):
    for number, sample in enumerate(samples):
        if number % 2:
            yield sample

def twice(samples):
    for sample in samples:
        yield from (sample, sample)

def nothing(samples):
    return None

class Mixed:
    def __init__(self, size: int):
        self.size, self.chance = size, random.Random(7)

    def __call__(self, samples):
        return webdataset.shuffle(self.size, initial=self.size, rng=self.chance)(samples)

def alone():
    """Takes no samples."""

number = 3
'''
SCRIPT = "user_stages"


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A user's module, importable by its name."""
    (tmp_path / f"{SCRIPT}.py").write_text(STAGES)
    monkeypatch.syspath_prepend(tmp_path)
    yield SCRIPT
    sys.modules.pop(SCRIPT, None)


def module(shards, *stages, **options):
    return WebVidDataModule(
        str(shards), num_frames=4, size=16, batch_size=3, shuffle_buffer=5, stages=list(stages), **options
    )


def passes(loader, number=1):
    return [[(batch["key"], batch["caption"]) for batch in loader] for _ in range(number)]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_reads_a_webdataset_pipeline_through_its_loader(shards, workers):
    for data in (module(shards, num_workers=workers), ShapesDataModule(num_frames=2, size=8, train_clips=6)):
        loader = data.train_dataloader()
        assert isinstance(loader, webdataset.WebLoader)
        assert isinstance(loader.stream, webdataset.DataPipeline)
        # What a webdataset user appends to it.
        batches = list(loader)
        one = list(data.train_dataloader().map(lambda batch: batch["key"]))
        assert len(one) == len(batches) == len(loader)
        assert sorted(key for keys in one for key in plain(keys)) != []
        assert len(list(data.train_dataloader().slice(1))) == 1


def test_stages_are_those_of_a_data_pipeline(shards):
    """The same stages, put together by webdataset itself, give the same samples."""
    stream = module(shards, webdataset.map(lambda sample: sample | {"txt": b"x"})).stream("train")
    shards_of, tar, mixed, own, *_ = stream.pipeline
    keys = [one.key for one in webdataset.DataPipeline(shards_of, tar, mixed)]
    assert keys == [key for batch in stream for key in batch["key"]]
    read = list(webdataset.DataPipeline(shards_of, tar, own))
    assert sorted(one.key for one in read) == sorted(keys)
    assert {one.read()["txt"] for one in read} == {b"x"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stage_sees_samples_as_webdataset_gives_them(shards, workers):
    seen = []

    def look(samples):
        for one in samples:
            seen.append(one)
            yield one

    theirs = {
        f"{one['__url__'][-9:-4]}/{one['__key__']}": one
        for one in webdataset.WebDataset(str(shards / "{00000..00004}.tar"), shardshuffle=False)
    }
    keys = [key for batch in module(shards, look, num_workers=workers).train_dataloader() for key in batch["key"]]
    assert sorted(keys) == sorted(theirs)
    if workers == 0:
        for one in seen:
            other = theirs[one["__key__"]]
            assert {name: one[name] for name in ("mp4", "txt", "json", "__url__")} == {
                name: other[name] for name in ("mp4", "txt", "json", "__url__")
            }


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(3, 1), []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch["key"], batch["caption"], batch["video"].sum().item()))
        return self.layer(batch["video"].float().mean((2, 3, 4)) / 255).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(data, checkpoint=None, **options):
    torch.manual_seed(0)
    model = Model()
    running = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )
    running.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model, running


@pytest.mark.parametrize("workers", [0, 2])
def test_training_with_stages_from_their_names_resumes_bit_exactly(shards, user, tmp_path, workers):
    def data():
        stages = [f"{user}.shout", webdataset.shuffle(4, initial=4, rng=random.Random(1))]
        return module(shards, *stages, num_workers=workers)

    whole, _ = fit(data(), max_steps=14)
    assert all(caption.split()[1].isupper() for _, captions, _ in whole.seen for caption in captions)
    for stop in (3, 11):  # within the first epoch, within the second
        _, running = fit(data(), max_steps=stop)
        running.save_checkpoint(tmp_path / "stopped.ckpt")
        rest, _ = fit(data(), tmp_path / "stopped.ckpt", max_steps=14)
        assert rest.seen == whole.seen[stop:]
        assert torch.equal(rest.layer.weight, whole.layer.weight)


def test_a_pass_with_stages_does_not_decode_what_was_seen(shards, user, monkeypatch):
    stream = module(shards, f"{user}.shout").stream("train")
    decoded = []
    monkeypatch.setattr(stream, "decode", lambda one, *_, f=stream.decode: decoded.append(1) or f(one))
    stream.begin(0, 5)
    assert len(list(stream)) == 3
    assert len(decoded) == 23 - 15


def test_stages_from_a_config(shards, user, tmp_path, monkeypatch):
    stages = [f"{user}.shout", {"class_path": f"{user}.Mixed", "init_args": {"size": 4}}]
    options = {"train_shards": str(shards), "num_frames": 4, "size": 16, "batch_size": 3, "stages": stages}
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(WebVidDataModule, "data")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": options}))
    parser.add_argument("--config", action="config")
    data = parser.instantiate_classes(parser.parse_args(["--config", str(tmp_path / "data.yaml")])).data
    captions = [caption for batch in data.train_dataloader() for caption in batch["caption"]]
    assert sorted(int(caption.split()[0]) for caption in captions) == list(range(23))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("half", r"data\.stages user_stages\.half: gives 11 samples for 23, .*data\.select"),
        ("twice", r"data\.stages user_stages\.twice: gives 2 samples for 1, .*weights of data\.train_shards"),
        ("nothing", r"data\.stages user_stages\.nothing: returns a NoneType, not an iterator"),
        ("alone", r"user_stages\.alone: cannot be called with an iterator over samples .*; name a function of one arg"),
        ("Mixed", r"user_stages\.Mixed: returns a Mixed, not an iterator over samples; give a function"),
    ],
)
def test_a_stage_must_keep_the_number_of_samples(shards, user, workers, stage, words):
    words = words if workers == 0 else words.replace("11 samples for 23", "[0-9]+ samples for [0-9]+")
    with pytest.raises(InputError, match=words) as error:
        list(module(shards, f"{user}.{stage}", num_workers=workers).train_dataloader())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (
            "user_stages.none",
            r"data\.stages user_stages\.none: cannot be imported \(module .* has no attribute 'none'\)",
        ),
        ("no_module.stage", r"data\.stages no_module\.stage: cannot be imported \(No module named 'no_module'\)"),
        ("stage", r"data\.stages stage: cannot be imported"),
        ("user_stages.number", r"data\.stages user_stages\.number: is of type int, which cannot be called"),
    ],
)
def test_invalid_stages_are_an_error_at_the_start(shards, user, stage, words):
    with pytest.raises(InputError, match=words) as error:
        module(shards, stage)
    assert "\n" not in str(error.value)


def test_a_single_stage_is_answered_with_the_right_spelling(shards):
    with pytest.raises(InputError, match=r"^data\.stages a\.b: give a list, \[my_package\.my_stage\]$"):
        WebVidDataModule(str(shards), stages="a.b")


def test_what_a_stage_gives_is_checked(shards):
    for stage, words in (
        (webdataset.map(lambda one: one | {"txt": 3}), "txt of .* is of type int, which cannot be encoded; give bytes"),
        (webdataset.map(lambda one: {"__key__": one["__key__"]}), "23 no video .*; let data.stages keep the video; or"),
        (webdataset.map(lambda one: one["mp4"]), "filters._map: gives a bytes without a text as __key__"),
        (lambda samples: ({"mp4": one["mp4"]} for one in samples), "<lambda>: gives a dict without a text as __key__"),
        (webdataset.batched(2), "filters._batched: gives a dict without a text as __key__"),
    ):
        with pytest.raises(InputError, match=words):
            list(module(shards, stage).train_dataloader())
    facts = webdataset.map(lambda one: one | {"json": {"label": 2}, "txt": "new"})
    for batch in module(shards, facts).train_dataloader():
        assert (set(batch["caption"]), set(batch["label"].tolist())) == ({"new"}, {2})


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_replaced_by_what_stages_gave(tmp_path, user, workers):
    samples = [sample(f"{i:04d}", i, frames=3 if i in (0, 7) else 6) for i in range(12)]
    write_tar(tmp_path / "0.tar", samples)
    lost = tmp_path / "1.tar"
    write_tar(lost, [sample(f"b{i}", i) for i in range(3)])
    data = module(f"{tmp_path}/[01].tar", f"{user}.shout", num_workers=workers, max_bad_share=0.9)
    data.prepare_data()
    lost.unlink()  # its samples cannot be read any more
    batches = list(data.train_dataloader())
    assert sum(len(batch["key"]) for batch in batches) == 15
    assert {key for batch in batches for key in plain(batch["key"])} <= {f"{i:04d}" for i in range(12)} - {
        "0000",
        "0007",
    }
    assert all(caption.isupper() for batch in batches for caption in batch["caption"])


def test_validation_has_no_stages(shards, user):
    data = WebVidDataModule(None, str(shards), num_frames=4, size=16, stages=[f"{user}.half"])
    assert sum(len(batch["key"]) for batch in data.val_dataloader()) == 23
