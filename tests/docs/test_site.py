"""The site: pages of readable length, drawings as their script draws them, and a build that fetches nothing."""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from missing import missing

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(path for path in ROOT.rglob("README.md") if ".venv" not in path.parts)])
LONGEST = 12 * 1024


def test_pages_are_short():
    long = {page.name: size for page in PAGES if (size := page.stat().st_size) > LONGEST}
    assert len(PAGES) > 40 and not long
    assert (ROOT / "README.md").stat().st_size <= 8 * 1024


def test_every_question_of_the_faq_is_answered_by_a_page():
    entries = [part for part in (DOCS / "faq.md").read_text().split("\n\n") if part.startswith("**")]
    assert len(entries) >= 25
    for entry in entries:
        assert re.match(r"\*\*[^*]+[?.]\*\* ", entry) and re.search(r"\]\([\w./-]+\.md", entry), entry


@pytest.fixture(scope="module")
def drawings():
    """The module of docs/drawings that lists the drawings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS / "drawings"))
        spec = importlib.util.spec_from_file_location("drawings", DOCS / "drawings/__main__.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.DRAWINGS


def test_drawings_are_current(drawings):
    for name, draw in drawings.items():
        file = DOCS / "drawings" / f"{name}.svg"
        assert file.read_text(encoding="utf-8") == draw().svg(), f"{file}: run python docs/drawings"


def test_drawings_are_readable_and_fetch_nothing(drawings):
    for draw in drawings.values():
        canvas = draw()
        root = ElementTree.fromstring(canvas.svg())
        assert canvas.width <= 800 and root.find("{*}title").text
        assert all(float(text.get("font-size")) >= 13 for text in root.iter("{*}text"))
        links = [value for element in root.iter() for key, value in element.items() if key.endswith("href")]
        assert all(link.startswith(("#", "data:")) for link in links)


class Fetched(HTMLParser):
    """The addresses that a page fetches when it is opened."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.found += [found.get("src") or ""] + ([found.get("href") or ""] if tag == "link" else [])


def test_what_a_page_fetches_is_found():
    text = '<a href="https://a.org"></a><link href="https://b.org/x.css"><script src="https://c.org/x.js"></script>'
    assert [link for link in Fetched(text).found if link] == ["https://b.org/x.css", "https://c.org/x.js"]


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path):
    if importlib.util.find_spec("mkdocs") is None:
        missing("the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        assert not [link for link in Fetched(page.read_text()).found if "//" in link], page
    assert "MotionDiT" in (tmp_path / "zoo.html").read_text()
    assert "count reproduced" in (tmp_path / "claims.html").read_text()


@pytest.fixture(scope="module")
def hooks():
    if importlib.util.find_spec("mkdocs") is None:
        missing("the extra docs is not installed")
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_lead_to_pages_of_the_site(hooks):
    for page, link, page_of_the_site in (
        ("docs/train.md", "../configs/README.md", "configs/README.md"),
        ("docs/architecture.md", "../data/tar.py", "data/tar.py.md"),
        ("docs/architecture.md", "../zoo", "zoo/README.md"),
        ("docs/zoo.md", "../zoo/motion/dit.py", "zoo/motion/dit.py.md"),
        ("zoo/README.md", "../docs/zoo.md", "zoo.md"),
        ("docs/faq.md", "../README.md", "index.md"),
        ("docs/train.md", "drawings/stages.svg", "drawings/stages.svg"),
    ):
        assert hooks.uri_of(hooks.target_of(page, link)) == page_of_the_site
    assert hooks.target_of("docs/train.md", "nowhere.md") is None  # left as it is, for MkDocs to report
    assert "class MotionDiT" in hooks.text_of("zoo/motion/dit.py")
    assert "](overrides/mean_frame.yaml)" in hooks.text_of("configs/overrides")
