"""As many classes as the data have: from the shard index into the model and its checkpoint."""

import json

import odd_videos
import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from cmd_lightning.cli import main
from cmd_lightning.components import MotionDiffusion
from cmd_lightning.components.checkpoints import load_stage
from cmd_lightning.conditioning import MAX_CLASSES, ClassEncoder
from cmd_lightning.data.classes import read_classes
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError
from cmd_lightning.packing.pack import pack_clips
from cmd_lightning.shapes.datamodule import ShapesDataModule
from cmd_lightning.zoo.motion.dit import MotionDiT

CLIP = odd_videos.encode(odd_videos.numbered(4), "mp4", "libx264")


def packed(folder, labels):
    """Shards of a clip for each label; labels that are lists become class folders."""
    clips = folder / "clips"
    table = ["path,label"]
    for number, label in enumerate(labels):
        place = clips / label if isinstance(label, str) else clips
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.mp4").write_bytes(CLIP)
        table.append(f"{number}.mp4,{label}")
    (folder / "t.csv").write_text("\n".join(table))
    pack_clips(clips, folder / "shards", None if isinstance(labels[0], str) else folder / "t.csv")
    return folder / "shards"


def data(shards, val=None):
    options = {"num_frames": 3, "size": [8, 12], "batch_size": 2}
    return WebVidDataModule(str(shards), val and str(val), str(shards), **options)


def fit(autoencoder, shards, checkpoint=None, data=data, steps=1, **condition):
    model = MotionDiffusion(
        lambda spec, dim: MotionDiT(spec, dim, width=16, depth=1, heads=2),
        autoencoder,
        condition=ClassEncoder(**{"dim": 16} | condition),
        video_shape=(3, 3, 8, 12),
    )
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data(shards), ckpt_path=checkpoint, weights_only=True)
    return trainer


@pytest.mark.parametrize(
    ("labels", "number"), [(["cat", "dog", "eel"], 3), ([0, 10, 2], 11), ([4, 4], 5), (["only"], 1)], ids=str
)
def test_the_index_tells_how_many_classes_there_are(tmp_path, tiny_autoencoder, labels, number):
    trainer = fit(tiny_autoencoder(), packed(tmp_path, labels))
    encoder = trainer.model.condition_encoder
    assert encoder.num_classes == encoder.config.num_classes == number
    assert encoder.table.weight.shape == (number + 1, 16)
    trained = {id(weight) for group in trainer.optimizers[0].param_groups for weight in group["params"]}
    assert id(encoder.table.weight) in trained
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    opened = load_stage(tmp_path / "a.ckpt", "motion", "x").parts["condition_encoder"]
    assert opened.num_classes == number
    torch.testing.assert_close(opened.table.weight, encoder.table.weight)


def test_a_resumed_run_needs_the_same_classes(tmp_path, tiny_autoencoder):
    autoencoder = tiny_autoencoder()
    shards, more = packed(tmp_path / "a", ["cat", "dog"]), packed(tmp_path / "b", ["cat", "dog", "eel"])
    fit(autoencoder, shards).save_checkpoint(tmp_path / "a.ckpt")
    assert fit(autoencoder, shards, tmp_path / "a.ckpt", steps=2).global_step == 2
    with pytest.raises(InputError, match="trained on 2 classes, this run has 3"):
        fit(autoencoder, more, tmp_path / "a.ckpt", steps=2)


def test_data_without_classes_are_rejected(tmp_path, tiny_autoencoder):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.mp4").write_bytes(CLIP)
    pack_clips(tmp_path / "flat", tmp_path / "shards")
    with pytest.raises(InputError, match="the index of the shards has no classes"):
        fit(tiny_autoencoder(), tmp_path / "shards")
    with pytest.raises(InputError, match=r"num_classes: the data do not provide"):
        fit(tiny_autoencoder(), None, data=lambda _: DataLoader([0]))
    with pytest.raises(InputError, match="not known yet"):
        ClassEncoder(dim=8)([0])
    for number in (0, MAX_CLASSES + 1):
        with pytest.raises(InputError, match="num_classes"):
            ClassEncoder(number)


def test_check_counts_classes_of_other_shards(tmp_path, shards, capsys):
    """Shards by anyone have labels in their json alone."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for path in shards.glob("*.tar"):
        (folder / path.name).write_bytes(path.read_bytes())
    assert read_classes([str(folder / "00000.tar")]).number == 0
    assert main(["shards", "check", str(folder), "--json", "-"]) == 0
    assert data(folder).num_classes() == 4
    assert json.loads((folder / "index.json").read_text())["num_classes"] == 4


def test_folders_must_agree_on_their_classes(tmp_path):
    one, other, same = (packed(tmp_path / name, names) for name, names in
                        (("a", ["cat", "dog"]), ("b", ["ant", "cat"]), ("c", ["dog", "cat"])))  # fmt: skip
    assert data(one, same).num_classes() == 2
    with pytest.raises(InputError, match=r"b/shards has the classes ant, cat, .*a/shards has cat, dog"):
        data(one, other).num_classes()


def test_a_damaged_number_of_classes_is_none(tmp_path):
    shards = packed(tmp_path, [3])
    for wrong in ('"9"', "1.5", "true", "null"):
        index = (shards / "index.json").read_text().replace('"num_classes": 4', f'"num_classes": {wrong}')
        (shards / "index.json").write_text(index)
        assert read_classes([str(shards / "000000.tar")]).number == 0
        (shards / "index.json").write_text(index.replace(f'"num_classes": {wrong}', '"num_classes": 4'))


def test_the_procedural_world_has_four():
    data = ShapesDataModule(train_clips=50, size=8, num_frames=1)
    assert data.num_classes() == 4
    assert {int(label) for batch in data.train_dataloader() for label in batch["label"]} == set(range(4))
