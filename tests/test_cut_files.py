"""Files that were cut without encoding: the frames that FFmpeg decodes, and no more."""

import contextlib
import io

import av
import numpy as np
import pytest
import torch
from odd_videos import encode, numbered

from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VideoReader


def cut(data, source_kind, kind, start, end=None):
    """Packets of a file from one to another, copied as they are, as tools that cut without encoding do."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data), format=source_kind) as source, av.open(buffer, "w", format=kind) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size][start:end]
        first = min(packet.dts for packet in packets)
        for packet in packets:
            packet.stream, packet.pts, packet.dts = stream, packet.pts - first, packet.dts - first
            target.mux(packet)
    return buffer.getvalue()


OPEN = "open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0:b-adapt=0"
CUTS = [  # codec, options, first packet: key frames are about every tenth
    ("libx264", {"g": "10", "bf": "2", "sc_threshold": "0"}, 7),
    ("libx264", {"x264-params": OPEN}, 10),
    ("libx264", {"x264-params": OPEN}, 16),
    ("libx265", {"x265-params": OPEN + ":log-level=none"}, 10),
    ("libx265", {"x265-params": OPEN + ":log-level=none"}, 13),
    ("libx264", {"x264-params": "intra-refresh=1:keyint=8"}, 3),  # complete only some frames after a key frame
    ("mpeg4", {"g": "10", "bf": "2"}, 4),
    ("mpeg2video", {"g": "10", "bf": "2", "sc_threshold": "1000000000"}, 10),
    ("libvpx-vp9", {"g": "10", "deadline": "realtime", "cpu-used": "8"}, 5),
]
KINDS = {
    "libx264": ("mp4", "matroska", "mpegts"),
    "mpeg4": ("mp4", "matroska", "avi"),
    "mpeg2video": ("mp4", "matroska", "mpegts", "mpeg"),
}


@pytest.mark.parametrize("end", [None, -3])
@pytest.mark.parametrize(
    ("codec", "options", "start", "kind"),
    [(*one, kind) for one in CUTS for kind in KINDS.get(one[0], ("mp4", "matroska"))],
)
def test_a_file_that_is_cut_anywhere_has_the_frames_that_ffmpeg_decodes(codec, options, start, kind, end):
    data = cut(encode(numbered(32, 64), "matroska", codec, **options), "matroska", kind, start, end)
    frames = {}
    with av.open(io.BytesIO(data)) as container:
        for packet in container.demux(video=0):
            with contextlib.suppress(av.error.InvalidDataError):  # FFmpeg reports it and continues
                for frame in packet.decode():
                    time = len(frames) if kind == "avi" else frame.pts
                    if time > max(frames, default=-1):  # FFmpeg drops what comes late
                        frames[time] = frame.to_ndarray(format="rgb24")
    if not frames:  # parameters of the codec were in the head of the file alone
        with pytest.raises(VideoError):
            VideoReader(data).read()
        return
    wanted = torch.from_numpy(np.stack([*frames.values()])).permute(3, 0, 1, 2)
    reader = VideoReader(data)
    assert reader.frames == wanted.shape[1]
    assert torch.equal(reader.read(), wanted)
    reader.verify()
    for index in range(0, reader.frames, 6):
        assert torch.equal(reader.read([index]), wanted[:, [index]])
