"""Clips of files as they are found in the wild: crafted, turned, uneven, odd, giant and costly ones."""

import io
import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from http_server import Server
from odd_videos import corners, encode, numbered, numbers_in
from shard_files import serve_folder

from cmd_lightning import video_file
from cmd_lightning.data.clips import BadSample, ClipLoader
from cmd_lightning.evaluation.sources import Selection, open_source
from cmd_lightning.video_encoding import gif_bytes
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VideoReader


@pytest.mark.parametrize("data", [encode(numbered(1)), gif_bytes(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), 8)])
def test_one_frame_is_short_not_wrong(data):
    assert VideoReader(data).frames == 1
    for sampling in ({"stride": 1}, {"fps": 8.0}):
        with pytest.raises(BadSample, match="too short"):
            ClipLoader(2, (8, 8), **sampling)({"__key__": "a", "mp4": data}, 0)


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{name}'\n",
    "dash": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="0" '
        'bandwidth="1" width="64" height="16"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period>'
        "</MPD>"
    ),
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("target", ["file", "server"])
def test_lists_of_other_files_open_nothing(tmp_path, kind, target):
    (tmp_path / "secret.mp4").write_bytes(encode(numbered(20)))
    with Server(serve_folder(tmp_path)) as server:
        addresses = {"file": str(tmp_path / "secret.mp4"), "server": server.url + "/secret.mp4"}
        names = {**addresses, "file": "secret.mp4"}  # FFmpeg trusts no absolute ones there
        port = server.url.rpartition(":")[2]
        text = PLAYLISTS[kind].format(target=addresses[target], name=names[target], port=port)
        (tmp_path / "clip.mp4").write_text(text)
        for source in (text.encode(), tmp_path / "clip.mp4"):
            with pytest.raises(VideoError) as error:
                VideoReader(source).read([0])
            assert error.value.reason == "unreadable video"
        with pytest.raises(BadSample, match="unreadable video"):
            ClipLoader(1, (16, 64), stride=1)({"__key__": "a", "mp4": text.encode()}, 0)
        assert not server.requests
    if kind == "concat" and target == "file":  # what FFmpeg does of itself
        with av.open(str(tmp_path / "clip.mp4")) as container:
            assert len(list(container.decode(video=0))) == 20


UNEVEN = [0, 40, 80, 400, 440, 480, 520, 840, 1000, 1040, 1080, 1120, 1400, 1440, 1480, 1600]  # milliseconds


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
@pytest.mark.parametrize("b_frames", ["0", "2"])
def test_sampling_goes_by_the_times_of_frames(kind, b_frames):
    data = encode(numbered(16), kind, ticks=UNEVEN, bf=b_frames)
    reader = VideoReader(data)
    assert reader.times == pytest.approx([tick / 1000 for tick in UNEVEN], abs=1e-9)
    assert reader.fps == pytest.approx(15 / 1.6)
    for fps in (2.5, 5.0, 10.0):
        frames = int(1.6 * fps) + 1
        clip = ClipLoader(frames, (16, 64), fps=fps)({"__key__": "a", "mp4": data}, 0)
        # Nearest by hand: the last frame of the least distance.
        wanted = [1000 * index / fps for index in range(frames)]
        nearest = [max(range(16), key=lambda n, at=at: (-abs(UNEVEN[n] - at), n)) for at in wanted]
        assert numbers_in(clip["video"]) == nearest
        assert clip["fps"] == pytest.approx(fps)
        with pytest.raises(BadSample, match="too short"):
            ClipLoader(frames + 1, (16, 64), fps=fps)({"__key__": "a", "mp4": data}, 0)
    clip = ClipLoader(5, (16, 64), stride=3)({"__key__": "a", "mp4": data}, 0)
    assert numbers_in(clip["video"]) == [0, 3, 6, 9, 12]
    drawn = {
        tuple(
            numbers_in(
                ClipLoader(2, (16, 64), fps=1.0, random_start=True)({"__key__": "a", "mp4": data}, draw)["video"]
            )
        )
        for draw in range(60)
    }
    assert drawn == {(0, 8), (1, 9), (2, 10), (3, 12), (4, 13), (5, 14), (6, 14)}


def test_an_evaluation_reads_the_frames_that_a_stream_does(tmp_path):
    data = encode(numbered(16), ticks=UNEVEN)
    (tmp_path / "clip.mp4").write_bytes(data)
    clip = ClipLoader(5, (16, 64), fps=2.5)({"__key__": "a", "mp4": data}, 0)
    (read,) = open_source(tmp_path, Selection(frames=5, fps=2.5))
    assert torch.equal(read["video"], clip["video"])
    assert numbers_in(read["video"]) == [0, 3, 7, 11, 15]


MATRICES = {  # as in the header of a track: what Apple's phones write for a turn clockwise by so many degrees
    "0": (1, 0, 0, 1),
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
}


