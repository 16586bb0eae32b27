"""A contact sheet: an image that shows the contents of shards at a glance."""

import textwrap
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cmd_lightning.atomic_files import replaced
from cmd_lightning.commands.files import make_folder
from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.video_io import VideoReader

_SIDE = 128  # pixels of the square that a frame is fitted into
_GAP, _LINE = 8, 14
_LINES = 3  # lines of text: facts of the clip, and the beginning of its caption
_WIDTH, _HEIGHT = 2 * _SIDE + _GAP, _SIDE + _GAP + _LINES * _LINE
_LETTERS = 44  # per line
_COLUMNS = 4


@dataclass
class ContactSheet:
    """The first and the middle frame of up to `clips` clips, evenly spread over those that were added.

    Attributes:
        path: Image to write; its suffix gives the format.
        clips: Largest number of clips.

    Raises:
        InputError: Pillow writes no images of this suffix, or the number is below 1.
    """

    path: Path
    clips: int = 24
    _cells: list[tuple[list[Any], str, str]] = field(default_factory=list, init=False)
    _step: int = field(default=1, init=False)  # one of so many added clips is kept
    _added: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Check the values."""
        check_positive(sheet_clips=self.clips)
        if self.path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise InputError(f"--sheet {self.path}: give a name that ends in .png, .jpg or .webp")
        make_folder(self.path.parent, "--sheet")

    def add(self, key: str, reader: VideoReader, caption: str) -> None:
        """Add a clip; its frames are read if it may be shown. Raises `VideoError` if they are damaged."""
        if self._added % self._step == 0:
            frames = [_fitted(reader.read([number])[:, 0]) for number in (0, reader.frames // 2)]
            info = reader.info
            about = f"{key}: {info.width}x{info.height}, {info.frames} frames, {info.fps:.4g} fps"
            self._cells.append((frames, about, caption))
            if len(self._cells) == 2 * self.clips:
                self._cells, self._step = self._cells[::2], 2 * self._step
        self._added += 1

    def save(self) -> None:
        """Write the image."""
        from PIL import Image, ImageDraw

        count = min(self.clips, len(self._cells))
        shown = [self._cells[number * len(self._cells) // count] for number in range(count)]
        columns, rows = min(_COLUMNS, max(1, count)), max(1, -(-count // _COLUMNS))
        sheet = Image.new("RGB", (columns * (_WIDTH + _GAP) + _GAP, rows * (_HEIGHT + _GAP) + _GAP), "white")
        draw = ImageDraw.Draw(sheet)
        for number, (frames, about, caption) in enumerate(shown):
            left = _GAP + number % columns * (_WIDTH + _GAP)
            top = _GAP + number // columns * (_HEIGHT + _GAP)
            for side, frame in enumerate(frames):
                sheet.paste(frame, (left + side * (_SIDE + _GAP), top))
            about, caption = _plain(about), _plain(caption)
            begin = textwrap.wrap(caption, _LETTERS, max_lines=_LINES - 1, placeholder=" ...")
            for line, text in enumerate([textwrap.shorten(about, _LETTERS, placeholder=" ..."), *begin]):
                colour = "black" if line else "grey"
                draw.text((left, top + _SIDE + _GAP // 2 + line * _LINE), text, colour, font_size=11)
        with replaced(self.path) as draft:
            sheet.save(draft)


def _plain(text: str) -> str:
    """The text without accents, and with "?" for other letters that Pillow's font lacks."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part)).encode("ascii", "replace").decode()


def _fitted(frame: Tensor) -> Any:
    """A frame (3, H, W) as a small Pillow image."""
    from PIL import Image

    image = Image.fromarray(frame.permute(1, 2, 0).numpy())
    scale = _SIDE / max(image.size)
    return image.resize([max(1, round(side * scale)) for side in image.size])
