"""Retired words: `python docs/words.py [FILE ...]` names each one in the repository, with what to write instead.

A word that has an ordinary use too, such as "lies", is only listed in the contexts where it is wrong.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = {".py", ".md", ".yaml", ".yml", ".html", ".jinja", ".txt", ".cfg", ".toml", ".cff"}

RATED = "clips?|frames?|steps?|videos?|samples?|batches|pixels|seconds|minutes|times|gradients|blocks|heads"
RETIRED = {
    rf"\b(?:{RATED}) an? (?:second|minute|step|clip|core|frame|epoch|video|batch|head|line|side|stage)\b": "per",
    r"\bfrom nothing\b": "from scratch",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bbit[- ]equal\b": "bit-exact",
    r"\banew\b": "again, from scratch",
    r"\b(?:go|goes|going|went|gone) on\b": "continue, resume",
    r"\b(?:likewise|therein|thereof|whence)\b": "similarly, in it",
    r"\breckon\w*": "expect, allow for",
    r"\bprocessor (?:seconds|time)\b": "CPU seconds",
    r"\b(?:third party's|someone else's|stranger'?s?'?)\b": "third-party",
    r"\bforeign\b": "third-party, untrusted",
    r"\bno wider than\b": "at most",
    r"\bof (?:its|their|one's) own(?=[.,;:)]|$)": "custom, separate",
    r"\b(?:is|are|be|was|were) told\b(?! apart)|\btold on\b|\bsays so\b|\bwith a word\b": "reports, warns, raises",
    r"\b(?:is|are|was|were) refused\b": "is rejected",
    r"\b(?:lies|lie|stands|stand) (?:in|on|at|beside|next|there|elsewhere)\b": "is, is stored",
    r"\bdrawn (?:weights|from|at|by seed|again|anew|once)\b": "random weights, sampled",
    r"\bbeside\b": "next to, compared with",
    r"\bover features\b": "on features",
    r"\breads? right\b|\bread right\b|\ball three right\b": "classified correctly",
    r"\bpictures?\b": "image, frame",
    r"\bthe way from\b": "the path from",
    r"\b(?:that|which|there) (?:is|are) (?-i:none)\b": "invalid, missing; disables it",
    r"\b(?:an?|each|every|this|resumed|interrupted|whole|brief) fits?\b(?! (?:in|into|to)\b)": "training run",
}
PATTERN = re.compile("|".join(f"({pattern})" for pattern in RETIRED), re.IGNORECASE | re.MULTILINE)
WRITE = list(RETIRED.values())

EXCEPT = {
    *(Path(__file__).resolve(), ROOT / "tests/docs/test_words.py"),
    *(ROOT / f"configs/emoji64/{stage}.yaml" for stage in ("content", "motion")),  # with the names of emoji
}


def found_in(text: str) -> Iterator[tuple[int, str, str]]:
    """The line number of each retired word in a text, the word, and what to write instead."""
    for match in PATTERN.finditer(text.replace("_", " ")):  # names of tests are sentences too
        yield text.count("\n", 0, match.start()) + 1, match[0], WRITE[(match.lastindex or 1) - 1]


def listed() -> list[str]:
    """The texts of the repository, as paths from its top."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return [name for name in names if Path(name).suffix in KINDS and (ROOT / name).is_file()]


def is_checked(path: Path) -> bool:
    """Whether the words of a file are checked."""
    return path.suffix in KINDS and path.resolve() not in EXCEPT


def main(names: Sequence[str]) -> int:
    """Print the retired words of the given files, or of all in the repository; return 1 if there are any."""
    count = 0
    for path in filter(is_checked, map(Path, names or [str(ROOT / name) for name in listed()])):
        for line, word, write in found_in(path.read_text(encoding="utf-8")):
            print(f"{path}:{line}: {word!r}: write {write}")
            count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
