"""The cards of shipped models: each says what its record and its results say, of the weights that lie there."""

import json
from pathlib import Path

import pytest
import yaml

from benchmarks.cells import by_name
from benchmarks.shapes.card import page
from cmd_lightning.provenance import weights_sha256
from cmd_lightning.shapes.features import ShapesFeatures
from cmd_lightning.shapes.reader import ShapesReader

CARDS, WEIGHTS, RESULTS = Path("zoo/cards"), Path("zoo/weights"), Path("benchmarks/results")
MODELS = [folder.name for folder in WEIGHTS.iterdir() if folder.is_dir()]


@pytest.mark.parametrize("name", MODELS)
def test_a_card_is_made_of_its_record_for_the_weights_that_ship(name):
    card = yaml.safe_load((CARDS / f"{name}.yaml").read_text())
    result = json.loads((RESULTS / f"{name}.json").read_text())
    assert card["weights"] == result["settings"]["weights"]["model"] == weights_sha256(WEIGHTS / name)
    for file in (ShapesReader.WEIGHTS, ShapesFeatures.WEIGHTS):
        assert result["settings"]["weights"]["yardstick"][file] == weights_sha256(WEIGHTS / file)
    assert by_name(result)["reader"]["reconstructions"] >= 0.98, "the reader must read what the autoencoder made"
    assert (CARDS / f"{name}.md").read_text() == page(card, result)
    assert card["seen"], "somebody must look at the samples and say what is wrong with them"
    for picture in (f"{name}.gif", f"{name}-training.svg", f"{name}-failures.svg"):
        assert (CARDS / picture).is_file()


@pytest.mark.parametrize("name", MODELS)
def test_a_card_tells_the_figures_of_its_results(name):
    cells = by_name(json.loads((RESULTS / f"{name}.json").read_text()))
    lines = (CARDS / f"{name}.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith("| seen in training |")).split("|")
    assert float(row[3].strip(" %")) == pytest.approx(100 * cells["plain captions"]["seen"]["joint"], abs=0.051)
    row = next(line for line in lines if line.startswith("| middle |")).split("|")
    assert float(row[2]) == pytest.approx(cells["reconstruction/middle"]["psnr"], abs=0.0051)
