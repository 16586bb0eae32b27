"""The page of `app`: its layout and its buttons."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import gradio as gr
from torch import Tensor

from cmd_lightning.commands.app_sampling import Order, sampled
from cmd_lightning.commands.demo import MODEL, PROMPTS
from cmd_lightning.commands.generate import slug
from cmd_lightning.commands.records import Job, Options, described, record, write_record
from cmd_lightning.errors import InputError
from cmd_lightning.image_io import read_image
from cmd_lightning.video_encoding import write_video

if TYPE_CHECKING:
    from cmd_lightning.pipeline import CMDPipeline
    from cmd_lightning.pipeline.request import StageName

EXAMPLES: Mapping[str, Sequence[str]] = {MODEL: PROMPTS}
"""Example captions of included models."""
QUEUE = 16
"""Videos that may wait; more are rejected."""
UPLOAD = "10mb"
"""Largest size of an uploaded file."""
CAPTION = 1000
"""Largest number of characters of a caption."""
MOST_STEPS, MOST_GUIDANCE = 200, 10
"""Upper ends of the sliders."""
SIDE = 256
"""Pixels of the shorter side to which smaller videos are enlarged on the page."""
FONT = ["system-ui", "sans-serif"]
"""Fonts of the system: those of gradio are loaded from the internet."""
CSS = """
.stages label { display: grid; grid-template-columns: 4.5rem 1fr 5.5rem; gap: .75rem; align-items: center; }
.stages progress { width: 100%; height: .6rem; appearance: none; border: 0; }
.stages progress::-webkit-progress-bar { background: var(--border-color-primary); border-radius: .3rem; }
.stages progress::-webkit-progress-value { background: var(--color-accent); border-radius: .3rem; }
.stages progress::-moz-progress-bar { background: var(--color-accent); }
.stages output { font-variant-numeric: tabular-nums; text-align: right; }
.frame img, .frame video { padding-top: 2rem; box-sizing: border-box; }
"""


class Page:
    """The page of a model.

    Args:
        pipeline: The model.
        model: Its name or folder.
        folder: Where videos and their records are written.
    """

    def __init__(self, pipeline: CMDPipeline, model: str, folder: Path) -> None:
        self.pipeline, self.model, self.folder = pipeline, model, folder
        self.name = Path(model).name
        self.fields = {encoder.field for encoder in pipeline.encoders.values() if encoder is not None}
        self.stages: list[StageName] = ["motion"] if pipeline.unet is None else ["content", "motion"]
        with gr.Blocks(title=self.name, analytics_enabled=False, delete_cache=(3600, 86400)) as self.blocks:
            height, width = pipeline.size
            frames, fps = pipeline.config.video_shape[1], pipeline.config.fps
            gr.Markdown(
                f"# {self.name}\nVideos of {frames} frames, {width}x{height} pixels, {fps:g} frames per second. The "
                "content frame is generated first, then the motion."
            )
            with gr.Row():
                with gr.Column():
                    self.add_inputs()
                with gr.Column():
                    self.add_outputs()
            self.connect()

    def add_inputs(self) -> None:
        """Adds the inputs: a caption, class or image, the seed, and the settings of each stage."""
        self.condition: Any = gr.State(None)
        if "caption" in self.fields:
            self.condition = gr.Textbox(label="Caption", lines=2, max_length=CAPTION, autofocus=True)
            if self.name in EXAMPLES:
                captions = [[caption] for caption in EXAMPLES[self.name]]
                gr.Examples(captions, [self.condition], label="Captions to try")
        elif "label" in self.fields:
            self.condition = gr.Number(0, label="Class", precision=0, minimum=0)
        optional = " (optional)" if "content" in self.stages else ""
        self.image = gr.Image(
            label="Image to animate" + optional, type="filepath", sources=["upload", "clipboard"], height=160
        )
        # `read` opens the file: gradio would show Pillow's message for a broken one. A subclass of its components would
        # make it write a file next to the source, so the method is replaced.
        self.image.preprocess = uploaded  # type: ignore[method-assign]  # see above
        with gr.Row():
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, min_width=120)
            self.new_seed = gr.Checkbox(True, label="New seed for each video", container=False, min_width=120)
        self.sliders = []
        with gr.Accordion("Steps and guidance of each stage", open=False):
            for stage in self.stages:
                steps, guidance = self.pipeline.sampling(stage)
                with gr.Row():
                    label = stage.capitalize()
                    self.sliders += [
                        gr.Slider(1, max(MOST_STEPS, steps), steps, step=1, label=f"{label} steps"),
                        gr.Slider(1, max(MOST_GUIDANCE, guidance), guidance, step=0.1, label=f"{label} guidance"),
                    ]
        with gr.Row():
            self.start = gr.Button("Generate", variant="primary")
            self.stop = gr.Button("Stop")

    def add_outputs(self) -> None:
        """Adds the outputs: progress, the content frame, the video, its files, and earlier videos."""
        self.progress = gr.HTML(bars(dict.fromkeys(self.stages, 0), {}), elem_classes="stages")
        with gr.Row():
            self.content = gr.Image(
                label="Content frame", interactive=False, buttons=[], height=SIDE, min_width=200, elem_classes="frame"
            )
            self.video = gr.Video(
                label="Video",
                interactive=False,
                autoplay=True,
                loop=True,
                buttons=[],
                height=SIDE,
                min_width=200,
                elem_classes="frame",
            )
        self.notes = gr.Markdown(visible=False)
        with gr.Row():
            self.files = [gr.DownloadButton(f"Download {what}", visible=False) for what in ("video", "record")]
        self.gallery = gr.Gallery(
            label="Videos of this visit", columns=4, height="auto", interactive=False, visible=False
        )
        self.made = gr.State([])

    def connect(self) -> None:
        """Connects the buttons."""
        self.image.upload(kept_image, self.image, self.image, show_progress="hidden")
        begins = [self.start.click] + ([self.condition.submit] if "caption" in self.fields else [])
        running = gr.on(
            begins,
            self.generate,
            [self.condition, self.image, self.seed, self.new_seed, self.made, *self.sliders],
            [self.seed, self.progress, self.content, self.video, self.notes, *self.files, self.gallery, self.made],
            concurrency_limit=1,
            show_progress="minimal",
            show_progress_on=self.progress,
        )
        self.stop.click(None, cancels=running)

    def generate(
        self, condition: Any, image: str | None, seed: float | None, new_seed: bool, made: list[Any], *numbers: float
    ) -> Iterator[dict[Any, Any]]:
        """Generates a video, and updates the page at each step."""
        used = random.randrange(2**31) if new_seed else int(seed or 0)
        hidden = gr.update(visible=False)
        try:
            order = self.order(condition, image, used, numbers)
            yield (
                {self.seed: used}
                | dict.fromkeys([self.content, self.video], None)
                | dict.fromkeys([self.notes, *self.files], hidden)
            )
            for moment in sampled(self.pipeline, order):
                changed: dict[Any, Any] = {self.progress: bars(moment.done, order.steps)}
                if moment.content is not None:
                    changed[self.content] = enlarged(moment.content[:, None])[:, 0].permute(1, 2, 0).numpy()
                if moment.video is not None:
                    shown, *files = self.write(order, image, moment.video, moment.notes)
                    made = [(shown, f"{condition or self.name}, seed {used}"), *made]
                    notes = "\n".join(f"- {note}" for note in moment.notes)
                    changed |= {
                        self.video: shown,
                        self.made: made,
                        self.notes: gr.update(value=notes, visible=bool(notes)),
                    }
                    changed |= {
                        button: gr.update(value=file, visible=True)
                        for button, file in zip(self.files, files, strict=True)
                    }
                    changed[self.gallery] = gr.update(value=made, visible=len(made) > 1)
                yield changed
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def order(self, condition: Any, image: str | None, seed: int, numbers: Sequence[float]) -> Order:
        """The settings on the page, as an order.

        Raises:
            InputError: The image cannot be read, or a required input is missing.
        """
        steps: dict[str, int] = {stage: int(number) for stage, number in zip(self.stages, numbers[::2], strict=True)}
        guidance: dict[str, float] = dict(zip(self.stages, numbers[1::2], strict=True))
        if condition is None and self.fields:
            raise InputError("the class is missing; give its number")
        if image is None and "content" not in self.stages:
            raise InputError("this model animates images; upload one")
        if isinstance(condition, str) and not condition.strip() and image is None:
            raise InputError("the caption is empty; write one, or upload an image")
        return Order(condition, None if image is None else read(image), seed, steps, guidance)

    def write(self, order: Order, image: str | None, video: Tensor, notes: Sequence[str]) -> list[str]:
        """Writes a video, an enlarged copy for the page, and its record. Returns their paths."""
        path = (
            Path(mkdtemp(dir=self.folder))
            / f"{slug(order.condition, Path(image).stem if image else '')}-{order.seed}.mp4"
        )
        shown = path.with_name(f"{path.stem}-enlarged.mp4")
        write_video(shown, enlarged(video), self.pipeline.config.fps)
        write_video(path, video, self.pipeline.config.fps)
        job = Job(order.condition, order.seed, None if image is None else Path(image).name)
        about = described(self.pipeline, Options(self.model), order.steps, order.guidance)
        write_record(path.with_suffix(".json"), record(about, [job], 0, video, notes))
        return [str(shown), str(path), str(path.with_suffix(".json"))]


def uploaded(payload: Any) -> Any:
    """The path of an uploaded file, or None."""
    return payload and payload.path


def kept_image(path: str) -> str | None:
    """The path of an image that was uploaded; None, and a message, if it cannot be read."""
    try:
        read(path)
    except InputError as error:
        gr.Warning(str(error), title="Image")
        return None
    return path


def read(path: str) -> Tensor:
    """An uploaded image, `(3, H, W)`, uint8."""
    try:
        return read_image(path)
    except InputError as error:
        raise InputError(f"{Path(path).name} cannot be read as an image; upload a PNG or JPEG") from error


def bars(done: Mapping[str, int], steps: Mapping[str, int]) -> str:
    """Progress of the stages, as HTML."""
    rows = [
        f'<label>{stage.capitalize()} <progress value="{number}" max="{steps.get(stage, 1)}"></progress> '
        f"<output>{f'{number} of {steps[stage]}' if stage in steps else ''}</output></label>"
        for stage, number in done.items()
    ]
    return "".join(rows)


def enlarged(video: Tensor) -> Tensor:
    """A video `(3, T, H, W)` with pixels repeated as often as its shorter side fits into `SIDE`."""
    factor = max(1, SIDE // min(video.shape[2:]))
    return video.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def launch(page: Page, host: str, port: int) -> str:
    """Serves a page in threads; returns its address."""
    theme = gr.themes.Default(font=FONT, font_mono=["monospace"])
    _, address, _ = page.blocks.queue(max_size=QUEUE).launch(
        server_name=host,
        server_port=port,
        max_file_size=UPLOAD,
        theme=theme,
        css=CSS,
        footer_links=[],
        show_error=True,
        share=False,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    return address
