"""Odd inputs for the readers: small valid files of every kind, and ways to damage them.

An input is a valid file with a few edits, headers put together at random, or random bytes. Edits aim at what a reader
trusts: the lengths and sizes behind a mark (an mp4 box, an EBML id), and the numbers in a tar header, whose checksum is
put right again.
"""

import io
import json
import re
import struct
import tarfile
from fractions import Fraction
from functools import cache

import av
import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

HEIGHT, WIDTH = 32, 48
BLOCK = tarfile.BLOCKSIZE

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
EVEN = list(range(12))
UNEVEN = [0, 1, 2, 5, 6, 7, 8, 14, 15, 16, 40, 41]
QUICK = {"preset": "ultrafast", "g": "4"}
CLIPS = {
    "h264.mp4": ("mp4", "libx264", QUICK, {}, EVEN),
    "b_frames.mp4": ("mp4", "libx264", {"preset": "veryfast", "g": "8", "bf": "2"}, {}, EVEN),
    "fragmented.mp4": ("mp4", "libx264", QUICK, FRAGMENTED, EVEN),
    "uneven.mp4": ("mp4", "libx264", QUICK, {}, UNEVEN),
    "mpeg4.mov": ("mov", "mpeg4", {"g": "4"}, {}, EVEN),
    "mjpeg.mov": ("mov", "mjpeg", {}, {}, EVEN),
    "vp8.webm": ("webm", "libvpx", {"deadline": "realtime", "g": "4"}, {}, EVEN),
    "vp9.mkv": ("matroska", "libvpx-vp9", {"deadline": "realtime", "g": "4"}, {}, EVEN),
    "uneven.mkv": ("matroska", "libx264", QUICK, {}, UNEVEN),
    "mpeg4.avi": ("avi", "mpeg4", {"g": "4"}, {}, EVEN),
    "mjpeg.avi": ("avi", "mjpeg", {}, {}, EVEN),
    "palette.gif": ("gif", "gif", {}, {}, EVEN),
    "palette.apng": ("apng", "apng", {}, {}, EVEN),
    "h264.ts": ("mpegts", "libx264", {"preset": "veryfast", "g": "4", "bf": "2"}, {}, EVEN),
    "mpeg2.mpg": ("mpeg", "mpeg2video", {"g": "4", "bf": "2", "strict": "-2"}, {}, EVEN),
    "wmv2.wmv": ("asf", "wmv2", {"g": "4"}, {}, EVEN),
    "flv1.flv": ("flv", "flv", {"g": "4"}, {}, EVEN),
    "vp8.ogv": ("ogg", "libvpx", {"deadline": "realtime", "g": "4"}, {}, EVEN),
}
"""Container, codec, its options, those of the container, and times of the frames in twelfths of a second."""

PIXELS = {"mjpeg": "yuvj420p", "gif": "rgb8", "apng": "rgb24"}
AUDIO = {"mp4": "aac", "mov": "aac", "webm": "libopus", "matroska": "libopus", "avi": "mp2"}

MARKS = [
    *(b"ftyp moov mvhd trak tkhd mdia mdhd hdlr minf stbl stsd avc1 avcC hvcC mp4v esds stts ctts stss stsz".split()),
    *(b"stsc stco co64 elst edts moof mfhd traf tfhd tfdt trun mdat mvex trex RIFF LIST avih strh strf movi".split()),
    *(b"idx1 00dc GIF89a NETSCAPE2.0 \x1a\x45\xdf\xa3 \x18\x53\x80\x67 \x15\x49\xa9\x66 \x16\x54\xae\x6b".split()),
    *(b"\x1f\x43\xb6\x75 \x1c\x53\xbb\x6b \x2a\xd7\xb1 \x42\x86 \x44\x87 \xae \xd7 \x83 \x86 \xb0 \xba \xe7".split()),
    *(b"\xa3 \xa0 \xa1 \xe0 \x63\xa2 \x53\x6e \x21\xf9\x04 \x21\xff \x2c\0\0\0 \0\0\1 \xff\xd8".split()),
    *(b"VP8X ANIM ANMF VP8L acTL fcTL fdAT IDAT IHDR FLV OggS \0\0\1\xba \0\0\1\xe0 \x47\x41\0".split()),
]
"""Names of mp4 boxes and AVI chunks, EBML ids, and what blocks of a GIF, H.264 and JPEG begin with."""

