"""Every public class of metrics, networks, components and pipeline has an example that runs."""

import doctest
import inspect

import pytest

from cmd_lightning import components, metrics, networks, pipeline

ROOMS = (components, metrics, networks, pipeline)
CLASSES = [getattr(room, name) for room in ROOMS for name in room.__all__ if inspect.isclass(getattr(room, name))]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def test_every_kind_of_class_is_among_them():
    assert {metrics.FrechetVideoDistance, networks.MotionModel, networks.LatentSpec} <= set(CLASSES)
    assert {components.CMD, components.MotionDiffusion, pipeline.CMDPipeline} <= set(CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_example_runs(cls):
    [example] = doctest.DocTestFinder(recurse=False).find(cls, cls.__name__, globs={})
    assert example.examples, f"{cls.__name__}: its docstring has no example"
    runner, lines = doctest.DocTestRunner(optionflags=FLAGS, verbose=False), []
    runner.run(example, out=lines.append)
    assert not runner.failures, "".join(lines)
