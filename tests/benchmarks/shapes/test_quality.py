"""The measuring of models: measurements of images, and kept cells."""

import json

import pytest
import torch

from benchmarks.cells import by_name
from benchmarks.shapes.quality import first_positions, measure, spread
from cmd_lightning.errors import InputError
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.painting import positions, render


def test_first_positions_are_the_true_ones():
    scenes = [draw_scene(3, index) for index in range(40)]
    found = first_positions(torch.stack([render(scene, 16, 64) for scene in scenes]))
    true = torch.tensor([positions(scene, 16)[0, 0].tolist() for scene in scenes])
    assert torch.allclose(found, true.float(), atol=0.02)  # a triangle's pixels lie lower than its centre
    assert first_positions(torch.full((1, 3, 2, 16, 16), 30, dtype=torch.uint8)).isnan().all()


def test_spread_tells_a_corner_from_everywhere():
    everywhere = torch.cartesian_prod(*2 * [torch.linspace(0.05, 0.95, 8)])
    assert spread(everywhere)["cells_of_16"] == 16
    corner = spread(torch.cat([everywhere * 0.2, torch.full((1, 2), float("nan"))]))
    assert corner["cells_of_16"] == 1
    assert corner["std_x"] == pytest.approx(spread(everywhere)["std_x"] * 0.2, rel=1e-4)
    assert corner["found"] == pytest.approx(64 / 65)


def test_cells_are_measured_once_and_only_for_the_same_weights(tmp_path):
    counts = {"one": 0, "two": 0}

    class Model:
        def cells(self):
            def measured(name):
                counts[name] += 1
                return {"value": counts[name]}

            return {name: lambda name=name: measured(name) for name in counts}

    path = tmp_path / "results" / "x.json"
    record = {"settings": {"num": 2, "weights": "a"}, "hardware": "a machine", "versions": "torch 2", "date": "today"}
    assert list(by_name(measure(Model(), path, ["tw"], record | {"date": "yesterday"}))) == ["two"]
    assert list(by_name(measure(Model(), path, [], record))) == ["two", "one"]
    assert counts == {"one": 1, "two": 1}
    assert by_name(json.loads(path.read_text())) == {
        "two": {"cell": "two", "value": 1},
        "one": {"cell": "one", "value": 1},
    }
    for part, other in (("weights", "b"), ("num", 3)):
        with pytest.raises(InputError, match="other settings"):
            measure(Model(), path, [], record | {"settings": record["settings"] | {part: other}})
    with pytest.raises(InputError, match="--cells three: no cell begins so; there are one, two"):
        measure(Model(), path, ["three"], record)
