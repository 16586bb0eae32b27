"""Annotations of clips that are to be packed: rows from tables, class folders and the files of public data sets.

What cannot be read is an `InputError` that names the file and the fault.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cmd_lightning.clip_folder import clip_suffix, files_below
from cmd_lightning.data.clips import BadSample, read_caption, read_facts, whole_number
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.errors import InputError
from cmd_lightning.packing.emoji import Emoji, find_names, parse, split_emoji
from cmd_lightning.packing.table import ACCEPTED, read_table
from cmd_lightning.video_io import VIDEO_SUFFIXES

_WRITTEN = (".txt", ".json")  # files next to clips that may hold captions, the first choice first
_MISSING = {"nan", "none", "null", "na", "n/a", "<na>", "-1", "-1.0"}  # of numbers, as libraries write it
_UCF101_LIST = re.compile(r"(train|test)list\d+\.txt")
_MSRVTT_SPLITS = {"validate": "val"}  # what we call them


@dataclass(frozen=True, slots=True)
class Row:
    """A clip; "" is for what is unknown, or none."""

    path: str  # of its file, within the folder of the clips
    caption: str = ""
    label: str = ""  # its class, by name or number
    split: str = ""
    captions: tuple[str, ...] = ()  # all that were written for it, where there are several
    facts: Mapping[str, Any] = field(default_factory=dict)  # more entries for its json


@dataclass(frozen=True)
class Annotations:
    """The clips of a data set."""

    rows: list[Row]
    labels: dict[str, int]  # numbers of the classes, by what rows call them
    classes: list[str]  # names by number; empty where rows name none
    moved: bool = False  # copies differ in places and formats of files, so that a file is found by its stem
    notes: list[str] = field(default_factory=list)  # what a user should know of how they were read
    from_folder: bool = False  # the rows are what the folder of clips holds, not those of a table
    read: frozenset[Path] = frozenset()  # files in the folder of the clips that captions were read from

    @property
    def num_classes(self) -> int:
        """Number of classes, 1 + the largest label; 0 without any."""
        return max(self.labels.values(), default=-1) + 1


def read_annotations(videos: Path, captions: Path | None, prompts: Path | None = None, seed: int = 0) -> Annotations:
    """Read annotations of clips in any known layout, which files and columns tell; None: what `videos` holds.

    `prompts` are captions by class, in place of all others; the seed chooses where a clip has several captions,
    and what is held out of a layout without splits.
    """
    if captions is None:
        annotations = read_folder(videos, seed)
    elif captions.is_dir():
        annotations = read_ucf101(captions, ["trainlist01.txt", "testlist01.txt"])
    elif not captions.is_file():
        raise InputError(f"captions {captions}: no such file or folder; {ACCEPTED}")
    elif _UCF101_LIST.fullmatch(captions.name):
        annotations = read_ucf101(captions.parent, [captions.name])
    elif captions.suffix.lower() == ".json":
        annotations = read_msrvtt(captions, seed)
    else:
        table = read_table(captions)
        rows = [_row_of(cells) for cells in table.rows]
        annotations = number_labels(rows, "path" not in table.columns, table.notes)
    return annotations if prompts is None else with_prompts(annotations, prompts)


def number_labels(rows: list[Row], moved: bool = False, notes: Sequence[str] = ()) -> Annotations:
    """Annotations whose labels keep their numbers if all are whole ones, and else count names in alphabetical order.

    Pandas writes whole numbers as "10.0" and "nan" once one is missing: these are a whole number and no label; -1 is
    no label, too, as in the json of samples.
    """
    names = sorted({row.label for row in rows} - {""})
    numbers = {name: whole_number(name) for name in names}
    others = [name for name in names if numbers[name] is None]
    if len(others) < len(names) and all(name.lower() in _MISSING for name in others):
        called = {name: "" if number is None else str(number) for name, number in numbers.items()} | {"": ""}
        rows = [replace(row, label=called[row.label]) for row in rows]
        return Annotations(rows, {name: int(name) for name in called.values() if name}, [], moved, list(notes))
    if 0 < len(others) < len(names):
        note = f"labels: '{others[0]}' is not a whole number, so labels are names, numbered in alphabetical order"
        notes = [*notes, note]
    return Annotations(rows, {name: number for number, name in enumerate(names)}, names, moved, list(notes))


def _row_of(cells: Mapping[str, str]) -> Row:
    if "videoid" in cells:  # of WebVid
        path, caption = f"{cells['page_dir']}/{cells['videoid']}.mp4", cells["name"]
    else:
        path, caption = cells.get("path") or cells.get("video", ""), cells.get("caption", "")
    return Row(path, caption, cells.get("label", ""), cells.get("split", ""))


def read_folder(folder: Path, seed: int = 0) -> Annotations:
    """Take the clips of a folder, at any depth; the folders in it that hold clips are their classes.

    Clips that are all named by the code points of emoji are read as such. Otherwise, captions are those of
    `{clip}.txt` or `{clip}.json` next to clips; where no clip has such a file, the names of the classes in words, and
    clips next to class folders are left out.
    """
    found = [path.relative_to(folder) for path in files_below(folder)]
    clips = sorted(path for path in found if clip_suffix(folder / path))
    if not clips:
        known = ", ".join("." + suffix for suffix in VIDEO_SUFFIXES)
        raise InputError(f"videos {folder}: no clips in it ({known}); give a folder of clips, or of class folders")
    written = {clip: _written_caption(folder / clip) for clip in clips}
    kinds = Counter(kind for _, kind in written.values() if kind)
    emoji = [one for clip in clips if (one := parse(clip))]
    if not kinds and len(emoji) == len(clips):
        return _emoji_rows(folder, clips, emoji, seed)
    classes = any(len(clip.parts) > 1 for clip in clips)
    rows, notes = [], []
    for clip in clips:
        label = clip.parts[0] if len(clip.parts) > 1 else ""
        if kinds or label or not classes:
            rows.append(Row(str(clip), written[clip][0] if kinds else label.replace("_", " "), label))
    if kinds:
        files = " and ".join(f"{number} {kind} file{'s' * (number > 1)}" for kind, number in sorted(kinds.items()))
        without = len(clips) - kinds.total()
        notes = [f"videos {folder}: captions from {files}; {without} clip{'s' * (without != 1)} without"]
    stems = {clip.with_suffix("") for clip in clips}
    read = frozenset(path for path in found if path.suffix in _WRITTEN and path.with_suffix("") in stems)
    return replace(number_labels(rows, notes=notes), from_folder=True, read=read)


def _emoji_rows(folder: Path, clips: Sequence[Path], emoji: Sequence[Emoji], seed: int) -> Annotations:
    """The annotations of clips that are emoji: captions and classes from the names of code points, random splits."""
    source, name_of = find_names()
    rows = []
    for clip, one, (split, reason) in zip(clips, emoji, split_emoji(emoji, seed), strict=True):
        name = name_of(one.base)
        rows.append(Row(str(clip), one.caption(name), name, split, facts=one.facts(reason)))
    toned, bases = sum(bool(one.tone) for one in emoji), len({one.base for one in emoji})
    held = len({one.base for one, row in zip(emoji, rows, strict=True) if row.split == "test"})
    splits = ", ".join(f"{name} {number}" for name, number in sorted(Counter(row.split for row in rows).items()))
    notes = [
        f"videos {folder}: {len(clips)} animated emoji, {toned} of them with a skin tone, of {bases} base emoji",
        f"captions: English names of {source}",
        f"splits: {splits}; {held} base emoji are in test alone",
    ]
    return replace(number_labels(rows, notes=notes), from_folder=True)


def _written_caption(clip: Path) -> tuple[str, str]:
    """The caption in the files next to a clip, and the suffix of the file; "" without any, or where it is damaged."""
    for suffix in _WRITTEN:
        if (path := clip.with_suffix(suffix)).is_file():
            members = {suffix[1:]: path.read_bytes()}
            with suppress(BadSample):
                if caption := read_caption(members, read_facts(members)):
                    return caption, suffix
    return "", ""


def with_prompts(annotations: Annotations, path: Path) -> Annotations:
    """Caption clips by their classes, from a CSV with the columns class,prompt, or a line for each class in order."""
    if not annotations.classes:
        raise InputError(f"prompts {path}: the clips have no classes by name; leave it out, or give such clips")
    lines = _lines(path, "prompts", "give a CSV class,prompt, or one prompt per line for each class, in UTF-8")
    prompts = _prompts_by_class([line for line in lines if line], annotations.classes, path)
    rows = [replace(row, caption=prompts.get(row.label, row.caption)) for row in annotations.rows]
    return replace(annotations, rows=rows)


def _prompts_by_class(lines: list[str], classes: list[str], path: Path) -> dict[str, str]:
    named = sum(line.partition(",")[0].strip('" ') in classes for line in lines)
    headed = [cell.strip().lower() for cell in "".join(lines[:1]).split(",")] == ["class", "prompt"]
    lines = lines[headed:]
    if not headed and named <= len(lines) / 2:  # a prompt may begin with the name of a class
        if len(lines) != len(classes):
            raise InputError(f"prompts {path}: {len(lines)} lines for {len(classes)} classes; give one each, in order")
        return dict(zip(classes, lines, strict=True))
    pairs = [[cell.strip() for cell in cells] for cells in csv.reader(lines, skipinitialspace=True)]
    for cells in pairs:
        if len(cells) != 2 or cells[0] not in classes or not cells[1]:
            example = f'{classes[0]},"a prompt, in quotes if it has commas"'
            raise InputError(f"prompts {path}: '{','.join(cells)[:80]}' is not a class and its prompt; write {example}")
    prompts = dict(pairs)
    if len(pairs) != len(classes) or len(prompts) != len(classes):
        odd = next((name for name in classes if [cells[0] for cells in pairs].count(name) != 1), "")
        raise InputError(f"prompts {path}: class {odd} has no prompt, or two; give each of {len(classes)} classes one")
    return prompts


def read_ucf101(folder: Path, lists: list[str]) -> Annotations:
    """Read lists of UCF-101's action recognition task: `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1` per line.

    Captions are the names of the classes in words, labels their numbers in classInd.txt less one, and "train" and
    "test" are the splits. Lists of tests have no numbers of classes.
    """
    if not (folder / "classInd.txt").is_file():
        raise InputError(f"captions {folder}: no classInd.txt in it, as UCF-101's lists have; {ACCEPTED}")
    classes: dict[str, int] = {}
    for place, words in _words(folder / "classInd.txt"):
        if len(words) != 2 or words[0] != str(len(classes) + 1) or words[1] in classes:
            raise InputError(f"{place}: a number and a class are expected, counted from 1, as '1 ApplyEyeMakeup'")
        classes[words[1]] = len(classes)
    rows = []
    for name in lists:
        for place, words in _words(folder / name):
            label, _, file = words[0].partition("/")
            if not file or len(words) > 2 or label not in classes or words[1:] not in ([], [str(classes[label] + 1)]):
                raise InputError(f"{place}: not a class of classInd.txt, a clip and perhaps the number of the class")
            caption = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label).lower()
            rows.append(Row(words[0], caption, label, "train" if name.startswith("train") else "test"))
    return Annotations(rows, classes, list(classes), moved=True)


def _words(path: Path) -> list[tuple[str, list[str]]]:
    """The words of each line of one of UCF-101's lists, with what to call it in an error."""
    lines = _lines(path, "captions", "give the whole folder ucfTrainTestlist of UCF-101")
    if not any(lines):
        raise InputError(f"captions {path}: it is empty; fetch UCF-101's lists again")
    return [(f"captions {path}, line {number}", line.split()) for number, line in enumerate(lines, 1) if line]


