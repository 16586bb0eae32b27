"""Hold clips out of training: a random share of each class."""

from collections import defaultdict
from collections.abc import Sequence

from cmd_lightning.data.plan import stable_hash
from cmd_lightning.errors import InputError


def held_out(names: Sequence[str], classes: Sequence[str], share: float, seed: int) -> set[int]:
    """Choose clips to hold out at random: the same share of each class, to within one clip.

    At least one clip is chosen, and never all clips of a class that has several.

    Args:
        names: A name for each clip; the choice follows from it, so that clips that are added later change little. Rows
            with the same name are one clip.
        classes: The class of each clip; "" for none.
        share: Share of the clips, between 0 and 1.
        seed: Of the choice.

    Raises:
        InputError: There are fewer than two clips.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for name, kind in dict(zip(reversed(names), reversed(classes), strict=True)).items():
        members[kind].append(name)
    if (count := len(set(names))) < 2:
        raise InputError(f"hold_out {share}: at least 2 usable clips are needed, there are {count}; add some")
    chosen: set[str] = set()
    before = after = 0.5  # clips to hold out so far; the fraction is carried from class to class
    for kind in sorted(members):
        clips = members[kind] = sorted(members[kind], key=lambda name: stable_hash("hold out", seed, name))
        before, after = after, after + share * len(clips)
        chosen.update(clips[: min(int(after) - int(before), len(clips) - 1)])
    if not chosen:
        chosen = set(max(members.values(), key=len)[:1])
    return {number for number, name in enumerate(names) if name in chosen}
