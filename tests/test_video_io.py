import ctypes
import io
import os
import resource
from fractions import Fraction
from itertools import permutations

import av
import numpy as np
import pytest
import torch
from odd_videos import as_ffmpeg_shows
from PIL import Image

from cmd_lightning import video_io
from cmd_lightning.errors import InputError
from cmd_lightning.shapes.painting import make_clip
from cmd_lightning.video_encoding import gif_bytes, mp4_bytes, write_video
from cmd_lightning.video_file import VideoError, VideoFile
from cmd_lightning.video_io import VideoReader, natural_key, read_video

M_PERTURB = -6  # of malloc.h


def moving(frames=12, height=32, width=48):
    """A soft gradient with a bright square that moves two pixels per frame."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    video = torch.stack([x * 3, y * 4, x + y]).clamp(0, 255).to(torch.uint8)[:, None].repeat(1, frames, 1, 1)
    for index in range(frames):
        video[:, index, 4:12, 2 * index : 2 * index + 8] = 230
    return video


def encode(path, frames, codec, **options):
    """A reference encoder, apart from the one under test: a grey level per frame, from 40 in steps of 3."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(10), options=options)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for index in range(frames):
            frame_array = np.full((32, 32, 3), 40 + 3 * index % 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_array, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def decode_all(path):
    with av.open(str(path), metadata_errors="replace") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)


FORMATS = [
    ("b_frames.mp4", "libx264", {"bf": "3", "g": "8", "keyint_min": "8", "sc_threshold": "0"}),
    ("open_gop.mp4", "libx264", {"x264-params": "open-gop=1:keyint=8:min-keyint=8:bframes=3:scenecut=0"}),
    ("clip.mkv", "libx264", {"bf": "2", "g": "8"}),
    ("clip.webm", "libvpx", {"g": "8"}),
    ("clip.avi", "mpeg4", {"bf": "2", "g": "8"}),
]


@pytest.mark.parametrize(("name", "codec", "options"), FORMATS, ids=[name for name, *_ in FORMATS])
def test_chosen_frames_are_those_of_a_full_decode(tmp_path, name, codec, options):
    path = encode(tmp_path / name, 45, codec, **options)
    full = decode_all(path)
    reader = VideoReader(path)
    assert (reader.info.frames, reader.info.width, reader.info.height) == (45, 32, 32)
    assert reader.info.fps == pytest.approx(10)
    for start in range(45):
        indices = [i for i in (start, start + 1, start + 5) if i < 45]
        assert torch.equal(reader.read(indices), full[:, indices])
    assert torch.equal(VideoReader(path.read_bytes()).read([9, 3, 9]), full[:, [9, 3, 9]])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
@pytest.mark.parametrize(("b_frames", "allowed"), [(0, 0), (2, 2)])
def test_only_the_needed_frames_are_decoded(tmp_path, decoded, name, b_frames, allowed):
    options = {"g": "8", "bf": str(b_frames), "sc_threshold": "0", "keyint_min": "8"}
    reader = VideoReader(encode(tmp_path / name, 120, "libx264", **options))
    reader.read([42, 43])
    assert 2 <= len(decoded) <= 4 + allowed  # 40 is the key frame before 42
    decoded.clear()
    reader.read([3, 51, 90, 91, 119])  # from 0, 48, 88 and 112
    assert 5 <= len(decoded) <= 20 + 4 * allowed  # B-frames on the way are left out
    assert (len(decoded) == 20) == (b_frames == 0)


def test_frames_whose_key_frames_lie_close_are_decoded_in_one_go(tmp_path, decoded, monkeypatch):
    reader = VideoReader(encode(tmp_path / "clip.mp4", 60, "libx264", g="1"))
    monkeypatch.setattr(VideoFile, "_open", None)  # the file stays open
    reader.read(range(10, 50, 2))
    assert len(decoded) == 39


