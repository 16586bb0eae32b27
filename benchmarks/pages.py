"""Markdown pages from the templates in the folders here."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


def fill(template: str, **values: Any) -> str:
    """The page that a template makes of these values; it has `format` for numbers."""
    return PAGES.get_template(template).render(values, format=format)
