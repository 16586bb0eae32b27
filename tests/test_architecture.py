"""Which room may import which, and that the architecture page agrees with the source."""

import ast
import importlib.util
import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "rooms.py")
rooms = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rooms)

CORE = (
    *("components", "networks", "diffusion", "latent_space", "conditioning", "pipeline", "metrics", "data", "zoo"),
    *("packing", "evaluation"),
)
FORBIDDEN = {room: {"shapes", "ranking", "commands", "benchmarks"} for room in (*CORE, "callbacks", "stable_diffusion")}
FORBIDDEN["components"] |= {"data", "packing", "evaluation"}
for room in ("networks", "diffusion", "latent_space", "conditioning", "stable_diffusion", "zoo", "pipeline"):
    FORBIDDEN[room] |= {"components", "data", "packing", "evaluation", "callbacks"}
ALLOWED = {
    "data": {"basics", "video_io"},
    "packing": {"basics", "data", "video_io"},
    "evaluation": {"basics", "data", "video_io"},
    "metrics": {"basics", "video_io"},
    "zoo": {"basics", "networks", "pretrained"},
    "basics": set(),
    "video_io": {"basics"},
}
"""Rooms that may import these alone."""


@pytest.fixture(scope="module")
def arrows():
    return rooms.arrows()


def test_every_module_has_a_room_that_is_drawn():
    drawn = {room for _, group in rooms.GROUPS.values() for room in group} | {"basics"}
    found = {rooms.room_of(module) for module, _ in rooms.modules()}
    assert found == drawn and drawn == {*rooms.PLACES, "basics"}
    assert {"cmd_lightning.zoo.motion.dit", "cmd_lightning.data.stream"} <= {module for module, _ in rooms.modules()}


def test_rooms_import_only_what_they_may(arrows):
    wrong = {pair: names for pair, names in arrows.items() if pair[1] in FORBIDDEN.get(pair[0], ())}
    wrong |= {pair: names for pair, names in arrows.items() if pair[1] not in ALLOWED.get(pair[0], {pair[1]})}
    assert not wrong


def test_components_know_contracts_and_no_network_of_the_zoo():
    for module, path in rooms.modules():
        if rooms.room_of(module) in ("components", "pipeline"):
            found = [name for name in rooms.imports_of(path) if name.startswith("cmd_lightning.zoo")]
            assert set(found) <= {"cmd_lightning.zoo.model_folder", "cmd_lightning.zoo.models"}, module


def test_a_forbidden_import_is_found(tmp_path, monkeypatch):
    package = tmp_path / "cmd_lightning"
    (package / "networks").mkdir(parents=True)
    (tmp_path / "zoo").mkdir()
    (package / "zoo").symlink_to("../zoo")
    (tmp_path / "zoo" / "mine.py").write_text("def f():\n    from cmd_lightning.shapes.scenes import SHAPES\n")
    (package / "networks" / "a.py").write_text("from cmd_lightning import components\nimport torch\n")
    monkeypatch.setattr(rooms, "ROOT", tmp_path)
    assert rooms.arrows() == {
        ("zoo", "shapes"): {"cmd_lightning.zoo.mine"},
        ("networks", "components"): {"cmd_lightning.networks.a"},
    }


def test_the_drawing_is_that_of_the_source():
    assert rooms.FILE.read_text(encoding="utf-8") == rooms.drawing().svg(), "run `python docs/rooms.py`"
    assert "](drawings/rooms.svg)" in PAGE


def test_rooms_are_drawn_apart():
    boxes = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="118"', rooms.FILE.read_text())
    places = sorted((float(y), float(x)) for x, y in boxes)
    assert len(places) == len(rooms.PLACES)
    assert all(b > y or u - x >= 118 for (y, x), (b, u) in itertools.pairwise(places)), "change rooms.PLACES"


@pytest.mark.parametrize(("title", "most"), [("One clip", 7), ("One prompt", 5)])
def test_paths_are_short_and_name_what_is_there(title, most):
    section = re.search(rf"## {title}.*?(?=\n## |\Z)", PAGE, re.DOTALL)[0]
    rows = re.findall(r"\| \[[^\]]+\]\(\.\./([^)]+)\) \| `(\w+)` \|", section)
    assert 2 <= len(rows) <= most
    for file, name in rows:
        body = ast.parse((ROOT / file).read_text()).body
        assert name in {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}, file


def test_links_of_the_page_lead_somewhere():
    for target in re.findall(r"\]\((\.\./[^)#]+)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
