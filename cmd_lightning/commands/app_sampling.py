"""The generation of a video for the page: reports each step, the content frame, then the video."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cmd_lightning.errors import InputWarning
from cmd_lightning.latent_space import to_uint8
from cmd_lightning.pipeline.images import fit_image

if TYPE_CHECKING:
    from cmd_lightning.pipeline import CMDPipeline


@dataclass(frozen=True)
class Order:
    """A request from a user of the page.

    Args:
        condition: Caption or class id; None for an unconditional model.
        image: Image to animate, `(3, H, W)` of any size, uint8; None to generate the content frame too.
        seed: Seed of the video.
        steps: Denoising steps of the stages.
        guidance: Guidance scales of the stages.
    """

    condition: str | int | None
    image: Tensor | None
    seed: int
    steps: Mapping[str, int]
    guidance: Mapping[str, float]


@dataclass(frozen=True)
class Moment:
    """The progress of a video.

    Args:
        done: Finished denoising steps of the stages that run, by stage.
        content: The content frame once it is known, `(3, H, W)`, uint8.
        video: The video once it is done, `(3, T, H, W)`, uint8.
        notes: Messages for the user, such as words of the caption that the model does not know.
    """

    done: Mapping[str, int] = field(default_factory=dict)
    content: Tensor | None = None
    video: Tensor | None = None
    notes: tuple[str, ...] = ()


def sampled(pipeline: CMDPipeline, order: Order) -> Iterator[Moment]:
    """Generates a video in a thread, and reports each step; closing the iterator stops the generation.

    Raises:
        InputError: The order does not fit the model.
    """
    reports: SimpleQueue[Moment | Exception] = SimpleQueue()
    stopped = Event()

    def work() -> None:
        try:
            generate(pipeline, order, reports.put, stopped)
        except Exception as error:  # raised again where the moments are read
            reports.put(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            report = reports.get()
            if isinstance(report, Exception):
                raise report
            yield report
            if report.video is not None:
                return
    finally:
        stopped.set()
        thread.join()


def generate(pipeline: CMDPipeline, order: Order, report: Any, stopped: Event) -> None:
    """Generates a video; calls `report` with each `Moment`."""
    stages = ("content", "motion") if order.image is None else ("motion",)
    now = Moment(dict.fromkeys(stages, 0))

    def on_step(running: Any, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal now
        running._interrupt = stopped.is_set()  # as in diffusers' pipelines
        done = dict(now.done) | {running.stage: step + 1}
        content = (
            shown(pipeline, tensors["latents"]) if done == {"content": running.num_timesteps, "motion": 0} else None
        )
        now = replace(now, done=done, content=now.content if content is None else content)
        report(now)
        return {}

    arguments: dict[str, Any] = {}
    if order.condition is not None:
        arguments["prompt" if isinstance(order.condition, str) else "class_labels"] = order.condition
    if order.image is not None:
        fitted, resized = fit_image(order.image, pipeline.size)
        arguments["content"] = pipeline.content_of(fitted[None] * 2 - 1)
        now = replace(now, content=shown(pipeline, arguments["content"]), notes=tuple(resized))
    report(now)
    with warnings.catch_warnings(action="ignore", category=InputWarning):  # the page shows them
        made: Any = pipeline(
            **arguments,
            seeds=[order.seed],
            num_inference_steps=order.steps,
            guidance_scale=order.guidance,
            output_type="latent",
            callback_on_step_end=on_step,
        )
    video = to_uint8(pipeline.decode(made.content, made.frames))[0].cpu()
    report(replace(now, video=video, notes=(*now.notes, *made.warnings[0])))


def shown(pipeline: CMDPipeline, content: Tensor) -> Tensor:
    """A content frame `(1, C, H, W)` as an image `(3, H, W)`, uint8."""
    return to_uint8(pipeline.latent_space.decode(content[:, :, None]))[0, :, 0].cpu()