@pytest.mark.parametrize("turn", MATRICES)
def test_a_turned_clip_is_shown_as_its_header_says(turn):
    frames = corners()
    data = encode(frames, crf="1")
    a, b, c, d = (65536 * value for value in MATRICES[turn])
    header = data.index(b"tkhd")
    place = data.index(struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 2**30), header)
    turned = data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30) + data[place + 36 :]
    upright = VideoReader(data).read()
    wanted = {
        "0": upright,
        "90": upright.rot90(-1, (2, 3)),  # torch turns from the first axis to the second: 1 is counterclockwise
        "180": upright.rot90(2, (2, 3)),
        "270": upright.rot90(1, (2, 3)),
        "mirrored": upright.flip(3),
        "upside down": upright.flip(2),
        "transposed": upright.mT,
    }[turn]
    reader = VideoReader(turned)
    assert torch.equal(reader.read(), wanted)
    assert (reader.info.height, reader.info.width) == tuple(wanted.shape[2:])
    assert VideoReader(turned).info == reader.info
    reader.verify()
    clip = ClipLoader(2, (24, 24), stride=1)({"__key__": "a", "mp4": turned}, 0)
    top, left = (wanted.shape[2] - 24) // 2, (wanted.shape[3] - 24) // 2
    assert torch.equal(clip["video"], wanted[:, :2, top : top + 24, left : left + 24])


ODD = [
    ((67, 101), "matroska", "ffv1", "bgr0", 0),
    ((1, 1), "matroska", "ffv1", "bgr0", 0),
    ((3000, 2), "matroska", "ffv1", "bgr0", 0),
    ((67, 101), "matroska", "ffv1", "bgra", 0),
    ((67, 101), "matroska", "ffv1", "yuva444p", 4),
    ((67, 101), "mp4", "libx264", "yuv444p", 6),
    ((66, 100), "mp4", "libx264", "yuv420p10le", 6),
    ((67, 101), "mp4", "libx264", "yuv444p10le", 6),
    ((67, 101), "avi", "mjpeg", "yuvj420p", 12),
]


@pytest.mark.parametrize(("size", "kind", "codec", "pixels", "error"), ODD, ids=lambda value: str(value))
def test_odd_sizes_and_pixels(size, kind, codec, pixels, error):
    y, x = np.mgrid[: size[0], : size[1]]
    ramp = np.stack([60 + x, 200 - x % 128, 40 + y % 128], -1).clip(0, 255).astype(np.uint8)
    data = encode(
        [ramp, ramp // 2, ramp], kind, codec, pixels, **({} if codec == "ffv1" else {"crf": "1", "qmin": "1"})
    )
    video = VideoReader(data).read()
    assert video.shape == (3, 3, *size)
    for index, frame in enumerate((ramp, ramp // 2, ramp)):
        assert (video[:, index].permute(1, 2, 0).float() - torch.from_numpy(frame).float()).abs().mean() <= error
    clip = ClipLoader(2, (16, 24), stride=1)({"__key__": "a", "mp4": data}, 0)
    assert clip["video"].shape == (3, 2, 16, 24)


def test_frames_may_change_size_on_the_way():
    """Two H.264 streams in one: each frame carries its headers."""
    parts = [encode(numbered(4, height), "h264", **{"x264-params": "repeat-headers=1"}) for height in (16, 32)]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 16, 64, "yuv420p"
        time = 0
        for part in parts:
            with av.open(io.BytesIO(part), format="h264") as source:
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream, packet.pts, packet.dts = stream, time, time
                        packet.time_base = Fraction(1, 10)
                        time += 1
                        container.mux(packet)
    data = buffer.getvalue()
    with pytest.raises(VideoError) as error:
        VideoReader(data).read()
    assert error.value.reason == "damaged frames"
    for crop in (False, True):
        clip = ClipLoader(8, (16, 16), stride=1, random_crop=crop)({"__key__": "a", "mkv": data}, 3)
        assert clip["video"].shape == (3, 8, 16, 16)


def test_a_clip_that_costs_too_much_is_a_bad_sample(monkeypatch):
    data = encode(numbered(60), g="1000", sc_threshold="0")
    monkeypatch.setattr(video_file, "MAX_DECODED_PIXELS", 20 * 16 * 64)
    loaders = [ClipLoader(frames, (8, 8), stride=3) for frames in (6, 16)]  # up to frame 15, up to frame 45
    assert loaders[0]({"__key__": "a", "mp4": data}, 0)["video"].shape == (3, 6, 8, 8)
    with pytest.raises(BadSample, match="too costly"):
        loaders[1]({"__key__": "a", "mp4": data}, 0)


MEMORY = """
import sys
from pathlib import Path
from cmd_lightning.data.clips import ClipLoader

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

def load(path):
    loader = ClipLoader(16, (64, 64), fps=40.0)
    assert loader({"__key__": "a", "mp4": Path(path).read_bytes()}, 0)["video"].shape == (3, 16, 64, 64)

load(sys.argv[1])
before = peak()
load(sys.argv[2])
print(peak() - before)
"""


def plain(height, width, frames=5):
    """A clip of one grey, encoded fast."""
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane in frame.planes:
        plane.update(bytes([128]) * plane.buffer_size)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(frames):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.slow
def test_a_clip_of_8k_frames_is_held_one_frame_at_a_time(tmp_path):
    for name, size in (("small", (48, 64)), ("large", (4320, 7680))):
        (tmp_path / name).write_bytes(plain(*size))
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "small"), str(tmp_path / "large")]
    kilobytes = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert kilobytes < 700_000  # five frames are 500 MB, and 2 GB as floats
