"""What MkDocs does to the pages of the site: makes links to files of the repository work, and shows notebooks.

A page of the site is a Markdown file of docs/, or one elsewhere that a page or the navigation links to, such as
zoo/README.md. A link to another file of the repository leads to a page with its text, so the site is complete offline
and shows the code of its own version.
"""

from __future__ import annotations

import posixpath
import re
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
FENCE = re.compile(r"^( *```).*?^\1", re.MULTILINE | re.DOTALL)
IMAGES = {".gif", ".png", ".svg", ".jpg"}
HOME = "README.md"
PATHS: dict[str, str] = {}
"""The file of the repository that each page or image of the site is made of, by its name in the site."""


def uri_of(path: str) -> str:
    """The name in the site of a file or folder of the repository."""
    if path == HOME:
        return "index.md"
    if path.startswith("docs/"):
        return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
    if (ROOT / path).is_dir():
        return f"{path}/index.md"
    return path if Path(path).suffix in {".md", *IMAGES} else f"{path}.md"


def target_of(path: str, link: str) -> str | None:
    """What a link in a file leads to in the repository; of a folder its README or its docstring, if it has one."""
    found = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    names = [f"{found}/README.md", f"{found}/__init__.py", found]
    return next((name for name in names if (ROOT / name).exists()), None)


def text_of(path: str) -> str:
    """The Markdown of a page: of a file of another kind its text as a code block, of a folder the list of its files."""
    file = ROOT / path
    if file.is_dir():
        return f"# {path}\n\n" + "".join(
            f"- [{own.name}]({file.name}/{own.name})\n" for own in sorted(file.glob("*.*"))
        )
    if file.suffix == ".ipynb":
        return notebook(path)[0]
    text = file.read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    language = {".py": "python", ".yaml": "yaml", ".json": "json"}.get(file.suffix, "text")
    return f"---\nsearch: {{exclude: true}}\n---\n\n# {path}\n\n~~~~~~{language}\n{text}\n~~~~~~\n"


@cache
def notebook(path: str) -> tuple[str, dict[str, bytes]]:
    """The Markdown of an executed notebook, and its images by name."""
    from nbconvert import MarkdownExporter

    name = {"unique_key": Path(path).stem}  # of the images
    text, resources = MarkdownExporter().from_filename(str(ROOT / path), resources=name)
    return re.sub(r"\n{3,}", "\n\n", text), resources["outputs"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what the pages link to outside docs/, and what that links to in turn."""
    pending = [HOME, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    PATHS.clear()
    while pending:
        path = pending.pop()
        uri = uri_of(path)
        if uri in PATHS:
            continue
        PATHS[uri] = path
        if path.endswith(".ipynb"):
            folder = posixpath.dirname(uri)
            for name, image in notebook(path)[1].items():
                files.append(File.generated(config, f"{folder}/{name}", content=image))
        if not path.startswith("docs/") or path.endswith(".ipynb"):
            inclusion = InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path), inclusion=inclusion))
        if path.endswith((".md", ".ipynb")) or (ROOT / path).is_dir():
            links = LINK.findall(FENCE.sub("", text_of(path)))
            pending += filter(None, (target_of(path, link) for link in links))
    return files


def on_page_read_source(page: Page, config: MkDocsConfig) -> str:
    """The Markdown of a page."""
    return text_of(PATHS[page.file.src_uri])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files of the repository into links to pages of the site."""
    uri = page.file.src_uri
    path = PATHS[uri]

    def rewritten(match: re.Match[str]) -> str:
        target = target_of(path, match[1])
        return match[1] if target is None else posixpath.relpath(uri_of(target), posixpath.dirname(uri))

    return markdown if path.endswith(".py") else LINK.sub(rewritten, markdown)