def test_real_files(assets):
    folder = assets / "videos"
    paths = [*sorted((folder / "misc").iterdir()), *sorted((folder / "ucf101_playing_guitar").iterdir())]
    for path in [path for path in paths if path.suffix in {".mp4", ".avi"}]:
        full = as_ffmpeg_shows(path) if path.name.startswith("carphone") else decode_all(path)  # those have wide pixels
        reader = VideoReader(path)
        assert reader.info.frames == full.shape[1]
        indices = [*range(8), full.shape[1] // 2, full.shape[1] - 1]
        assert torch.equal(reader.read(indices), full[:, indices]), path
        for first in range(3):
            indices = range(first, full.shape[1], 5)
            assert torch.equal(reader.read(indices), full[:, indices]), path


@pytest.mark.parametrize(("held", "groups"), [(1, [1] * 7), (3 * 6 * 8 * 3, [3, 1, 1, 2]), (2**20, [4, 1, 2])])
def test_frames_are_transformed_in_groups_of_one_size(tmp_path, monkeypatch, held, groups):
    monkeypatch.setattr(video_io, "_GROUP", held)  # bytes
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (size, 8, 3), np.uint8) for size in (6, 6, 6, 6, 9, 6, 6)]
    for number, frame_array in enumerate(images):
        Image.fromarray(frame_array).save(tmp_path / f"{number}.png")
    seen = []

    def corner(frames):
        seen.append(frames.shape[1])
        return frames[:, :, :4, :5]

    for order in ([*range(7)], [6, 0, 3, 3, 1, 5, 2, 4]):
        seen.clear()
        wanted = np.stack([images[number][:4, :5] for number in order])
        assert torch.equal(VideoReader(tmp_path).read(order, corner), torch.from_numpy(wanted).permute(3, 0, 1, 2))
        assert seen == groups
    with pytest.raises(VideoError, match="of several sizes"):
        VideoReader(tmp_path).read()


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ""])
def test_what_is_written_is_read(tmp_path, suffix):
    video = moving()
    path = tmp_path / "new" / f"clip{suffix}"
    write_video(path, video, 8)
    back = read_video(path)
    assert back.shape == video.shape
    error = (back.float() - video.float()).abs()
    limits = {".mp4": 5.0, ".gif": 5.0, "": 0.0}
    assert error.mean() <= limits[suffix]
    if suffix:
        assert VideoReader(path).info.fps == pytest.approx(8, rel=0.02)
    assert os.listdir(path.parent) == [path.name]  # no temporary files


def test_natural_order_goes_by_the_numbers_in_names():
    wanted = ["1", "2", "10", "a", "a/2", "a/10/9", "a/10/11", "a1", "a2", "a10", "a10b2", "a10b10", "b"]
    assert sorted({*wanted}, key=natural_key) == wanted
    padded = ["a b/01", "a-b/00", "a.tar", "a/00", "a/02", "a02.tar", "a_b/00", "x²", "x٣"]
    assert sorted({*padded}, key=natural_key) == sorted(padded)
    ties = permutations(["2", "02", "002"])
    assert {tuple(sorted(names, key=natural_key)) for names in ties} == {("002", "02", "2")}


@pytest.mark.parametrize("name", ["frame{}.png", "{}.png", "shot1_{}_rgb.png"])
def test_frames_of_a_folder_go_by_number_padded_or_not(tmp_path, name):
    video = moving(frames=12)
    for index in range(12):
        Image.fromarray(video[:, index].permute(1, 2, 0).numpy()).save(tmp_path / name.format(index))
    assert torch.equal(read_video(tmp_path), video)
    assert torch.equal(read_video(tmp_path, [11, 2]), video[:, [11, 2]])


def test_mp4_is_h264_reproducible_and_keeps_odd_sizes_unscaled(tmp_path):
    video = moving(height=31, width=47)
    data = mp4_bytes(video, 8)
    assert data == mp4_bytes(video, 8)
    back = read_video(data)
    assert back.shape == (3, 12, 32, 48)
    assert (back[:, :, :31, :47].float() - video.float()).abs().mean() < 5
    (tmp_path / "a.mp4").write_bytes(data)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")


