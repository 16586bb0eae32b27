"""How `generate` uses clips: it changes, edits, continues or mixes their content and motion."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cmd_lightning.errors import InputError, InputWarning

if TYPE_CHECKING:
    from torch import Tensor

    from cmd_lightning.pipeline import CMDPipeline
    from cmd_lightning.pipeline.request import StageName

FILES = {"content_from": "--content-from", "motion_from": "--motion-from", "video": "--video", "mask": "--mask"}
"""Options that name files, by the attributes of `Use`."""


@dataclass(frozen=True)
class Use:
    """Inputs of a video besides its prompt and image, from the options of `generate`.

    Args:
        content_from: File whose content frame is kept.
        motion_from: Clip whose motion is followed.
        video: Clip to change, edit or continue, or the start of an interpolation.
        mask: Image, white where to edit.
        second: End of an interpolation.
        weight: Weight of `second`, from 0 to 1.
        interpolate: Stage to interpolate.
        frames: Number of frames of a longer video.
        overlap: Frames that its windows share.
        content_strength: How much to change the given content.
        motion_strength: How much to change the given motion.
    """

    content_from: str | None = None
    motion_from: str | None = None
    video: str | None = None
    mask: str | None = None
    second: str | None = None
    weight: float | None = None
    interpolate: Literal["content", "motion"] | None = None
    frames: int | None = None
    overlap: int | None = None
    content_strength: float | None = None
    motion_strength: float | None = None

    @property
    def files(self) -> dict[str, str]:
        """The files, by attribute."""
        names = (*FILES, "second")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def strength(self) -> dict[str, float]:
        """How much to change the given clips, for stages with a strength."""
        both = {"content": self.content_strength, "motion": self.motion_strength}
        return {stage: value for stage, value in both.items() if value is not None}

    def stages(self, image: bool) -> tuple[StageName, ...]:
        """The stages that run, for a job with or without an image."""
        if self.frames or self.interpolate == "content":
            return "content", "motion"
        given = image or self.content_from or self.interpolate or self.content_strength == 0
        return ("motion",) if given else ("content", "motion")


def uses_of(
    clips: Mapping[str, Sequence[str] | None], num: int, strength: Mapping[str, float] | None, **options: Any
) -> list[Use]:
    """A use for each clip, or for each video of an interpolation; [] without such options.

    Args:
        clips: Files by attribute of `Use`.
        num: Videos per clip, or of an interpolation.
        strength: Strengths by stage.
        **options: Other attributes, from `generate`, equal for all.

    Raises:
        InputError: Files are missing, or options do not go together.
    """
    given = {name: files for name, files in clips.items() if files}
    for name, file in [(name, file) for name, files in given.items() for file in files]:
        if not Path(file).exists():
            raise InputError(f"{FILES[name]} {file}: there is no such file; check the path")
    check_together(given, num, strength, options)
    common: dict[str, Any] = {f"{stage}_strength": value for stage, value in (strength or {}).items()} | options
    if common.get("interpolate"):
        first, second = given["video"]
        return [Use(video=first, second=second, weight=i / (num - 1), **common) for i in range(num)]
    if not given and not common.get("frames"):
        return []
    count = max(map(len, given.values()), default=1)
    if wrong := [name for name, files in given.items() if len(files) not in (1, count)]:
        raise InputError(
            f"{FILES[wrong[0]]}: {len(given[wrong[0]])} files for {count} videos; give one, or one for each"
        )
    chosen: list[dict[str, Any]] = [
        {name: files[i % len(files)] for name, files in given.items()} for i in range(count)
    ]
    return [Use(**own, **common) for own in chosen]


def check_together(
    given: Mapping[str, Sequence[str]], num: int, strength: Mapping[str, float] | None, options: Mapping[str, Any]
) -> None:
    """Reject options that conflict or need others."""
    if "video" in given and (other := next((name for name in ("content_from", "motion_from") if name in given), None)):
        raise InputError(f"--video and {FILES[other]}: give one of the two")
    kinds = {"--mask": "mask" in given, "--interpolate": options["interpolate"], "--frames": options["frames"]}
    if len(several := [name for name, value in kinds.items() if value]) > 1:
        raise InputError(f"{several[0]} and {several[1]}: give one of the two")
    if several and several[0] != "--frames" and "video" not in given:
        raise InputError(f"{several[0]}: no clip is given; give --video")
    if options["interpolate"] and len(given["video"]) != 2:
        raise InputError(f"--interpolate {options['interpolate']}: give --video two clips, start and end")
    if options["interpolate"] and num < 2:
        raise InputError(f"--num {num}: give at least 2 with --interpolate, as the two clips are among the videos")
    if options["overlap"] is not None and not options["frames"]:
        raise InputError(f"--overlap {options['overlap']}: it is for longer videos; give --frames")
    if strength and not (given or options["frames"]):
        raise InputError("--strength: nothing is given to change; give --video or --motion-from")


def made(pipeline: CMDPipeline, uses: Sequence[Use], call: Mapping[str, Any]) -> tuple[Tensor, list[str]]:
    """Videos `(B, 3, T, H, W)`, uint8, and notes on changes of their clips, such as resizing.

    Args:
        pipeline: The model.
        uses: Their inputs, all of the same kind.
        call: Arguments of the pipeline's call.
    """
    with warnings.catch_warnings(record=True, action="always", category=InputWarning) as reported:
        output = begun(pipeline, uses, dict(call))
        if uses[0].frames:
            output = continued(pipeline, uses, dict(call), output)
    # Notes on prompts are reported for all batches at once.
    texts = dict.fromkeys(str(warning.message) for warning in reported)
    videos = (output.frames * 255).round().byte().transpose(1, 2).cpu()
    return videos, [text for text in texts if text.startswith("clip of")]


def begun(pipeline: CMDPipeline, uses: Sequence[Use], call: dict[str, Any]) -> Any:
    """The pipeline's output; for longer videos, that of their first window, or None if they continue a clip."""
    use, given = uses[0], {name: [own.files[name] for own in uses] for name in uses[0].files}
    call["output_type"] = "pt"
    strength = use.strength
    if use.interpolate:
        weights = [own.weight for own in uses]
        for name in {"prompt", "class_labels"} & call.keys():  # each video has the one of the nearer clip already
            call[name] = (call[name][0], call[name][-1])
        own = {"strength": strength[use.interpolate]} if use.interpolate in strength else {}
        call |= {"seed": call.pop("seeds")[0], "weights": weights, "stage": use.interpolate} | own
        return pipeline.interpolate(given["video"][0], given["second"][0], **call)
    if use.video:
        if use.frames:
            return None
        call |= {"video": given["video"]} | ({"strength": strength} if strength else {})
        return pipeline.edit(mask=use.mask, **call) if use.mask else pipeline(**call)
    if given:
        call |= {"strength": strength["motion"]} if "motion" in strength else {}
        return pipeline.transfer(given.get("content_from"), given.get("motion_from"), **call)
    return pipeline(**call)


def continued(pipeline: CMDPipeline, uses: Sequence[Use], call: dict[str, Any], begun: Any) -> Any:
    """The pipeline's output for longer videos, which continue those of another output, or clips."""
    use = uses[0]
    assert use.frames is not None
    for name in ("image", "num_videos_per_prompt"):
        call.pop(name, None)
    call |= {"strength": use.content_strength} if use.content_strength is not None else {}
    clips = [own.video for own in uses] if begun is None else begun.frames
    return pipeline.extend(clips, use.frames, overlap=use.overlap, **call | {"output_type": "pt"})


def use_of(data: Mapping[str, Any] | None) -> Use | None:
    """A use from its record; None for None."""
    return None if data is None else Use(**{field.name: data[field.name] for field in fields(Use)})


def next_to(use: Use, folder: Path) -> Use:
    """A use whose missing files are replaced by those in the folder of its record."""
    moved: dict[str, Any] = {
        name: str(folder / Path(file).name) for name, file in use.files.items() if not Path(file).exists()
    }
    if missing := [file for file in moved.values() if not Path(file).exists()]:
        raise InputError(f"{missing[0]}: the record needs it; put it there, next to the record")
    return replace(use, **moved)
