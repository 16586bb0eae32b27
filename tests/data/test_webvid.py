import json
import warnings
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from shard_files import plain

from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError

# The model and the two-process script share this source: spawned ranks need a separate file.
MODEL = """
import lightning
import torch

class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch_idx, batch["key"]))
        return self.layer(batch["video"].float().mean((2, 3, 4)) / 255).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("fps", batch["fps"].mean(), sync_dist=True)

    def test_step(self, batch, batch_idx):
        self.seen.append((batch_idx, batch["key"]))

    def predict_step(self, batch, batch_idx):
        return batch["key"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""
scope = {"__name__": __name__}
exec(MODEL, scope)
Model = scope["Model"]


def module(shards, **options):
    options = {"num_frames": 4, "size": 16, "batch_size": 3, "shuffle_buffer": 5} | options
    return WebVidDataModule(str(shards), str(shards), str(shards), **options)


def trainer(**options):
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"enable_checkpointing": False} | options),
    )


def fit(data, checkpoint=None, **options):
    torch.manual_seed(0)
    model = Model()
    running = trainer(**options)
    running.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model, running


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_training_is_bit_exact(shards, tmp_path, workers):
    options = {"num_workers": workers}
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole, _ = fit(module(shards, **options), max_epochs=3, callbacks=[saving], enable_checkpointing=True)
    assert [index for index, _ in whole.seen] == list(range(8)) * 3
    for step in (3, 8, 13):  # within the first epoch, at its end, within the second
        rest, running = fit(module(shards, **options), tmp_path / f"step={step}.ckpt", max_epochs=3)
        assert rest.seen == whole.seen[step:]
        assert running.current_epoch == 3
        assert torch.equal(rest.layer.weight, whole.layer.weight)


def test_stopped_by_max_steps_and_resumed(shards, tmp_path):
    whole, _ = fit(module(shards), max_steps=20)
    path = tmp_path / "stopped.ckpt"
    part, running = fit(module(shards), max_steps=5)
    running.save_checkpoint(path)
    assert torch.load(path, weights_only=True)["WebVidDataModule"]["batches"] == 5
    more, running = fit(module(shards), path, max_steps=11)  # 3 to the end of the epoch, 3 of the next
    running.save_checkpoint(path)
    last, _ = fit(module(shards), path, max_steps=20)
    assert [keys for _, keys in part.seen + more.seen + last.seen] == [keys for _, keys in whole.seen]
    assert torch.equal(last.layer.weight, whole.layer.weight)


@pytest.mark.parametrize("first", [{"max_steps": 8}, {"max_epochs": 1}, {"max_steps": 10}], ids=str)
@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 0}], ids=str)
def test_resumed_from_the_end_of_an_epoch(shards, tmp_path, first, options):
    saving = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, save_on_train_epoch_end=True)
    fit(module(shards), callbacks=[saving], enable_checkpointing=True, **first, **options)
    whole, _ = fit(module(shards), max_steps=20, **options)
    rest, _ = fit(module(shards), tmp_path / "step=8.ckpt", max_steps=20, **options)
    assert rest.seen == whole.seen[8:]
    assert torch.equal(rest.layer.weight, whole.layer.weight)


@pytest.mark.parametrize("changed", [{"batch_size": 2}, {"num_workers": 2}, {"seed": 1}, {"shards": 4}], ids=str)
def test_resume_with_other_data_starts_the_epoch_again(shards, tmp_path, changed):
    def other():
        data = module(shards, **{name: value for name, value in changed.items() if name != "shards"})
        if "shards" in changed:
            data.shards["train_shards"] = f"{shards}/{{00000..0000{changed['shards'] - 1}}}.tar"
        return data

    path = tmp_path / "stopped.ckpt"
    _, running = fit(module(shards), max_steps=5)
    running.save_checkpoint(path)
    with pytest.warns(UserWarning, match="5 batches into epoch 0"):
        again, _ = fit(other(), path, max_steps=8)
    fresh, _ = fit(other(), max_steps=3)
    left = min(3, len(other().train_dataloader()) - 5)  # Lightning counts on: it ends the epoch after so many
    assert [keys for _, keys in again.seen[:left]] == [keys for _, keys in fresh.seen[:left]]


def test_a_second_fit_begins_at_epoch_zero(shards):
    data = module(shards)
    first, _ = fit(data, max_epochs=1)
    second, _ = fit(data, max_epochs=1)
    assert first.seen == second.seen


def test_without_a_trainer_passes_are_epochs_and_the_state_continues(shards):
    data = module(shards)
    first, second = ([batch["key"] for batch in data.train_dataloader()] for _ in range(2))
    assert first != second
    stopped = module(shards)
    loader = iter(stopped.train_dataloader())
    for _ in range(3):
        next(loader)
    resumed = module(shards)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert [batch["key"] for batch in resumed.train_dataloader()] == first[3:]
    assert [batch["key"] for batch in resumed.train_dataloader()] == second
    ended = module(shards)
    list(ended.train_dataloader())
    resumed.load_state_dict(ended.state_dict())
    assert [batch["key"] for batch in resumed.train_dataloader()] == second


def test_starting_an_epoch_leaves_the_global_generator_alone(shards):
    data = module(shards, num_workers=1)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    next(iter(data.train_dataloader()))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_fixed_and_complete(shards, workers):
    data = module(shards, num_workers=workers)
    model, running = Model(), trainer()
    running.test(model, datamodule=data, verbose=False)
    once = [keys for _, keys in model.seen]
    assert sorted(key for keys in once for key in plain(keys)) == [f"{i:04d}" for i in range(23)]
    assert running.predict(model, datamodule=data) == once
    if workers == 0:
        assert plain(once[0]) == ["0000", "0001", "0002"]
    videos = [torch.cat([batch["video"] for batch in data.val_dataloader()]) for _ in range(2)]
    assert torch.equal(*videos)


@pytest.mark.parametrize("workers", [0, 1])
def test_overfitting_sees_the_same_clips_in_every_epoch(shards, workers):
    class Watching(Model):
        def training_step(self, batch, batch_idx):
            self.seen.append((batch_idx, batch["key"], batch["epoch"], batch["video"]))
            return super().training_step(batch, batch_idx)

    model = Watching()
    trainer(overfit_batches=2, max_epochs=3).fit(model, datamodule=module(shards, num_workers=workers))
    seen = [step for step in model.seen if len(step) == 4]
    assert [(index, epoch) for index, _, epoch, _ in seen] == [(i, e) for e in range(3) for i in range(2)]
    for index in range(2):
        first, *others = seen[index::2]
        assert all(other[1] == first[1] and torch.equal(other[3], first[3]) for other in others)
    assert seen[0][1] != seen[1][1]


def test_batches(shards):
    data = module(shards, num_frames=3, size=[8, 12], fps=4.0, batch_size=2)
    batch = next(iter(data.train_dataloader()))
    assert batch["video"].shape == (2, 3, 3, 8, 12)
    assert (batch["video"].dtype, batch["label"].dtype, batch["fps"].dtype) == (
        torch.uint8,
        torch.int64,
        torch.float32,
    )
    assert batch["fps"].tolist() == [4, 4]
    assert set(batch) == {"video", "caption", "label", "key", "fps", "epoch"}
    assert all(caption.startswith("a ") for caption in batch["caption"])


def test_no_validation_shards_and_no_needless_warnings(shards):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(WebVidDataModule(str(shards), num_frames=4, size=16), max_epochs=1)
    assert not [w for w in caught if "__len__" in str(w.message)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fps": 8.0, "stride": 2}, "fps 8.0 and stride 2"),
        ({"fps": -1.0}, "fps -1.0"),
        ({"fps": float("nan")}, "fps nan"),
        ({"stride": 0}, "stride 0"),
        ({"size": [8, 8, 8]}, "size"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"crop": "left"}, "crop left: give center or random"),
        ({"images": "yes"}, "images yes: give forbid or still"),
    ],
)
def test_wrong_options(shards, options, words):
    with pytest.raises(InputError, match=words):
        module(shards, **options)


@pytest.mark.parametrize("given", [Path("a"), 5])
def test_shards_of_other_types_are_an_error(given):
    with pytest.raises(InputError, match=r"^val_shards .*: give a path as str, or a list of them$"):
        WebVidDataModule(val_shards=given)


def test_missing_shards_are_named_with_their_option(tmp_path):
    with pytest.raises(InputError, match=r"train_shards .*none\.tar: no such shard"):
        WebVidDataModule(str(tmp_path / "none.tar")).train_dataloader()
    with pytest.raises(InputError, match="test_shards: none given"):
        WebVidDataModule().test_dataloader()


def test_only_the_shards_of_the_verb_need_exist(shards, tmp_path):
    def data(*given):
        gone = dict.fromkeys(("train_shards", "val_shards", "test_shards"), str(tmp_path / "none.tar"))
        return WebVidDataModule(**(gone | dict.fromkeys(given, str(shards))), num_frames=4, size=16)

    fit(data("train_shards", "val_shards"), max_steps=1)
    trainer().validate(Model(), datamodule=data("val_shards"), verbose=False)
    trainer().test(Model(), datamodule=data("test_shards"), verbose=False)
    trainer().predict(Model(), datamodule=data("test_shards"))
    with pytest.raises(InputError, match="val_shards"):
        fit(data("train_shards"), max_steps=1)
    with pytest.raises(InputError, match="test_shards"):
        data("train_shards", "val_shards").prepare_data()


TWO_RANKS = """
import json, sys
from cmd_lightning.data.webvid import WebVidDataModule

if __name__ == "__main__":
    shards, out = sys.argv[1:]
    for count, workers in ((5, 0), (1, 2)):
        names = [f"{shards}/{i:05d}.tar" for i in range(5)][-count:]
        data = WebVidDataModule(names, names, num_frames=4, size=16, batch_size=2, num_workers=workers)
        model = Model()
        trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
                                    enable_checkpointing=False, enable_progress_bar=False)
        trainer.fit(model, datamodule=data)
        with open(f"{out}/{count}-{workers}-{trainer.global_rank}.json", "w") as file:
            json.dump(model.seen, file)
"""


def test_two_processes_see_every_sample_once(python, shards, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(MODEL + TWO_RANKS)
    done = python.run(script, shards, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for count, workers, samples in ((5, 0, 23), (1, 2, 6)):
        ranks = [json.loads((tmp_path / f"{count}-{workers}-{rank}.json").read_text()) for rank in (0, 1)]
        assert len(ranks[0]) == len(ranks[1])
        steps = len(ranks[0]) // 2
        for epoch in (0, 1):
            keys = [key for seen in ranks for _, batch in seen[epoch * steps :][:steps] for key in plain(batch)]
            assert sorted(keys) == [f"{i:04d}" for i in range(23 - samples, 23)]
