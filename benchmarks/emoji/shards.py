"""Downloads the animated Fluent emoji, makes them smaller, and packs them into shards.

    python -m benchmarks.emoji.shards    # outputs/emoji64/shards: 0.7 GB to download, 5 minutes of one CPU core

The source has 256×256 pixels at 24 frames per second. Models of 64×64 pixels at 8 frames per second load files of
128×128 pixels with every third frame seven times faster.
"""

import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

from PIL import Image

from benchmarks.cells import command_line
from cmd_lightning.atomic_files import replaced
from cmd_lightning.commands.stages import COMMAND
from cmd_lightning.errors import InputError, program
from cmd_lightning.provenance import sha256

ARCHIVES = {
    "https://registry.npmjs.org/@lobehub/fluent-emoji-anim-1/-/fluent-emoji-anim-1-1.0.0.tgz": (
        "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea"
    ),
    "https://registry.npmjs.org/@lobehub/fluent-emoji-anim-2/-/fluent-emoji-anim-2-1.0.0.tgz": (
        "e431da8172e394036c330faa77648d6fbbae1fd3b0be95637c4497c9075019c0"
    ),
    "https://registry.npmjs.org/@lobehub/fluent-emoji-anim-3/-/fluent-emoji-anim-3-1.0.0.tgz": (
        "3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43"
    ),
    "https://registry.npmjs.org/@lobehub/fluent-emoji-anim-4/-/fluent-emoji-anim-4-1.0.0.tgz": (
        "3d4c08f1e321f70808ef4996aba0ab575a9d97b6c56ffffc92cf6161a7836aa3"
    ),
}
"""Their sha256 by address."""
ROOT = Path("outputs/emoji64")
SIDE, EVERY, DURATION = 128, 3, 125
"""Pixels of a side, which frame of the source is the next one, and milliseconds that it is shown."""


def fetch(address: str, digest: str, folder: Path) -> Path:
    """The archive at an address, downloaded if it is not there.

    Raises:
        InputError: It is another file than the one that models were trained on.
    """
    path = folder / address.rpartition("/")[2]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        print(address, flush=True)
        with replaced(path) as temporary, urlopen(address) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target)
    if sha256(path) != digest:
        raise InputError(f"{path}: its sha256 is not {digest}; remove it and run the same command again")
    return path


def unpack(archives: Iterable[Path], folder: Path) -> list[Path]:
    """The images of the archives, sorted by name."""
    for archive in archives:
        with tarfile.open(archive) as tar:
            for member in tar:
                target = folder / Path(member.name).name
                if member.name.endswith(".webp") and not target.is_file():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    source = tar.extractfile(member)
                    assert source is not None  # it is a file
                    with replaced(target) as temporary, source:
                        temporary.write_bytes(source.read())
    return sorted(folder.glob("*.webp"))


def shrink(source: Path, target: Path) -> bool:
    """Writes every third frame of an animation in a smaller size, without loss; False for a still image."""
    with Image.open(source) as image:
        number = getattr(image, "n_frames", 1)
        if number <= EVERY:
            return False
        frames = []
        for index in range(0, number, EVERY):
            image.seek(index)
            frames.append(image.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.BOX))
    options = {"lossless": True, "quality": 0, "method": 0, "duration": DURATION, "loop": 0}
    with replaced(target) as temporary:
        frames[0].save(temporary, "WEBP", save_all=True, append_images=frames[1:], **options)
    return True


def prepare(root: Path = ROOT) -> None:
    """Makes ROOT/shards, unless it is there.

    Raises:
        InputError: An archive is another file, a package is missing, or packing failed.
    """
    if (root / "shards").is_dir():
        return
    if find_spec("emoji") is None:
        raise InputError("emoji64 needs the names of the package emoji: pip install 'cmd-lightning[emoji]'")
    small = root / "small"
    small.mkdir(parents=True, exist_ok=True)
    archives = [fetch(address, digest, root / "archives") for address, digest in ARCHIVES.items()]
    images = unpack(archives, root / "images")
    for number, image in enumerate(images):
        if not (small / image.name).is_file():
            shrink(image, small / image.name)
        if number % 500 == 499:
            print(f"{number + 1} of {len(images)} images", flush=True)
    words = ["shards", "pack", "--videos", str(small), "--out", str(root / "shards")]
    if subprocess.run([*COMMAND, *words]).returncode:
        raise InputError(f"{small}: packing failed, as said above")


def main() -> int:
    """The command line."""
    command_line(__doc__).parse_args()
    prepare()
    print(ROOT / "shards")
    return 0


if __name__ == "__main__":
    program(main)
