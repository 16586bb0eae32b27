"""Clips as they are found in the wild: crafted, turned, uneven, odd, giant and endless ones."""

import http.server
import io
import struct
import subprocess
import sys
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cmd_lightning import video_file
from cmd_lightning.data.clips import BadSample, ClipLoader
from cmd_lightning.data.selection import Selection
from cmd_lightning.data.sources import open_source
from cmd_lightning.errors import InputError
from cmd_lightning.video_file import VideoError, VideoFile
from cmd_lightning.video_io import VideoReader, gif_bytes, mp4_bytes, probe


def encode(pictures, kind="mp4", codec="libx264", pixels="yuv420p", ticks=None, base=Fraction(1, 1000), **options):
    """An encoder apart from the project's: uint8 (T, H, W, 3), shown at these ticks of the base, to bytes."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=Fraction(10), options={"crf": "10", **options})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        if ticks is not None:
            stream.codec_context.time_base = base
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = ticks[number], base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def numbered(count, height=16, width=64):
    """Pictures that hold their number as eight black or white bars."""
    pictures = np.zeros((count, height, width, 3), np.uint8)
    for number in range(count):
        for bit in range(8):
            pictures[number, :, bit * width // 8 : (bit + 1) * width // 8] = 255 * (number >> bit & 1)
    return pictures


def numbers_in(video):
    bars = video.float().mean((0, 2)).unflatten(1, (8, -1)).mean(2) > 128
    return (bars * 2 ** torch.arange(8)).sum(1).tolist()


def corners(height=24, width=40):
    """Pictures that no turn and no mirror leaves alike: red, green, blue and white corners."""
    picture = np.zeros((height, width, 3), np.uint8)
    middle = height // 2, width // 2
    picture[: middle[0], : middle[1], 0] = 220
    picture[: middle[0], middle[1] :, 1] = 220
    picture[middle[0] :, : middle[1], 2] = 220
    picture[middle[0] :, middle[1] :] = 220
    return picture[None].repeat(4, 0)


def still(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, kind)
    return buffer.getvalue()


def sound():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def damaged():
    """Packets where they should be, of which nothing can be decoded."""
    data = bytearray(encode(numbered(30), "matroska", "mpeg4", g="5"))
    with av.open(io.BytesIO(bytes(data))) as container:
        for packet in container.demux(video=0):
            if packet.size:
                place = bytes(data).find(bytes(packet))
                data[place : place + packet.size] = b"\xff" * packet.size
    return bytes(data)


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("empty file", lambda: b""),
        ("unreadable video", lambda: b"this is not a video"),
        ("unreadable video", lambda: mp4_bytes(torch.zeros(3, 4, 16, 16, dtype=torch.uint8), 8)[:400]),
        *(("still picture", lambda kind=kind: still(kind)) for kind in ("PNG", "JPEG", "WebP", "BMP", "TIFF")),
        ("no video stream", sound),
        ("damaged frames", damaged),
    ],
)
def test_reasons_of_readers_are_those_of_streams(tmp_path, reason, make):
    data = make()
    (tmp_path / "clip.mp4").write_bytes(data)
    for source in (data, tmp_path / "clip.mp4"):
        with pytest.raises(VideoError) as error:
            VideoReader(source).read([0, 1])
        assert error.value.reason == reason
        assert isinstance(error.value, InputError)
        assert "\n" not in str(error.value)
        with pytest.raises(VideoError):
            VideoReader(source).verify()
    with pytest.raises(BadSample) as bad:
        ClipLoader(2, (8, 8), stride=1)({"__key__": "a", "mp4": data}, 0)
    assert str(bad.value) == reason


@pytest.mark.parametrize("data", [encode(numbered(1)), gif_bytes(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), 8)])
def test_one_frame_is_short_not_wrong(data):
    assert VideoReader(data).frames == 1
    for sampling in ({"stride": 1}, {"fps": 8.0}):
        with pytest.raises(BadSample, match="too short"):
            ClipLoader(2, (8, 8), **sampling)({"__key__": "a", "mp4": data}, 0)


@pytest.mark.parametrize("kind", ["mp4", "matroska", "avi", "gif"])
def test_damage_of_any_kind_raises_nothing_else(kind):
    codec, pixels = {"gif": ("gif", "rgb8"), "avi": ("mpeg4", "yuv420p")}.get(kind, ("libx264", "yuv420p"))
    good = encode(numbered(20, 32), kind, codec, pixels)
    draw = np.random.default_rng(0)
    seen = set()
    for number in range(150):
        data = bytearray(good)
        if number % 3 == 0:
            del data[draw.integers(len(data)) :]
        else:
            for place in draw.integers(0, 800 if number % 3 == 1 else len(data), 1 + number % 7):
                data[min(place, len(data) - 1)] = draw.integers(256)
        try:
            reader = VideoReader(bytes(data))
            reader.read([0, reader.frames - 1], lambda frame: frame[:, :1, :1])
            reader.verify()
        except VideoError as error:
            seen.add(error.reason)
    assert seen >= {"unreadable video"}


class _Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        running.asked = []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


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
def test_lists_of_other_files_open_nothing(tmp_path, server, kind, target):
    (tmp_path / "secret.mp4").write_bytes(encode(numbered(20)))
    addresses = {"file": str(tmp_path / "secret.mp4"), "server": f"http://127.0.0.1:{server.server_port}/secret.mp4"}
    names = {**addresses, "file": "secret.mp4"}  # FFmpeg trusts no absolute ones there
    text = PLAYLISTS[kind].format(target=addresses[target], name=names[target], port=server.server_port)
    (tmp_path / "clip.mp4").write_text(text)
    for source in (text.encode(), tmp_path / "clip.mp4"):
        with pytest.raises(VideoError) as error:
            VideoReader(source).read([0])
        assert error.value.reason == "unreadable video"
    assert not server.asked
    if kind == "concat" and target == "file":  # what FFmpeg does of itself
        with av.open(str(tmp_path / "clip.mp4")) as container:
            assert len(list(container.decode(video=0))) == 20


def test_a_path_is_a_file_whatever_it_looks_like(tmp_path, monkeypatch):
    data = encode(numbered(3))
    for name in ("a:b.mp4", "http:x.mp4", "50%.mp4", "clip%03d.mp4", "concat:a|b.mp4"):
        (tmp_path / name).write_bytes(data)
        assert VideoReader(tmp_path / name).frames == 3
        monkeypatch.chdir(tmp_path)
        assert VideoReader(name).read().shape == (3, 3, 16, 64)


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


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
@pytest.mark.parametrize(
    "rate", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(48)]
)
def test_an_even_rate_is_told_from_the_rounding_of_times(kind, rate):
    ticks = [round(number / rate * 1000) for number in range(100)]
    data = encode(numbered(100), kind, ticks=ticks, preset="ultrafast")
    reader = VideoReader(data)
    assert reader.times is None
    assert reader.fps == pytest.approx(float(rate), rel=1e-3)


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
    pictures = corners()
    data = encode(pictures, crf="1")
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
    assert probe(turned) == reader.info
    reader.verify()
    clip = ClipLoader(2, (24, 24), stride=1)({"__key__": "a", "mp4": turned}, 0)
    top, left = (wanted.shape[2] - 24) // 2, (wanted.shape[3] - 24) // 2
    assert torch.equal(clip["video"], wanted[:, :2, top : top + 24, left : left + 24])


def test_a_quarter_turn_clockwise_puts_the_left_edge_on_top():
    """The sign, by hand and apart from torch: PyAV writes what FFmpeg calls a turn by -90 degrees."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 24, 40, "yuv420p"
        stream.set_display_rotation(-90)  # "degrees: rotation angle, counterclockwise"
        for picture in corners():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    frame = VideoReader(buffer.getvalue()).read([0])[:, 0].float()
    assert frame.shape == (3, 40, 24)
    blue, red = frame[:, 4, 4], frame[:, 4, 20]  # the lower left corner comes to the upper left
    assert blue.argmax() == 2
    assert red.argmax() == 0
    assert blue[2] > 180
    assert red[0] > 180


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
    for index, picture in enumerate((ramp, ramp // 2, ramp)):
        assert (video[:, index].permute(1, 2, 0).float() - torch.from_numpy(picture).float()).abs().mean() <= error
    clip = ClipLoader(2, (16, 24), stride=1)({"__key__": "a", "mp4": data}, 0)
    assert clip["video"].shape == (3, 2, 16, 24)


def test_grey_is_grey():
    pictures = np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None].repeat(33, 1).repeat(17, 2).repeat(3, 3)
    video = VideoReader(encode(pictures, "matroska", "ffv1", "gray")).read()
    assert (video.float() - torch.from_numpy(pictures).permute(3, 0, 1, 2).float()).abs().max() <= 2
    assert torch.equal(video[0], video[2])


def test_what_is_seen_through_in_a_gif_keeps_the_frame_before():
    buffer = io.BytesIO()
    first, second = Image.new("RGBA", (8, 8), (200, 0, 0, 255)), Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    second.paste((0, 0, 200, 255), (0, 0, 4, 8))
    first.save(buffer, "GIF", save_all=True, append_images=[second], duration=100, disposal=1)
    video = VideoReader(buffer.getvalue()).read()
    assert video[:, 1, 4, 2].tolist() == [0, 0, 200]
    assert video[:, 1, 4, 6].tolist() == [200, 0, 0]


def test_frames_may_change_size_on_the_way():
    """Two H.264 streams in one: their headers lie in the frames."""
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


@pytest.fixture
def decoded(monkeypatch):
    times, original = [], VideoFile._decoded

    def counted(self, *given):
        for frame in original(self, *given):
            times.append(frame.pts)
            yield frame

    monkeypatch.setattr(VideoFile, "_decoded", counted)
    return times


def an_hour(kind):
    """90,000 frames, made of one group of 50 of which each shows its number."""
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(encode(numbered(50), g="50", bf="0"))) as source,
        av.open(buffer, "w", format=kind) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for number in range(90_000):
            packet = av.Packet(bytes(packets[number % 50]))
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = number % 50 == 0
            target.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
