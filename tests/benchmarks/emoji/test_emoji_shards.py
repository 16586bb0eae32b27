"""The shards of emoji64, from archives to clips, on small archives."""

import tarfile

import pytest
import torch
from PIL import Image

from benchmarks.emoji import shards
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError
from cmd_lightning.provenance import sha256

RABBIT, FOX, STILL = "1f407.webp", "1f98a.webp", "2764-fe0f.webp"


def animation(path, frames):
    """A disc that moves to the right by a pixel per frame, on nothing."""
    images = [Image.new("RGBA", (256, 256)) for _ in range(frames)]
    for step, image in enumerate(images):
        image.paste((255, 0, 0, 255), (step, 100, step + 64, 164))
    images[0].save(path, "WEBP", save_all=frames > 1, append_images=images[1:], duration=42, lossless=True)


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Addresses of two small archives."""
    found = {}
    for number, names in enumerate(([RABBIT, STILL], [FOX])):
        path = tmp_path / f"source-{number}.tgz"
        with tarfile.open(path, "w:gz") as tar:
            for name in names:
                animation(tmp_path / name, 1 if name == STILL else 60)
                tar.add(tmp_path / name, f"package/assets/{name}")
        found[path.as_uri()] = sha256(path)
    monkeypatch.setattr(shards, "ARCHIVES", found)
    return found


@pytest.mark.slow
def test_archives_become_clips_of_a_third_of_the_frames(archives, tmp_path):
    root = tmp_path / "root"
    shards.prepare(root)
    tars = sorted(root.glob("shards/*/*.tar"))
    data = WebVidDataModule(test_shards=[str(path) for path in tars], num_frames=16, size=64, fps=8, batch_size=2)
    [batch] = data.test_dataloader()
    assert sorted(batch["caption"]) == ["fox", "rabbit"]  # and not the still heart
    # Three source pixels per frame are three quarters of a pixel at a quarter of the size.
    reds = (batch["video"][0, 1] < 128).float().sum((1, 2))  # green is missing where the disc is
    assert (reds == 256).float().mean() > 0.5
    columns = (batch["video"][0, 1, :, 32] < 128).float() @ (0.5 + torch.arange(64).float()) / 16
    assert float(columns[12] - columns[0]) == pytest.approx(9, abs=0.5)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    shards.prepare(root)  # nothing is made again
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_another_archive_is_rejected(archives, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ARCHIVES", dict.fromkeys(archives, "0" * 64))
    with pytest.raises(InputError, match="its sha256 is not 000"):
        shards.prepare(tmp_path / "root")


def test_names_need_their_package(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        shards.prepare(tmp_path / "root")