EXTREMES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\x01"]
WORDS = st.one_of(
    st.sampled_from(
        [byte * 4 for byte in EXTREMES] + [b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\0\0\xff\xff"]
    ),
    st.integers(0, 2**32 - 1).map(lambda number: struct.pack(">I", number)),
    st.binary(min_size=1, max_size=8),
)

HEADER = {"name": (0, 100), "mode": (100, 8), "uid": (108, 8), "size": (124, 12), "mtime": (136, 12)}
HEADER |= {"kind": (156, 1), "link": (157, 100), "magic": (257, 8), "device": (329, 8), "prefix": (345, 155)}
"""Offset and length of a tar header's fields; sparse files keep their map within the prefix."""
NUMBERS = st.one_of(
    st.sampled_from([b"77777777777\0", b"-0000000001\0", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"\xff" + b"\0" * 11]),
    st.sampled_from([b"\0" * 12, b" " * 12, b"00000000008\0", b"\x80" + b"\0" * 7 + b"\x01\0\0\0", b"0x1fe\0"]),
    st.one_of(st.integers(-6, -1).map(lambda blocks: blocks * BLOCK), st.integers(-(2**40), 2**70)).map(
        lambda number: number.to_bytes(12, "big", signed=True)
    ),
    st.integers(0, 10_000).map(lambda number: b"%011o\0" % number),
)
TENSOR_WORDS = [*b"0 1 2 4 -1 1e9 2.5 99999999999 4611686018427387904 F16 F32 F64 BF16 F8_E4M3 F4 I8 BOOL".split()]
TENSOR_WORDS += [*b"moments content motion text.ab.pooled text.ab.tokens text.ab.mask text.. shape dtype".split()]
"""What the header of a safetensors file may hold."""
KINDS = [bytes([kind]) for kind in b"\0" + b"01234567LKSxgXVDMNA"]
RECORDS = [
    "size=-1",
    "size=99999999999999999999",
    "size=512",
    "size=x",
    "path=",
    "path=b.mp4",
    "mtime=nan",
    "path=a/\0",
]
RECORDS += ["GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.map=0,9,-5,7", "GNU.sparse.size=x"]
RECORDS += ["GNU.sparse.realsize=1e9", "GNU.sparse.numblocks=999999999", "GNU.sparse.name=c.mp4", "hdrcharset=BINARY"]


@cache
def clip(name: str) -> bytes:
    """One of `CLIPS`; mp4, mov and webm with sound."""
    form, codec, options, container_options, times = CLIPS[name]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form, options=container_options) as container:
        stream = container.add_stream(codec, rate=12, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, PIXELS.get(codec, "yuv420p")
        stream.codec_context.time_base = Fraction(1, 12)
        stream.codec_context.thread_count = 1
        sound = container.add_stream(AUDIO[form], rate=48000, layout="mono") if form in AUDIO else None
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(square(number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 12)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 48000, 0
            resampler = av.AudioResampler(sound.format, "mono", 48000, frame_size=sound.frame_size or None)
            for piece in [*resampler.resample(silence), *resampler.resample(None), None]:
                container.mux(sound.encode(piece))
    return buffer.getvalue()


def square(number: int) -> np.ndarray:
    """A square that moves over a gradient, (H, W, 3)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    frame = np.stack([4 * columns, 6 * rows, 0 * rows + 9 * number], 2).astype(np.uint8)
    frame[8:16, 3 * number : 3 * number + 8] = 255 - 20 * number
    return frame


@cache
def turned() -> bytes:
    """The first clip with a display matrix of a quarter turn."""
    data = clip("h264.mp4")
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix comes after 40 bytes
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)
    return data[:at] + matrix + data[at + 36 :]


@cache
def webp() -> bytes:
    """An animation that Pillow writes."""
    images = [Image.fromarray(square(number)) for number in EVEN]
    buffer = io.BytesIO()
    images[0].save(buffer, "WEBP", save_all=True, append_images=images[1:], duration=80)
    return buffer.getvalue()


def clips() -> list[bytes]:
    """All valid clips."""
    return [turned(), webp(), *map(clip, CLIPS)]


@cache
def shards() -> list[bytes]:
    """Valid tar files in every format, among them links, devices, folders, long and odd names and a sparse file."""
    return [_shard(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)] + [_sparse()]


def _shard(form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, bufsize=BLOCK) as tar:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", **records: str) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname, info.pax_headers = kind, len(data), link, records
            tar.addfile(info, io.BytesIO(data))

        add("folder", kind=tarfile.DIRTYPE)
        for key in ("folder/a", "b.c", "d" * 90):
            add(key + ".mp4", key.encode() * 20)
            add(key + ".txt", b"a caption")
            add(key + ".json", b'{"label": 1}')
        if form != tarfile.USTAR_FORMAT:
            add("long" * 60 + ".mp4", b"1234", comment="x" * 40)
            add("f\N{LATIN SMALL LETTER U WITH DIAERESIS}r.mp4", b"1234")
        add("e.mp4", kind=tarfile.SYMTYPE, link="b.c.mp4")
        add("e.txt", kind=tarfile.LNKTYPE, link="b.c.txt")
        add("device.mp4", kind=tarfile.CHRTYPE)
        add("pipe.mp4", kind=tarfile.FIFOTYPE)
        add("empty.mp4")
        add("__meta__/0.json", b"{}")
    return buffer.getvalue().rstrip(b"\0") + bytes(4 * BLOCK)


def _sparse() -> bytes:
    data = b"x" * BLOCK
    header = bytearray(tarfile.TarInfo("s.mp4").tobuf(tarfile.GNU_FORMAT))
    header[124:136], header[156:157] = b"%011o\0" % len(data), b"S"
    header[386:410] = b"%011o\0%011o\0" % (BLOCK, len(data))  # where the piece lies, its length
    header[483:495] = b"%011o\0" % (4 * BLOCK)
    return checked(bytes(header)) + data + _shard(tarfile.GNU_FORMAT)


def checked(header: bytes) -> bytes:
    """A tar header with its checksum put right."""
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


@st.composite
def edited(draw, files, marked, others=()):
    """A valid file after one to three edits; `marked` draws an edit that knows the format."""
    files = files()
    data = draw(st.sampled_from(files))
    for _ in range(draw(st.integers(1, 3))):
        edit = draw(st.sampled_from([marked, marked, marked, *ANYWHERE]))
        data = edit(draw, data) if edit is not splice else splice(draw, data, draw(st.sampled_from(files)))
    return data


def _place(draw, data: bytes) -> int:
    return draw(st.integers(0, max(len(data) - 1, 0)))


def flip(draw, data: bytes) -> bytes:
    """Another bit in one byte."""
    at = _place(draw, data)
    return data[:at] + bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[at : at + 1]) + data[at + 1 :]


def overwrite(draw, data: bytes) -> bytes:
    """Other bytes in place of as many."""
    at, word = _place(draw, data), draw(WORDS)
    return data[:at] + word + data[at + len(word) :]


def insert(draw, data: bytes) -> bytes:
    """A few bytes more."""
    at = _place(draw, data)
    return data[:at] + draw(st.binary(min_size=1, max_size=16)) + data[at:]


def cut_off(draw, data: bytes) -> bytes:
    """The end is missing."""
    return data[: _place(draw, data)]


def cut_out(draw, data: bytes) -> bytes:
    """A piece is missing."""
    at = _place(draw, data)
    return data[:at] + data[at + draw(st.integers(1, 600)) :]


def repeat(draw, data: bytes) -> bytes:
    """A piece comes several times."""
    at = _place(draw, data)
    end = at + draw(st.integers(1, 1200))
    return data[:at] + data[at:end] * draw(st.integers(2, 5)) + data[end:]


def splice(draw, data: bytes, other: bytes) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: _place(draw, data)] + other[_place(draw, other) :]


ANYWHERE = (flip, overwrite, insert, cut_off, cut_out, repeat, splice)


def near_mark(draw, data: bytes) -> bytes:
    """Another word near a box's name: its size before, or a field behind."""
    found = [mark for mark in MARKS if mark in data]
    if not found:
        return overwrite(draw, data)
    places = [match.start() for match in re.finditer(re.escape(draw(st.sampled_from(found))), data)]
    at = max(draw(st.sampled_from(places[:40])) + draw(st.integers(-4, 100)), 0)
    word = draw(WORDS)
    return data[:at] + word + data[at + len(word) :]


def header_field(draw, data: bytes) -> bytes:
    """Another value in a field of a tar header, or a pax header before it; the checksum is right."""
    starts = [at for at in range(0, len(data) - BLOCK + 1, BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    at = draw(st.sampled_from(starts or [0]))
    header = bytearray(data[at : at + BLOCK].ljust(BLOCK, b"\0"))
    if draw(st.integers(0, 3)) == 0:
        return data[:at] + pax(draw(st.lists(st.sampled_from(RECORDS), min_size=1, max_size=3))) + data[at:]
    start, length = HEADER[draw(st.sampled_from(["size", "size", "size", "kind", *HEADER]))]
    values = {1: st.sampled_from(KINDS), 8: NUMBERS, 12: NUMBERS}.get(
        length, st.one_of(NUMBERS, st.binary(max_size=99))
    )
    value = draw(values)[:length]
    header[start : start + len(value)] = value
    return data[:at] + checked(bytes(header)) + data[at + BLOCK :]


def pax(records: list[str], kind: bytes = b"x") -> bytes:
    """A pax header with these records."""
    body = b""
    for record in records:
        length = len(record) + 3
        while len(line := f"{length} {record}\n".encode()) != length:
            length = len(line)
        body += line
    header = bytearray(tarfile.TarInfo("pax").tobuf(tarfile.USTAR_FORMAT))
    header[124:136], header[156:157] = b"%011o\0" % len(body), kind
    return checked(bytes(header)) + body.ljust(-(-len(body) // BLOCK) * BLOCK, b"\0")


@st.composite
def loose_headers(draw):
    """Tar headers one after another, with a right checksum and anything else, and payloads that may not fit."""
    data = b""
    for _ in range(draw(st.integers(1, 6))):
        name = draw(
            st.sampled_from([b"a.mp4", b"a.txt", b"b.mp4", b"", b"\xff\xfe.mp4", b"..", b"/a.mp4", b"__x__/a.mp4"])
        )
        header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
        header[:100] = name.ljust(100, b"\0")
        header[124:136] = draw(NUMBERS)
        header[156:157] = draw(st.sampled_from(KINDS))
        payload = draw(
            st.sampled_from([b"", b"9 path=x\n", b"0 a=b\n", b"-1 a=b\n", b"999999999 a=b\n", b"a", b"1\n1\n9\n"])
        )
        data += checked(bytes(header)) + payload.ljust(BLOCK * draw(st.integers(0, 2)), b"\0")
    return data


@st.composite
def loose_boxes(draw, depth=3):
    """Nested mp4 boxes of any names, whose lengths may lie."""
    data = b""
    for _ in range(draw(st.integers(0, 3))):
        inner = (
            draw(st.one_of(st.binary(max_size=80), loose_boxes(depth - 1))) if depth else draw(st.binary(max_size=80))
        )
        length = draw(st.sampled_from([len(inner) + 8] * 4 + [0, 1, 7, 2**31, 2**32 - 1]))
        data += struct.pack(">I", length) + draw(st.sampled_from(MARKS[:34])) + inner
    return data


FTYP = struct.pack(">I", 24) + b"ftypisom\0\0\2\0isommp41"
STARTS = [
    b"",
    b"\x1a\x45\xdf\xa3",
    b"RIFF\0\0\0\0AVI LIST",
    b"GIF89a",
    b"\0\0\0\x01\x67",
    b"#EXTM3U\n",
    b"\xff\xd8\xff",
    b"\x47",
]
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("\ud800")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


def clip_inputs():
    """Clips as they should not be."""
    return st.one_of(
        *(edited(clips, near_mark) for _ in range(8)),
        loose_boxes().map(lambda boxes: FTYP + boxes),
        st.tuples(st.sampled_from(STARTS), st.binary(max_size=600)).map(b"".join),
    )


def fact_inputs():
    """Texts and .json files as they should not be."""
    facts = st.fixed_dictionaries({}, optional={"label": VALUES, "caption": VALUES})
    return st.one_of(
        st.binary(max_size=60),
        facts.map(json.dumps).map(str.encode),
        facts.map(lambda found: json.dumps(found, ensure_ascii=False).encode("utf-16", "surrogatepass")),
        st.tuples(st.sampled_from([b"[", b'{"a":', b"1", b" ", b'"\\u']), st.integers(1, 30_000)).map(
            lambda p: p[0] * p[1]
        ),
    )


@cache
def latents() -> list[bytes]:
    """Latents as `shards encode` keeps them: of both kinds, with text."""
    zeros = {"content": (2, 4, 2, 3), "motion": (2, 2, 5, 6), "text.ab.pooled": (7,), "text.ab.tokens": (4, 7)}
    split = {name: torch.zeros(shape).half() for name, shape in zeros.items()}
    split["text.ab.mask"] = torch.ones(4, dtype=torch.bool)
    return [save(split), save({"moments": torch.zeros(3, 2, 2, 2, 2)})]


def header_word(draw, data: bytes) -> bytes:
    """Another word in the header of a safetensors file, whose length is put right."""
    length = int.from_bytes(data[:8], "little")
    words = [match.span() for match in re.finditer(rb"[A-Za-z0-9.]+", data[8 : 8 + length])]
    if not words or 8 + length > len(data):
        return overwrite(draw, data)
    start, end = draw(st.sampled_from(words))
    header = data[8 : 8 + start] + draw(st.sampled_from(TENSOR_WORDS)) + data[8 + end : 8 + length]
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def latent_inputs():
    """Safetensors files as they should not be."""
    return st.one_of(*(edited(latents, header_word) for _ in range(4)), st.binary(max_size=200))


def shard_inputs():
    """Tar files as they should not be."""
    return st.one_of(
        *(edited(shards, header_field) for _ in range(6)), loose_headers(), loose_headers(), st.binary(max_size=600)
    )
