"""Outputs replace only files: links, devices and pipes are kept."""

import errno
import json
import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from cmd_lightning.atomic_files import held, replaced
from cmd_lightning.callbacks.whole_checkpoint import WholeCheckpointIO
from cmd_lightning.commands.files import new_folder, write_json
from cmd_lightning.data.index import INDEX_NAME
from cmd_lightning.video_encoding import write_video
from cmd_lightning.video_io import read_video


def write(path, text):
    with replaced(path) as draft:
        draft.write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_at_once_and_keeps_its_permissions(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    path.chmod(0o600)
    with replaced(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ZeroDivisionError), replaced(path) as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "new" and names(tmp_path) == ["result.json"]


def test_a_lock_is_held_by_one_and_leaves_nothing(tmp_path):
    lock = tmp_path / "lock"
    lock.touch()  # of a process that was killed
    with held(lock):
        with pytest.raises(TimeoutError), held(lock, timeout=0):
            pass
        assert names(tmp_path) == ["lock"]
    assert names(tmp_path) == []
    with pytest.raises(ZeroDivisionError), held(lock):
        raise ZeroDivisionError
    assert names(tmp_path) == []


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path, there, relative):
    (tmp_path / "disk").mkdir()
    target = tmp_path / "disk" / "target.json"
    if there:
        target.write_text("old")
    link = tmp_path / "link.json"
    link.symlink_to("disk/target.json" if relative else target)
    second = tmp_path / "second.json"
    second.symlink_to(link)
    write(second, "new")
    assert link.is_symlink() and second.is_symlink()
    assert target.read_text() == "new" and names(tmp_path / "disk") == ["target.json"]


def test_a_pipe_gets_the_bytes_and_stays(tmp_path):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_json({"value": 1}, str(pipe))
    reader.join(10)
    assert json.loads(got[0]) == {"value": 1}
    assert stat.S_ISFIFO(pipe.stat().st_mode) and names(tmp_path) == ["pipe.json"]


@pytest.mark.parametrize(("minor", "error"), [(3, None), (7, errno.ENOSPC)])
def test_a_device_stays_a_device(tmp_path, minor, error):
    device = tmp_path / "device.json"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, minor))  # as /dev/null and /dev/full
        open(device, "wb").close()
    except OSError as reason:
        pytest.skip(f"no devices here: {reason}")
    if error is None:
        write_json({}, str(device))
    else:
        with pytest.raises(OSError) as raised:
            write_json({}, str(device))
        assert raised.value.errno == error
    assert stat.S_ISCHR(device.stat().st_mode) and names(tmp_path) == ["device.json"]


def test_an_open_file_is_written_into(tmp_path):
    path = tmp_path / "out.txt"
    with open(path, "w") as file:
        inode = path.stat().st_ino
        write_json({"value": 2}, f"/dev/fd/{file.fileno()}")
    assert json.loads(path.read_text()) == {"value": 2} and path.stat().st_ino == inode
    receiver, sender = os.pipe()
    write_json({"value": 3}, f"/dev/fd/{sender}")
    os.close(sender)
    with open(receiver) as file:
        assert json.loads(file.read()) == {"value": 3}


def test_checkpoints_videos_and_folders_follow_links(tmp_path):
    import torch

    (tmp_path / "disk").mkdir()
    for name in ("last.ckpt", "clip.mp4", INDEX_NAME):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    WholeCheckpointIO().save_checkpoint({"a": torch.ones(2)}, tmp_path / "last.ckpt")
    write_video(tmp_path / "clip.mp4", torch.zeros(3, 2, 16, 16, dtype=torch.uint8), 8)
    write(tmp_path / INDEX_NAME, "{}")
    assert names(tmp_path / "disk") == ["clip.mp4", INDEX_NAME, "last.ckpt"]
    assert all((tmp_path / name).is_symlink() for name in names(tmp_path / "disk"))
    assert read_video(tmp_path / "clip.mp4").shape == (3, 2, 16, 16)
    assert torch.load(tmp_path / "disk" / "last.ckpt", weights_only=True)["a"].sum() == 2
    (tmp_path / "disk" / "model").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    with new_folder(tmp_path / "model", "out") as draft:
        (draft / "part").touch()
    assert (tmp_path / "model").is_symlink() and names(tmp_path / "disk" / "model") == ["part"]


def test_a_disk_in_memory_is_a_disk(tmp_path):
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        pytest.skip("no such disk here")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        with new_folder(Path(folder, "model"), "--out") as draft:
            (draft / "index.json").write_text("{}")
        write_json({}, f"{folder}/model/index.json")
        assert names(Path(folder, "model")) == ["index.json"] and names(Path(folder)) == ["model"]


def test_errors_name_the_file(tmp_path):
    with pytest.raises(OSError) as raised, replaced(tmp_path / "result.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "result.json")
    for path in (tmp_path / "none" / "result.json", tmp_path):
        with pytest.raises(OSError) as raised:
            write(path, "{}")
        assert raised.value.filename == str(path)
