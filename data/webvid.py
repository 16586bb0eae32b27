"""WebVidDataModule: shards of captioned video for a Trainer."""

import math
from typing import Any, Literal

from cmd_lightning.data.augmentation import OFF, Augmentation
from cmd_lightning.data.clips import ClipLoader
from cmd_lightning.data.shard_module import ShardDataModule
from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.video_file import MAX_FRAME_PIXELS
from cmd_lightning.viewing import PLAIN, Viewing


class WebVidDataModule(ShardDataModule):
    """Clips from shards in the layout video2dataset writes for WebVid: `{key}.mp4`, `.txt`, `.json`.

    In training, the order, the start frame of each clip and optionally the crop are random; evaluation keeps the order
    of the shards, starts at the first frame and crops in the middle.

    A batch is a dictionary: "video" uint8 (B, C, T, H, W), "caption" list of str, "label" int64 (B,) with -1
    for none, "key" list of str, "fps" float32 (B,), "epoch" int.

    Args:
        num_frames: Frames of a clip.
        size: Height and width of a clip in pixels, one number for a square.
        fps: Frames per second at which clips are sampled; give this or stride.
        stride: Distance of a clip's frames in source frames; 1 if fps is not given either.
        crop: Where training crops to the size; "random" is another place for each clip.
        viewing: How interlaced, HDR and transparent frames are shown.
        augment: What training changes at random in frames and captions.
        images: Samples with a still image (jpg, png, webp) and no video: "still" reads them as clips of equal frames,
            in training and validation; "forbid" skips them, and rejects shards that hold nothing else.
        **kwargs: As for `ShardDataModule`.
    """

    def __init__(
        self,
        train_shards: str | list[str] | dict[str, float] | None = None,
        val_shards: str | list[str] | None = None,
        test_shards: str | list[str] | None = None,
        *,
        num_frames: int = 16,
        size: int | list[int] = 64,
        fps: float | None = None,
        stride: int | None = None,
        crop: Literal["center", "random"] = "center",
        viewing: Viewing = PLAIN,
        augment: Augmentation = OFF,
        images: Literal["forbid", "still"] = "forbid",
        **kwargs: Any,
    ) -> None:
        super().__init__(train_shards, val_shards, test_shards, **kwargs)
        if fps is not None and stride is not None:
            raise InputError(f"fps {fps} and stride {stride}: give one of the two")
        check_positive(num_frames=num_frames, stride=1 if stride is None else stride)
        if fps is not None and not 0 < fps < math.inf:
            raise InputError(f"fps {fps}: must be a number above 0, e.g. 8")
        for option, given, known in (("crop", crop, ("center", "random")), ("images", images, ("forbid", "still"))):
            if given not in known:
                raise InputError(f"{option} {given}: give {' or '.join(known)}")
        sides = [size, size] if isinstance(size, int) else list(size)
        if len(sides) != 2 or min(sides) < 1:
            raise InputError(f"size {size}: give one side or [height, width], in pixels, at least 1")
        if math.prod(sides) > MAX_FRAME_PIXELS:
            raise InputError(
                f"size {size}: frames have at most {MAX_FRAME_PIXELS} pixels, 8192x8192; give a smaller one"
            )
        self.num_frames, self.size, self.crop = num_frames, (sides[0], sides[1]), crop
        self.fps, self.stride = fps, stride or (None if fps else 1)
        self.viewing, self.augment, self.stills = viewing, augment, images == "still"

    def clip_loader(self, *, training: bool) -> ClipLoader:
        """Decodes a clip: a random part of it in training, else the first frames and the middle."""
        return ClipLoader(
            self.num_frames,
            self.size,
            fps=self.fps,
            stride=self.stride,
            random_start=training,
            random_crop=training and self.crop == "random",
            viewing=self.viewing,
            augment=self.augment if training else OFF,
            stills=self.stills,
        )

    def describe(self) -> dict[str, Any]:
        clip = {"frames": self.num_frames, "size": list(self.size), "stride": self.stride, "fps": self.fps}
        return super().describe() | clip | {"start": "first frame"} | self.viewing.describe()