def test_an_hour_is_not_decoded_for_a_clip(kind, decoded):
    reader = VideoReader(an_hour(kind))
    assert reader.frames == 90_000
    assert numbers_in(reader.read(range(45_010, 45_026))) == [*range(10, 26)]
    assert len(decoded) <= 26
    decoded.clear()
    assert numbers_in(reader.read(range(7, 16_000, 1001))) == [number % 50 for number in range(7, 16_000, 1001)]
    assert len(decoded) <= sum(number % 50 + 1 for number in range(7, 16_000, 1001))


def test_what_costs_too_much_is_refused_before_it_is_decoded(decoded, monkeypatch):
    data = encode(numbered(60), g="1000", sc_threshold="0")
    reader = VideoReader(data)
    monkeypatch.setattr(video_file, "MAX_DECODED_PIXELS", 20 * 16 * 64)
    assert numbers_in(reader.read([3, 17])) == [3, 17]
    decoded.clear()
    for wanted in ([40], [0, 59]):
        with pytest.raises(VideoError, match="too costly") as error:
            reader.read(wanted)
        assert error.value.reason == "too costly"
    assert not decoded
    with pytest.raises(BadSample, match="too costly"):
        ClipLoader(16, (8, 8), stride=3)({"__key__": "a", "mp4": data}, 0)
    reader.verify()  # whoever asks for all of it gets it


def test_frames_beyond_all_bounds_are_refused(monkeypatch):
    data = encode(numbered(3, 32))
    monkeypatch.setattr(video_file, "MAX_FRAME_PIXELS", 32 * 64 - 1)
    with pytest.raises(VideoError) as error:
        VideoReader(data).read([0])
    assert error.value.reason == "too costly"


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
