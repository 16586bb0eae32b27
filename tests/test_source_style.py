"""Style that ruff and mypy cannot check: capitals in docstrings, reasons of ignored types, declared libraries."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path for room in ("cmd_lightning", "data", "zoo", "benchmarks", "docs") for path in (ROOT / room).rglob("*.py")
)
ENTRY = re.compile(r" {4}(\*{0,2}\w+): (\S.*)")
PROPER = re.compile(r"\w+[._:0-9]|diffusers|peft|d;")
"""Names that begin with a small letter: of libraries, functions, types."""
IGNORE = re.compile(r"# type: ignore")
REASONED = re.compile(r"# type: ignore\[[\w, -]+\]  # (?!noqa)\w|# type: ignore\[[\w, -]+\]  # noqa: \w+ \(.+\)")


def is_wrong(text: str) -> bool:
    """Whether a text begins with a small letter, and not with a name."""
    return text[:1].islower() and not PROPER.match(text)


def lower_case_entries(text: str) -> list[str]:
    """Entries of a Google docstring that begin with a small letter, and such a summary."""
    found, section = [], ""
    if is_wrong(text):
        found.append(text.partition("\n")[0])
    for line in text.split("\n"):
        if line and not line.startswith(" "):
            section = line
        elif section in ("Args:", "Attributes:", "Raises:") and (entry := ENTRY.match(line)) and is_wrong(entry[2]):
            found.append(line.strip())
    return found


def docstrings(path: Path) -> list[str]:
    """All docstrings of a file."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


@pytest.mark.parametrize("room", ["cmd_lightning", "data", "zoo", "benchmarks", "docs"])
def test_docstrings_are_of_one_style(room):
    paths = [path for path in FILES if path.relative_to(ROOT).parts[0] == room]
    assert paths
    wrong = {str(path): found for path in paths for text in docstrings(path) if (found := lower_case_entries(text))}
    assert not wrong


def test_lower_case_entries_are_found():
    assert lower_case_entries("Do it.\n\nArgs:\n    path: of a file.\n    other: A file.") == ["path: of a file."]
    assert lower_case_entries("do it.") == ["do it."]
    assert lower_case_entries("Do it.\n\n`a`: b\n    path: not an entry") == []


def test_every_ignored_type_gives_its_reason():
    lines = [(path, line) for path in FILES for line in path.read_text().splitlines() if IGNORE.search(line)]
    assert lines
    assert not [f"{path}: {line.strip()}" for path, line in lines if not REASONED.search(line)]


def modules_imported(path: Path) -> set[str]:
    """The top-level modules that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in names}


def normalised(distribution: str) -> str:
    """The name of a distribution, as PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_imported_libraries_are_declared():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    declared = {normalised(re.match(r"[\w.-]+", line)[0]) for lines in lists for line in lines.split()}
    files = [path for path in FILES if path.relative_to(ROOT).parts[0] in ("cmd_lightning", "data", "zoo")]
    modules = set().union(*map(modules_imported, files)) - sys.stdlib_module_names - {"cmd_lightning"}
    assert {"torch", "yaml", "PIL"} <= modules
    found = packages_distributions()
    assert not [name for name in sorted(modules) if not declared & {*map(normalised, found.get(name, ()))}]


def test_the_package_is_typed():
    assert (ROOT / "cmd_lightning" / "py.typed").is_file()
