"""Checkpoint files are complete or absent."""

import errno
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from cmd_lightning.callbacks.whole_checkpoint import WholeCheckpointIO
from cmd_lightning.errors import InputError

OLD, NEW = {"step": 1, "w": torch.arange(3.0)}, {"step": 2, "w": torch.randn(300, 1000)}


@pytest.fixture
def path(tmp_path):
    """A checkpoint that is there already."""
    WholeCheckpointIO().save_checkpoint(OLD, tmp_path / "folder" / "last.ckpt")
    return tmp_path / "folder" / "last.ckpt"


def files(path):
    return sorted(os.listdir(path.parent))


def test_a_checkpoint_takes_the_place_of_the_one_before(path):
    assert files(path) == ["last.ckpt"]
    (path.parent / ".last.ckpt.part").write_bytes(b"what a killed process left")
    WholeCheckpointIO().save_checkpoint(NEW, path)
    assert files(path) == ["last.ckpt"]
    assert torch.equal(torch.load(path, weights_only=True)["w"], NEW["w"])
    for mmap in (False, True):
        assert torch.equal(WholeCheckpointIO(mmap).load_checkpoint(path)["w"], NEW["w"])


def test_a_file_that_may_not_grow_leaves_the_one_before(path, tmp_path):
    child = os.fork()  # the limit cannot be lifted again without privileges
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
            WholeCheckpointIO().save_checkpoint(NEW, path)
        except InputError as error:
            (tmp_path / "message").write_text(str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    message = (tmp_path / "message").read_text()
    assert message.startswith(f"checkpoint {path}: it cannot be written (File too large); about 0.0012 GB are needed, ")
    assert f"the one before is intact: `ckpt_path` {path}; make room" in message
    assert files(path) == ["last.ckpt"]
    assert torch.load(path, weights_only=True)["step"] == 1


def test_a_full_disk_leaves_the_one_before(path, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("small disks cannot be mounted here")
    try:
        target = disk / "last.ckpt"
        WholeCheckpointIO().save_checkpoint(OLD, target)
        with pytest.raises(InputError, match=r"No space left on device.*0\.0012 GB are needed, 0\.00\d+ GB are free"):
            WholeCheckpointIO().save_checkpoint(NEW, target)
        assert files(target) == ["last.ckpt"]
        assert torch.load(target, weights_only=True)["step"] == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_what_the_system_refuses_late_is_reported_too(path, monkeypatch, name, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, refuse)
    with pytest.raises(InputError, match=os.strerror(code)):
        WholeCheckpointIO().save_checkpoint(NEW, path)
    assert files(path) == ["last.ckpt"]
    assert torch.load(path, weights_only=True)["step"] == 1


def test_a_first_checkpoint_promises_none_before(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="File exists") as error:
        WholeCheckpointIO().save_checkpoint(NEW, tmp_path / "file" / "last.ckpt")
    assert "intact" not in str(error.value)


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def test_bytes_that_change_on_the_way_to_the_disk_are_found(path, monkeypatch):
    sync = os.fsync

    def damage(descriptor):
        sync(descriptor)
        flip(path.with_name(".last.ckpt.part"), -100_000)

    monkeypatch.setattr(os, "fsync", damage)
    with pytest.raises(InputError, match="not written, it could not be read back"):
        WholeCheckpointIO().save_checkpoint(NEW, path)
    assert files(path) == ["last.ckpt"]
    assert torch.load(path, weights_only=True)["step"] == 1


def test_what_could_not_be_loaded_again_is_not_written(path):
    with pytest.raises(InputError, match="tensors and plain data"):
        WholeCheckpointIO().save_checkpoint(NEW | {"callback": Path("code")}, path)
    with pytest.raises(Exception, match="pickle"):
        WholeCheckpointIO().save_checkpoint(NEW | {"callback": lambda: 0}, path)
    assert files(path) == ["last.ckpt"]
    assert torch.load(path, weights_only=True)["step"] == 1


def test_every_damaged_byte_of_a_tensor_is_found_when_loading(path):
    WholeCheckpointIO().save_checkpoint(NEW, path)
    flip(path, 600_000)
    torch.load(path, weights_only=True)  # torch itself does not look
    with pytest.raises(InputError, match=rf"checkpoint {path}: it is damaged .*; give another one"):
        WholeCheckpointIO().load_checkpoint(path)


def test_a_cut_file_is_reported(path):
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match="damaged or no checkpoint"):
        WholeCheckpointIO().load_checkpoint(path)


def test_two_fits_do_not_write_one_file(tmp_path, monkeypatch):
    """The second is rejected while the first writes, and neither costs what is there."""
    path, io = tmp_path / "last.ckpt", WholeCheckpointIO()
    io.save_checkpoint({"step": 1}, path)
    save = torch.save

    def meanwhile(checkpoint, file):
        save(checkpoint, file)
        monkeypatch.setattr(torch, "save", save)
        with pytest.raises(InputError, match="another run is writing it"):
            io.save_checkpoint({"step": 3}, path)

    monkeypatch.setattr(torch, "save", meanwhile)
    io.save_checkpoint({"step": 2}, path)
    assert io.load_checkpoint(path) == {"step": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
