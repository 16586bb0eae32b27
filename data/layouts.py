"""Annotations in the layouts of their publishers: which one a path holds, the lists of UCF-101, the json of MSR-VTT."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmd_lightning.data.annotations import ACCEPTED, Annotations, Row, read_table, walk_classes, with_prompts
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.errors import InputError

_UCF101_LIST = re.compile(r"(train|test)list\d+\.txt")
_MSRVTT_SPLITS = {"validate": "val"}  # what we call them


def read_annotations(videos: Path, captions: Path | None, prompts: Path | None = None, seed: int = 0) -> Annotations:
    """Read annotations of clips in any known layout, which files and columns tell; None: class folders in `videos`.

    `prompts` are captions by class, in place of all others; the seed chooses where a clip has several captions.
    """
    if captions is None:
        annotations = walk_classes(videos)
    elif captions.is_dir():
        annotations = read_ucf101(captions, ["trainlist01.txt", "testlist01.txt"])
    elif not captions.is_file():
        raise InputError(f"captions {captions}: no such file or folder; {ACCEPTED}")
    elif _UCF101_LIST.fullmatch(captions.name):
        annotations = read_ucf101(captions.parent, [captions.name])
    elif captions.suffix.lower() == ".json":
        annotations = read_msrvtt(captions, seed)
    else:
        annotations = read_table(captions)
    return annotations if prompts is None else with_prompts(annotations, prompts)


def read_ucf101(folder: Path, lists: list[str]) -> Annotations:
    """Read lists of UCF-101's action recognition task: `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1` a line.

    Captions are the names of the classes in words, labels their numbers in classInd.txt less one, and "train" and
    "test" are the splits. Lists of tests have no numbers of classes.
    """
    if not (folder / "classInd.txt").is_file():
        raise InputError(f"captions {folder}: no classInd.txt in it, as UCF-101's lists have; {ACCEPTED}")
    classes: dict[str, int] = {}
    for place, words in _lines(folder / "classInd.txt"):
        if len(words) != 2 or words[0] != str(len(classes) + 1) or words[1] in classes:
            raise InputError(f"{place}: a number and a class are expected, counted from 1, as '1 ApplyEyeMakeup'")
        classes[words[1]] = len(classes)
    rows = []
    for name in lists:
        for place, words in _lines(folder / name):
            label, _, file = words[0].partition("/")
            if not file or len(words) > 2 or label not in classes or words[1:] not in ([], [str(classes[label] + 1)]):
                raise InputError(f"{place}: not a class of classInd.txt, a clip and perhaps the number of the class")
            caption = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label).lower()
            rows.append(Row(words[0], caption, label, "train" if name.startswith("train") else "test"))
    return Annotations(rows, classes, list(classes), moved=True)


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The words of each line that has some, with what to call it in an error."""
    if not path.is_file():
        raise InputError(f"captions {path}: no such file; give the whole folder ucfTrainTestlist of UCF-101")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"captions {path}: not text in UTF-8 ({error}); fetch UCF-101's lists again") from error
    if not any(map(str.strip, lines)):
        raise InputError(f"captions {path}: it is empty; fetch UCF-101's lists again")
    return ((f"captions {path}, line {number}", line.split()) for number, line in enumerate(lines, 1) if line.strip())


def read_msrvtt(path: Path, seed: int = 0) -> Annotations:
    """Read MSR-VTT's train_val_videodatainfo.json, test_videodatainfo.json, or one that holds both.

    About twenty people described each clip. One description is drawn for it by the seed and its id, whatever their
    order, as VideoLDM's evaluation does; all are kept next to it.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
        sentences: dict[str, list[tuple[int, str]]] = {}
        for sentence in facts["sentences"]:
            caption = sentence["caption"].strip().encode("utf-8", "replace").decode()  # JSON may hold half a character
            sentences.setdefault(sentence["video_id"], []).append((sentence["sen_id"], caption))
        rows = [_row_of(video, sorted(sentences.get(video["video_id"], [])), seed) for video in facts["videos"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"captions {path}: not MSR-VTT's json, with videos (video_id, split) and sentences (video_id, caption, "
            f"sen_id): {type(error).__name__} {error}; {ACCEPTED}"
        ) from error
    if missing := [row.path for row in rows if not row.captions]:
        raise InputError(
            f"captions {path}: {len(missing)} videos have no sentence, as {missing[0]}; give the whole file"
        )
    if not rows:
        raise InputError(f"captions {path}: it lists no videos; give a whole file")
    return Annotations(rows, {}, [], moved=True)


def _row_of(video: dict[str, Any], described: list[tuple[int, str]], seed: int) -> Row:
    captions = tuple(caption for _, caption in described)
    name, split = str(video["video_id"]), str(video.get("split", ""))
    caption = captions[stable_hash("caption", seed, name) % len(captions)] if captions else ""
    return Row(f"{name}.mp4", caption, split=_MSRVTT_SPLITS.get(split, split), captions=captions)
