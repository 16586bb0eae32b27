"""Animated emoji, files named by their code points as 1f468-1f3fd-200d-1f373.webp: captions and splits."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmd_lightning.data.plan import stable_hash

# Code points that give the emoji before them a skin tone.
TONES = {0x1F3FB: "light", 0x1F3FC: "medium-light", 0x1F3FD: "medium", 0x1F3FE: "medium-dark", 0x1F3FF: "dark"}
_HELD_OUT = 12  # one of so many base emoji is in no other split but test: 61 of 734
_NAME = re.compile(r"[0-9a-f]{4,6}(-[0-9a-f]{4,6})*")
_SUFFIXES = (".webp", ".png", ".apng", ".gif")  # not of videos, which may be numbered like code points
_JOINER, _VARIATION = 0x200D, 0xFE0F
_GENDERS = {0x2640: "woman", 0x2642: "man"}


@dataclass(frozen=True)
class Emoji:
    """What the name of a file says."""

    base: tuple[int, ...]  # its code points without skin tones and variation selectors
    tone: str  # its skin tone, as "medium-light"; of people with several tones "light, dark"; "" without any

    def caption(self, name: str) -> str:
        """The name of the base emoji, then the skin tone after a comma."""
        return f"{name}, {self.tone} skin tone" if self.tone else name

    def facts(self, reason: str) -> dict[str, Any]:
        """Entries for the json of a sample; the reason is why it is in its split."""
        code_points = "-".join(f"{point:x}" for point in self.base)
        return {"code_points": code_points, "skin_tone": self.tone or None, "split_reason": reason}


def parse(path: Path) -> Emoji | None:
    """The emoji that a file is named by; None where it is not an image named by the code points of one."""
    stem, suffix = path.stem.lower(), path.suffix.lower()
    if suffix not in _SUFFIXES or not _NAME.fullmatch(stem):
        return None
    points = [int(point, 16) for point in stem.split("-")]
    if not any(_is_symbol(point) for point in points):
        return None
    tones = dict.fromkeys(TONES[point] for point in points if point in TONES)
    return Emoji(tuple(point for point in points if point not in TONES and point != _VARIATION), ", ".join(tones))


def _is_symbol(point: int) -> bool:
    return 0x1F000 <= point <= 0x1FAFF or (point <= 0x10FFFF and unicodedata.category(chr(point)) == "So")


def find_names() -> tuple[str, Callable[[tuple[int, ...]], str]]:
    """Where the names of base emoji are from, and what gives the name of one, in lower case."""
    try:
        import emoji
    except ImportError:
        return f"Unicode {unicodedata.unidata_version} (for CLDR's, pip install emoji)", unicode_name
    known = {
        text.replace(chr(_VARIATION), ""): about["en"].strip(":").replace("_", " ").replace("\u2019", "'").lower()
        for text, about in emoji.EMOJI_DATA.items()
    }
    return (
        f"CLDR (emoji {emoji.__version__})",
        lambda base: known.get("".join(map(chr, base))) or unicode_name(base),
    )


def unicode_name(base: Sequence[int]) -> str:
    """The names of the code points of a base emoji, as "man cooking"; signs of gender come first: "woman elf"."""
    genders = [_GENDERS[point] for point in base[1:] if point in _GENDERS]
    others = [point for place, point in enumerate(base) if point != _JOINER and not (place and point in _GENDERS)]
    names = (unicodedata.name(chr(point), f"u+{point:x}").lower() for point in others)
    return " ".join([*genders, *(name.removeprefix("emoji component ") for name in names)])


def split_emoji(emoji: Sequence[Emoji], seed: int) -> list[tuple[str, str]]:
    """Hold out base emoji, and of the others a fifth of the combinations of person and skin tone.

    A person with several tones loses one of them, chosen by the seed and its code points, unless the tone would be seen
    with no other person. So each person and each tone is still in train. Returned are the split of each emoji, train,
    test or combinations, and the reason.
    """
    bases = sorted({one.base for one in emoji}, key=lambda base: stable_hash("emoji", seed, base))
    test = set(bases[: round(len(bases) / _HELD_OUT)])
    tones: dict[tuple[int, ...], set[str]] = defaultdict(set)
    for one in emoji:
        if one.tone and one.base not in test:
            tones[one.base].add(one.tone)
    seen = Counter(tone for those in tones.values() for tone in those)
    held: set[Emoji] = set()
    for base, those in sorted(tones.items()):
        tone = sorted(those)[stable_hash("tone", seed, base) % len(those)]
        if len(those) > 1 and seen[tone] > 1:
            held.add(Emoji(base, tone))
            seen[tone] -= 1
    return [
        ("test", "base emoji held out")
        if one.base in test
        else ("combinations", "skin tone held out of this person")
        if one in held
        else ("train", "seen")
        for one in emoji
    ]
