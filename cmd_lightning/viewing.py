"""Show frames as the file specifies, and choose how to show interlaced, HDR and transparent frames.

Like FFmpeg's players, this module crops, scales and rotates frames as the container specifies. Interlaced, HDR and
transparent frames can be shown in more than one way: `Viewing` chooses. Scaling and deinterlacing are FFmpeg's
filters, and tone mapping is FFmpeg's too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from cmd_lightning.errors import InputError

HDR_TRANSFERS = (16, 18)  # PQ (SMPTE ST 2084) and HLG (ARIB STD-B67), as H.273 numbers them
_LEVEL = 6  # of a Hald image: 36 levels of red, green and blue


@dataclass(frozen=True)
class Viewing:
    """How interlaced, HDR and transparent frames are shown.

    Attributes:
        deinterlace: Rebuild the missing lines of frames that are flagged as interlaced (FFmpeg's bwdif, one frame for
            each). Otherwise both fields stay in one frame, which shows combs where something moves.
        tone_map: Map PQ and HLG frames to the range and primaries of ordinary video (BT.709), as FFmpeg's swscale does
            for viewing. Otherwise their code values are taken as they are, which looks flat.
        background: Colour behind transparent pixels: a name such as white, or #rrggbb.

    Raises:
        InputError: The background is not a colour.
    """

    deinterlace: bool = False
    tone_map: bool = False
    background: str = "white"

    def __post_init__(self) -> None:
        colour_of(self.background)

    def describe(self) -> dict[str, Any]:
        """What differs from the default, as plain data for the record of a result: {"viewing": ...}, or nothing."""
        return {} if self == Viewing() else {"viewing": asdict(self)}


def colour_of(name: str) -> tuple[int, int, int]:
    """The red, green and blue of a colour's name or of #rrggbb, each from 0 to 255; `InputError` for others."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        raise InputError(f"background {name}: not a colour; give a name such as white, or #rrggbb") from None
    return red, green, blue


PLAIN = Viewing()


def over(image: Any, background: str) -> Any:
    """A Pillow image in mode RGBA composed over a background, in mode RGB."""
    from PIL import Image

    behind = Image.new("RGBA", image.size, (*colour_of(background), 255))
    return Image.alpha_composite(behind, image).convert("RGB")


@dataclass
class Seen:
    """What was found in the frames of a stream so far."""

    interlaced: bool = False  # whether one was flagged as interlaced
    hdr: bool = False  # whether one had a transfer function of HDR, PQ or HLG
    transparent: bool = False  # whether one that was shown had transparent pixels


class Screen:
    """Shows decoded frames of one stream.

    Attributes:
        seen: What was found in them so far.

    Args:
        viewing: What is chosen.
        crop: Pixels that the container cuts off: left, right, top, bottom.
        aspect: Width of a pixel in relation to its height, as the frame is stored.
    """

    def __init__(self, viewing: Viewing, crop: tuple[int, int, int, int], aspect: Fraction) -> None:
        import av

        self.viewing, self._crop, self._aspect = viewing, crop, aspect
        self._whole = not any(crop) and aspect == 1
        self.seen = Seen()
        self._reformatter = av.video.reformatter.VideoReformatter()  # one for all frames: each sets up tables
        self._graph: tuple[Any, Any] | None = None
        self._shown = 0
        self._turn: tuple[bool, tuple[int, ...]] | None = None

    def note(self, frame: Any) -> None:
        """Note what a decoded frame is flagged as."""
        self.seen.interlaced |= frame.interlaced_frame
        self.seen.hdr |= frame.color_trc in HDR_TRANSFERS

    def show(self, frame: Any) -> np.ndarray:
        """A decoded frame as it is shown: uint8 RGB (H, W, 3)."""
        self.note(frame)
        if self._turn is None:
            # Of a small copy: a frame that was asked for its side data refers to itself, and stays in memory until
            # Python looks for such.
            self._turn = _turn_of(frame.reformat(16, 16, "rgb24", interpolation="POINT", threads=1))
        transposed, flipped = self._turn
        pixels = self._to_rgb(frame, transposed)
        image = pixels.swapaxes(0, 1) if transposed else pixels
        return np.flip(image, flipped) if flipped else image

    def _to_rgb(self, frame: Any, transposed: bool) -> np.ndarray:
        layout = "rgba" if _may_be_transparent(frame.format.name) else "rgb24"
        mapped = self.viewing.tone_map and frame.color_trc in HDR_TRANSFERS
        if mapped or not self._whole:
            frame = self._filtered(frame, transposed, layout, mapped)
        # Bicubic, as FFmpeg's programs do: it shows where chroma is subsampled in other ways than most, or has 10 bits.
        pixels = self._reformatter.reformat(frame, format=layout, interpolation="BICUBIC", threads=1).to_ndarray()
        if layout == "rgb24":
            return pixels
        opaque = pixels[..., 3].min() == 255
        self.seen.transparent |= not opaque
        return pixels[..., :3] if opaque else self._over(pixels)

    def _over(self, pixels: np.ndarray) -> np.ndarray:
        from PIL import Image

        return np.array(over(Image.fromarray(pixels), self.viewing.background))

    def _filtered(self, frame: Any, transposed: bool, layout: str, mapped: bool) -> Any:
        """The frame cropped, mapped, and stretched to square pixels: in width, or in height where it is transposed."""
        kind = (*_kind_of(frame), mapped)
        if self._graph is None or self._graph[0] != kind:
            left, right, top, bottom = self._crop
            width, height = frame.width - left - right, frame.height - top - bottom
            shown = (width, int(height / self._aspect)) if transposed else (int(width * self._aspect), height)
            table = tone_table(frame.color_trc, frame.color_primaries) if mapped else None
            steps = []
            if any(self._crop):  # of RGB, of which any pixel may be the first
                steps += [("format", f"pix_fmts={layout}"), ("crop", f"w={width}:h={height}:x={left}:y={top}")]
            if mapped:
                steps += [("format", "pix_fmts=rgb48"), ("haldclut", "clut=first")]
            steps += [("scale", f"w={max(1, shown[0])}:h={max(1, shown[1])}:flags=bicubic")]
            steps += [("format", f"pix_fmts={layout}")]
            self._graph = kind, _graph_of(frame, steps, table)
        graph = self._graph[1]
        self._shown += 1
        frame.pts = self._shown  # filters with a table want ascending times
        graph.push(frame, 0)
        return graph.vpull()


