import base64
import io
import math
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from cmd_lightning.report import ENVIRONMENT, Panel, Plot, Series, write_report
from cmd_lightning.video_encoding import gif_bytes

NASTY = "<script>alert('x')</script> & \"quoted\""
VOID = {"meta", "img"}
BLOCKS = "{% extends 'report.html' %}{% from 'blocks.html' import table, gallery, plot %}{% block content %}"
TABLE, GALLERY, PLOT = "{{ table(columns, rows) }}", "{{ gallery(panels, 160) }}", "{{ plot(curves) }}"


class Page(HTMLParser):
    """Elements with their attributes and all text, and whether every element is closed in turn."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text, self._open = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page(tmp_path, blocks, title="Run", **values):
    return Page(write_report(tmp_path / "out" / "report.html", template(blocks), title=title, **values))


def template(blocks):
    return ENVIRONMENT.from_string(BLOCKS + blocks + "{% endblock %}")


def gif():
    video = torch.zeros(3, 5, 32, 48, dtype=torch.uint8)
    video[0] = torch.arange(5)[:, None, None] * 50
    return gif_bytes(video, 8)


def polyline(attributes):
    return [tuple(map(float, pair.split(","))) for pair in attributes["points"].split()]


def test_page_is_one_file_without_scripts_and_links(tmp_path):
    plot = Plot("loss", [Series("train", [1, 2], [3, 4])])
    values = {"columns": ["m"], "rows": [[1.0]], "panels": [Panel(gif(), "clip")], "curves": plot}
    result = page(tmp_path, "<p>a</p>" + TABLE + GALLERY + PLOT, **values)
    assert not re.search(r"https?:|//|url\(|@import", re.sub(r"base64,[\w+/=]+", "", result.source))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in result.elements}
    assert all(image["src"].startswith("data:image/gif;base64,") for image in result.all("img"))
    assert "prefers-color-scheme:dark" in result.source and "image-rendering:pixelated" in result.source
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_everything_is_escaped(tmp_path):
    values = {
        "columns": [NASTY],
        "rows": [[NASTY]],
        "panels": [Panel(gif(), NASTY, alt=NASTY)],
        "curves": Plot(NASTY, [Series(NASTY, [1, 2], [3, 4])]),
    }
    blocks = "<p>{{ title }}</p><pre>{{ title }}</pre>" + TABLE + GALLERY + PLOT
    result = page(tmp_path, blocks, title=NASTY, **values)
    assert not result.all("script")
    assert "".join(result.text).count(NASTY) == 10  # title twice, two texts, two cells, caption, plot, legend, curve
    assert result.all("img")[0]["alt"] == NASTY
    assert result.all("svg")[0]["aria-label"] == f"{NASTY}: {NASTY}"


def test_gifs_come_through_and_are_enlarged_by_whole_factors(tmp_path):
    image = page(tmp_path, GALLERY, panels=[Panel(gif(), "a red circle moves left")]).all("img")[0]
    data = base64.b64decode(image["src"].split(",")[1])
    assert data == gif()
    with Image.open(io.BytesIO(data)) as frame_array:
        assert frame_array.n_frames == 5 and frame_array.size == (48, 32)
    assert image["width"] == "144" and image["alt"] == "a red circle moves left"

    png = io.BytesIO()
    Image.new("RGB", (300, 20)).save(png, "PNG")
    result = page(tmp_path, GALLERY, panels=[Panel(png.getvalue(), "content frame")])
    assert result.all("img")[0]["width"] == "300" and "--cell:300px" in result.source
    with pytest.raises(ValueError, match="neither GIF nor PNG"):
        page(tmp_path, GALLERY, panels=[Panel(b"RIFF....", "clip")])


def test_table_shows_numbers_next_to_their_protocol(tmp_path):
    rows = [["PSNR", 31.23456, "256 clips"], ["FVD", None, "not run"]]
    result = page(tmp_path, TABLE, columns=["metric", "value", "protocol"], rows=rows)
    for text in ("metric", "31.23", "256 clips", "\N{EN DASH}", "not run"):
        assert text in result.text
    assert [cell["class"] for cell in result.all("td")] == ["left", "right", "left"] * 2
    page(tmp_path, TABLE, columns=["metric"], rows=[])


def test_every_series_is_drawn_where_its_values_are(tmp_path):
    train = Series("train", [0, 50, 100], [4.0, 2.0, 0.0])
    validation = Series("validation", [50, 100], [3.0, 1.0], dots=True)
    result = page(tmp_path, PLOT, curves=Plot("loss", [train, validation]))
    (start, middle, end) = polyline(result.all("polyline")[0])
    first, second = [(float(dot["cx"]), float(dot["cy"])) for dot in result.all("circle")]
    assert start[0] < middle[0] == first[0] < end[0] == second[0]
    assert start[1] < first[1] < middle[1] < second[1] < end[1]  # y grows downwards
    assert first[1] == pytest.approx((start[1] + middle[1]) / 2, abs=0.1)
    assert result.text.count("train") == result.text.count("validation") == 2  # legend and curve
    assert {"0", "20", "100", "1", "2", "3", "4"} <= set(result.text)


def test_logarithmic_axis_has_equal_steps_for_equal_factors(tmp_path):
    plot = Plot("loss", [Series("train", [0, 1, 2, 3], [1.0, 0.1, 0.01, -5.0])], log=True)
    result = page(tmp_path, PLOT, curves=plot)
    heights = [y for _, y in polyline(result.all("polyline")[0])]
    assert len(heights) == 3
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert {"1", "0.1", "0.01"} <= set(result.text)


def test_awkward_curves(tmp_path):
    flat = Series("flat", [1, 2], [0.5, 0.5])
    single = Series("single", [7], [3.0])
    broken = Series("broken", [1, 2, 3], [1.0, math.nan, math.inf])
    empty = Series("empty", [], [])
    for log in (False, True):
        for series in (flat, single, broken, empty):
            source = page(tmp_path, PLOT, curves=Plot(series.name, [series], log=log)).source
            assert "nan" not in source and "inf," not in source
    assert "No finite values" in source


def test_long_curves_are_thinned_but_keep_their_spikes(tmp_path):
    values = [1.0] * 100_000
    values[54_321] = 9.0
    plot = Plot("loss", [Series("train", range(100_000), values)])
    points = polyline(page(tmp_path, PLOT, curves=plot).all("polyline")[0])
    assert len(points) <= 801
    assert len({y for _, y in points}) == 2


def test_a_failed_report_leaves_the_old_one(tmp_path):
    path = write_report(tmp_path / "report.html", template(""), title="old")
    with pytest.raises(ValueError, match="neither"):
        write_report(path, template(GALLERY), title="new", panels=[Panel(b"", "nothing")])
    assert "old" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]
