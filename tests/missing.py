"""What to do in a test if a requirement is missing on this machine."""

import os
from importlib import import_module
from types import ModuleType
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skips the test; with CI=true, where every extra and tool should be installed, fails it.

    Args:
        reason: What is missing, and how to get it.
    """
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (CI=true: a failure, not a skip)", pytrace=False)
    pytest.skip(reason)


def needed(module: str) -> ModuleType:
    """The module; without it, see `missing`."""
    try:
        return import_module(module)
    except ImportError:
        missing(f"{module} is not installed; pip install -e '.[dev]'")
