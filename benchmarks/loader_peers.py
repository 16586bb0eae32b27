"""Peers of the streaming loader: bare decoding, and typical webdataset pipelines."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import webdataset
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from cmd_lightning.data.clips import resize_and_crop
from cmd_lightning.errors import reason

Decode = Callable[[bytes, list[int], tuple[int, int]], Tensor]
"""Decodes the frames of these ascending numbers, resized to (H, W): uint8 (C, T, H, W)."""


@dataclass(frozen=True)
class Clips:
    """The clips of an epoch, and how they are read.

    Attributes:
        urls: Shards.
        files: Bytes of each clip by key, which is "SHARD/KEY", in the order of the shards.
        numbers: Numbers of the frames to take of each clip, ascending.
        size: (H, W) of the batches.
        batch_size: Clips in a batch.
        workers: Worker processes.
    """

    urls: Sequence[str]
    files: Mapping[str, bytes]
    numbers: Mapping[str, list[int]]
    size: tuple[int, int]
    batch_size: int
    workers: int

    def in_memory(self, decode: Decode) -> DataLoader:
        """Decoding alone: clips in memory, in their order, without captions."""
        collate = partial(_decoded, numbers=self.numbers, decode=decode, size=self.size)
        return DataLoader(list(self.files.items()), self.batch_size, num_workers=self.workers, collate_fn=collate)

    def in_webdataset(self, decode: Decode) -> webdataset.WebLoader:
        """The plain pipeline: whole shards for each worker, captions and labels, no bad samples, no resume."""
        read = partial(_read, numbers=self.numbers, decode=decode, size=self.size)
        dataset = (
            webdataset.WebDataset(list(self.urls), shardshuffle=100)
            .shuffle(100)
            .map(read)
            .batched(self.batch_size, collation_fn=default_collate)
        )
        return webdataset.WebLoader(dataset, batch_size=None, num_workers=self.workers)


def with_pyav(data: bytes, numbers: list[int], size: tuple[int, int], *, one_converter: bool) -> Tensor:
    """A clip decoded by PyAV alone; see `Decode`.

    Without `one_converter` each frame is converted to RGB as PyAV's documentation shows, with a new converter.
    """
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        assert stream.average_rate and stream.time_base
        step = 1 / (stream.average_rate * stream.time_base)
        times = [round(number * step) for number in numbers]
        found: dict[int | None, np.ndarray] = {}
        converter = av.video.reformatter.VideoReformatter()
        container.seek(times[0], stream=stream)
        for frame in container.decode(stream):
            if frame.pts in times and one_converter:
                found[frame.pts] = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            elif frame.pts in times:
                found[frame.pts] = frame.to_ndarray(format="rgb24")
            if frame.pts is not None and frame.pts >= times[-1]:
                break
    video = torch.from_numpy(np.stack([found[time] for time in times])).permute(3, 0, 1, 2)
    return resize_and_crop(video, size)


def with_torchcodec(data: bytes, numbers: list[int], size: tuple[int, int]) -> Tensor:
    """A clip decoded by torchcodec with its default, exact search for frames; see `Decode`."""
    from torchcodec.decoders import VideoDecoder

    frames = VideoDecoder(data, num_ffmpeg_threads=1).get_frames_at(numbers).data
    return resize_and_crop(frames.transpose(0, 1), size)


def why_not(decode: Decode, data: bytes) -> str:
    """Why a decoder cannot be used here, found by decoding the first frame of a clip; empty if it can."""
    try:
        decode(data, [0], (8, 8))
    except (ImportError, OSError, RuntimeError) as error:  # not installed; FFmpeg's libraries are missing
        return reason(error)
    return ""


def _decoded(
    clips: Sequence[tuple[str, bytes]], numbers: Mapping[str, list[int]], decode: Decode, size: tuple[int, int]
) -> dict[str, Any]:
    videos = [decode(data, numbers[key], size) for key, data in clips]
    return {"key": [key for key, _ in clips], "video": torch.stack(videos)}


def _read(
    sample: dict[str, Any], numbers: Mapping[str, list[int]], decode: Decode, size: tuple[int, int]
) -> dict[str, Any]:
    key = f"{Path(sample['__url__']).stem}/{sample['__key__']}"
    return {
        "key": key,
        "video": decode(sample["mp4"], numbers[key], size),
        "caption": sample["txt"].decode(),
        "label": json.loads(sample["json"])["label"],
    }