def deinterlaced(frames: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Numbered frames without combs, in their order; those that are not flagged as interlaced stay as they are.

    A frame is rebuilt with the help of the ones before and after it, where those are among the frames.
    """
    graph: Any = None
    follows: tuple[int, Any] | None = None  # the number and kind of a frame that would continue the last one
    waiting: list[int] = []
    for index, frame in frames:
        kind = _kind_of(frame)
        if follows != (index, kind):
            if graph is not None:
                yield from _finished(graph, None, waiting)
            graph = _graph_of(frame, [("bwdif", "mode=send_frame:deint=interlaced")])
        waiting.append(index)
        yield from _finished(graph, frame, waiting)
        follows = index + 1, kind
    if graph is not None:
        yield from _finished(graph, None, waiting)


def _finished(graph: Any, frame: Any, waiting: list[int]) -> Iterator[tuple[int, Any]]:
    """What a graph gives out when a frame is put in, or None as the end; `waiting` are the numbers of those inside."""
    graph.vpush(frame)
    while waiting:
        try:
            done = graph.vpull()
        except (BlockingIOError, EOFError):  # it needs more frames
            return
        yield waiting.pop(0), done


def _kind_of(frame: Any) -> tuple[Any, ...]:
    """What a filter graph is built for."""
    return frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range


def _graph_of(frame: Any, steps: Sequence[tuple[str, str]], table: Any = None) -> Any:
    """A graph of filters, with their options, for frames of the kind of this one; haldclut reads the table."""
    import av

    graph = av.filter.Graph()
    graph.threads = 1
    source = _source_of(graph, frame)
    filters = [graph.add(name, options) for name, options in steps]
    graph.link_nodes(source, *filters, graph.add("buffersink"))
    if table is not None:
        colours = _source_of(graph, table)
        colours.link_to(filters[[name for name, _ in steps].index("haldclut")], 0, 1)
    graph.configure()
    if table is not None:
        colours.push(table)
        colours.push(None)
    return graph


def _source_of(graph: Any, frame: Any) -> Any:
    width, height, layout, matrix, extent = _kind_of(frame)
    return graph.add(
        "buffer", f"video_size={width}x{height}:pix_fmt={layout}:time_base=1/1000:colorspace={matrix}:range={extent}"
    )


@cache
def _may_be_transparent(layout: str) -> bool:
    import av

    kind = av.VideoFormat(layout)
    return kind.has_palette or any(part.is_alpha for part in kind.components)


@cache
def tone_table(transfer: int, primaries: int) -> Any:
    """FFmpeg's tone mapping to BT.709, as the frame of colours that its filter haldclut takes.

    FFmpeg (libswscale) computes a table for each size of frames, for seconds; this one is for all. The peak is that of
    the transfer function, whatever a file says of its mastering: the same light gets the same level in all clips.

    Args:
        transfer: Transfer function of what is mapped, one of `HDR_TRANSFERS`.
        primaries: Its primaries, as H.273 numbers them; BT.2020 where they are unspecified.
    """
    import av

    levels = np.linspace(0, 65535, _LEVEL**2).round().astype(np.uint16)
    blue, green, red = np.meshgrid(levels, levels, levels, indexing="ij")  # red fastest
    points = np.stack([red, green, blue], -1).reshape(_LEVEL**3, _LEVEL**3, 3)
    frame = av.VideoFrame.from_ndarray(points, format="rgb48le")
    frame.pts, frame.color_range, frame.color_trc = 0, 2, transfer
    frame.color_primaries = primaries if primaries not in (0, 2) else 9  # reserved and unspecified; BT.2020
    mapping = "out_primaries=bt709:out_transfer=bt709:intent=perceptual"
    graph = _graph_of(frame, [("scale", mapping), ("format", "pix_fmts=rgb48")])
    graph.push(frame)
    return graph.vpull()


def _turn_of(frame: Any) -> tuple[bool, tuple[int, ...]]:
    """Whether a frame is shown transposed, and along which axes of (H, W, 3) it is then flipped: its display matrix.

    The matrix (a, b, u, c, d, v, x, y, w), as in ISO 14496-12 and FFmpeg's display.h, moves what is at (p, q), p to
    the right and q downwards, to (a p + c q + x, b p + d q + y). So that of a phone held upright, a = d = 0, b = 1,
    c = -1, moves what was on the right downwards: a quarter turn clockwise.
    """
    matrices = [bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"]
    if not matrices:
        return False, ()
    a, b, _, c, d = np.frombuffer(matrices[0], "=i4")[:5].tolist()
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    if transposed:
        a, d = c, b
    return transposed, tuple(axis for axis, sign in ((0, d), (1, a)) if sign < 0)
