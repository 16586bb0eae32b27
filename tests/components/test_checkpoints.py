import io
import pickle
import tarfile
from pathlib import Path

import pytest
import torch
from diffusers.utils import logging

from cmd_lightning.callbacks.whole_checkpoint import WholeCheckpointIO
from cmd_lightning.components.checkpoints import KEY, load_stage, stage_of
from cmd_lightning.errors import InputError
from cmd_lightning.provenance import fingerprint


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("shown", [True, False])
def test_a_stage_of_a_model_opens_without_a_progress_bar(capfd, shown):
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    try:
        load_stage("shapes32", "autoencoder", "model.autoencoder")
        assert logging.is_progress_bar_enabled() == shown  # the user's choice stays
    finally:
        logging.enable_progress_bar()
    assert capfd.readouterr().err == ""


def test_a_stage_comes_back_as_it_was(tiny_stages):
    paths, components = tiny_stages("caption")
    for name, component in components.items():
        stage = load_stage(paths[name], name, "model")
        assert (stage.name, stage.video_shape, stage.fps) == (name, (3, 5, 8, 12), 7.0)
        assert stage_of(paths[name]) == name
        learned = {"network"} if name == "autoencoder" else {"network", "condition_encoder"}
        assert set(stage.parts) == learned | {"latent_space" if name == "autoencoder" else "scheduler"}
        for part in learned:
            again, original = stage.parts[part], getattr(component, part)
            assert type(again) is type(original)
            assert not again.training
            assert not any(p.requires_grad for p in again.parameters())
            for key, value in original.state_dict().items():
                assert torch.equal(again.state_dict()[key], value), key
    assert load_stage(paths["autoencoder"], "autoencoder", "m").trained_on is None


def test_latent_stages_know_their_autoencoder(tiny_stages):
    paths, components = tiny_stages()
    expected = fingerprint(components["autoencoder"].network.state_dict())
    assert load_stage(paths["motion"], "motion", "m").trained_on == expected
    assert not [key for key in components["motion"].state_dict() if "content_head" in key]  # it is not in there twice


def test_averaged_weights_win(tiny_stages, save_checkpoint, tmp_path):
    _, components = tiny_stages()
    motion = components["motion"]
    name = "network.head.weight"
    averaged = torch.randn_like(motion.state_dict()[name])
    path = save_checkpoint(motion, tmp_path / "averaged.ckpt", ema={name: averaged})
    network = load_stage(path, "motion", "m").parts["network"]
    assert torch.equal(network.head.weight, averaged)
    assert torch.equal(network.head.bias, motion.network.head.bias)


def test_another_stage_is_reported(tiny_stages):
    paths, _ = tiny_stages()
    with pytest.raises(InputError, match=r"model.autoencoder .*motion\.ckpt: this checkpoint holds the motion stage"):
        load_stage(paths["motion"], "autoencoder", "model.autoencoder")


def test_files_that_are_no_checkpoint_are_reported(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    for name, message in (
        ("other.ckpt", "not written by cmd-lightning"),
        ("text.ckpt", "cannot be read as a checkpoint"),
        ("empty.ckpt", "cannot be read as a checkpoint"),
        ("none.ckpt", "there is no such file"),
        (".", "there is no such file"),
    ):
        with pytest.raises(InputError, match=message) as error:
            load_stage(tmp_path / name, "motion", "motion")
        assert "\n" not in str(error.value)


def as_zip(path, content):
    torch.save(content, path)


def as_legacy(path, content):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_pickle(path, content):
    path.write_bytes(pickle.dumps(content))


def as_tar(path, content):
    data = pickle.dumps(content)
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


class Scripted(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def as_torchscript(path, content):
    torch.jit.script(Scripted()).save(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("write", [as_zip, as_legacy, as_pickle, as_tar, as_torchscript])
def test_code_in_a_checkpoint_is_not_run(tmp_path, write):
    path, witness = tmp_path / "evil.ckpt", tmp_path / "ran"
    content = {KEY: {"stage": "motion"}, "state_dict": Bomb(str(witness))}
    write(path, content)
    for attempt, message in (
        (lambda: load_stage(path, "motion", "motion"), "cannot be read as a checkpoint"),
        (lambda: WholeCheckpointIO().load_checkpoint(path, weights_only=False), "damaged or no checkpoint"),
    ):
        with pytest.raises(InputError, match=message) as error:
            attempt()
        assert "\n" not in str(error.value)
    assert not witness.exists()
    pickle.loads(pickle.dumps(content))
    assert witness.exists()  # the bomb is live


def test_a_damaged_checkpoint_is_reported(tiny_stages, tmp_path):
    paths, _ = tiny_stages()
    data = paths["motion"].read_bytes()
    (tmp_path / "half.ckpt").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_stage(tmp_path / "half.ckpt", "motion", "motion")


def test_fingerprint_tells_values_names_and_shapes_apart():
    tensors = {"a": torch.arange(6.0), "b": torch.zeros(2, 3)}
    first = fingerprint(tensors)
    assert len(first) == 16
    assert fingerprint({"b": torch.zeros(2, 3), "a": torch.arange(6.0)}) == first  # the order is no difference
    changed = tensors["a"].clone()
    changed[3] += 1e-6
    others = [
        {"a": changed, "b": tensors["b"]},
        {"a": tensors["a"], "c": tensors["b"]},
        {"a": tensors["a"], "b": torch.zeros(3, 2)},
        {"a": tensors["a"]},
    ]
    assert len({first, *map(fingerprint, others)}) == 5
    half = {"a": torch.arange(6.0, dtype=torch.bfloat16), "b": torch.zeros(2, 3)}
    assert fingerprint(half) == first  # the values count, not how they are stored