def _lines(path: Path, option: str, remedy: str) -> list[str]:
    """The lines of a text file, without the space around them."""
    if not path.is_file():
        raise InputError(f"{option} {path}: no such file; {remedy}")
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise InputError(f"{option} {path}: not text in UTF-8 ({error}); {remedy}") from error


def read_msrvtt(path: Path, seed: int = 0) -> Annotations:
    """Read MSR-VTT's train_val_videodatainfo.json, test_videodatainfo.json, or one that holds both.

    About twenty people described each clip. One description is chosen by the seed and the id of the clip, whatever
    their order, as VideoLDM's evaluation does; all are kept next to it.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
        sentences: dict[str, list[tuple[int, str]]] = {}
        for sentence in facts["sentences"]:
            caption = sentence["caption"].strip().encode("utf-8", "replace").decode()  # JSON may hold half a character
            sentences.setdefault(sentence["video_id"], []).append((sentence["sen_id"], caption))
        rows = [_described_row(video, sorted(sentences.get(video["video_id"], [])), seed) for video in facts["videos"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        known = "MSR-VTT's json, with videos (video_id, split) and sentences (video_id, caption, sen_id)"
        raise InputError(f"captions {path}: not {known}: {type(error).__name__} {error}; {ACCEPTED}") from error
    if missing := [row.path for row in rows if not row.captions]:
        raise InputError(
            f"captions {path}: {len(missing)} videos have no sentence, as {missing[0]}; give the whole file"
        )
    if not rows:
        raise InputError(f"captions {path}: it lists no videos; give a whole file")
    return Annotations(rows, {}, [], moved=True)


def _described_row(video: dict[str, Any], described: list[tuple[int, str]], seed: int) -> Row:
    captions = tuple(caption for _, caption in described)
    name, split = str(video["video_id"]), str(video.get("split", ""))
    caption = captions[stable_hash("caption", seed, name) % len(captions)] if captions else ""
    return Row(f"{name}.mp4", caption, split=_MSRVTT_SPLITS.get(split, split), captions=captions)