def test_mp4_does_not_depend_on_what_memory_held():
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        pytest.skip("no glibc")
    fills = (1, 85, 127, 170, 254, 255)  # whose complement fills what is allocated
    videos = [make_clip(0, index, frames=5, fps=8, size=32)[0] for index in range(8)]
    try:
        found = [{mp4_bytes(video, 8) for fill in fills if mallopt(M_PERTURB, fill)} for video in videos]
    finally:
        mallopt(M_PERTURB, 0)
    assert [len(kinds) for kinds in found] == [1] * len(videos)


def test_gif_is_sharp():
    video = torch.zeros(3, 4, 8, 8, dtype=torch.uint8)
    for index in range(4):
        video[0, index, :, 2 * index :] = 200
    data = gif_bytes(video, 12.5, scale=3)
    back = read_video(data)
    assert torch.equal(back, video.repeat_interleave(3, 2).repeat_interleave(3, 3))  # four colours: exact
    with Image.open(io.BytesIO(data)) as frame_array:
        assert frame_array.info["loop"] == 0
        assert frame_array.info["duration"] == 80


def test_bad_input_is_one_line(tmp_path):
    (tmp_path / "text.mp4").write_bytes(b"this is not a video")
    (tmp_path / "empty").mkdir()
    encode(tmp_path / "cut.mp4", 30, "libx264")
    cut = (tmp_path / "cut.mp4").read_bytes()
    for source in (tmp_path / "none.mp4", tmp_path / "text.mp4", tmp_path / "empty", b"", cut[: len(cut) // 2]):
        with pytest.raises(InputError) as error:
            read_video(source)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="30 frames"):
        read_video(cut, [29, 30])
    with pytest.raises(InputError, match="end the name"):
        write_video(tmp_path / "clip.mov", moving(), 8)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="exists already"):
        write_video(full, moving(), 8)
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "float.mp4", moving().float(), 8)
    assert sorted(os.listdir(tmp_path)) == ["cut.mp4", "empty", "full", "text.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_nothing_half_written_is_left(tmp_path, suffix):
    target = tmp_path / f"clip{suffix}"
    write_video(target, moving(), 8)
    before = target.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # as a full disk
    try:
        with pytest.raises(OSError, match=r"File too large|clip"):
            write_video(target, moving(frames=3), 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == [target.name]


def boxes(data):
    """The kinds of the boxes at the top of an mp4, in order."""
    kinds, place = [], 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        kinds.append(data[place + 4 : place + 8].decode())
        place += size
    return kinds


def test_players_can_begin_before_they_have_the_whole_file(tmp_path):
    """The index comes before the frames; odd sides are made even, and chroma is subsampled, as players need it."""
    write_video(tmp_path / "clip.mp4", moving()[:, :, :-1, :-1], 8)
    kinds = boxes((tmp_path / "clip.mp4").read_bytes())
    assert kinds.index("moov") < kinds.index("mdat")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt, codec.width % 2, codec.height % 2) == ("h264", "yuv420p", 0, 0)


@pytest.mark.parametrize("fps", [8, 30, 7.5, 1000])
def test_webp_keeps_pixels_and_time(tmp_path, fps):
    video = torch.randint(256, (3, 5, 9, 14), dtype=torch.uint8, generator=torch.manual_seed(0))
    write_video(tmp_path / "clip.webp", video, fps)
    assert torch.equal(read_video(tmp_path / "clip.webp"), video)
    with Image.open(tmp_path / "clip.webp") as image:
        assert image.is_animated and image.info["loop"] == 0
    assert VideoReader(tmp_path / "clip.webp").fps == pytest.approx(fps, rel=0.01)
    with pytest.raises(InputError, match="fps 1001"):
        write_video(tmp_path / "fast.webp", video, 1001)


def test_verify_finds_damage(tmp_path):
    path = encode(tmp_path / "clip.mkv", 30, "libx264", g="4")
    VideoReader(path).verify()
    (tmp_path / "cut.mkv").write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError):
        reader = VideoReader(tmp_path / "cut.mkv")
        reader.verify()
        reader.read([29])
