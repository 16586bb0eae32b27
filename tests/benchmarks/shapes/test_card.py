"""The cards of included models: each agrees with its record and results, for the included weights."""

import json
import re
from pathlib import Path

import pytest
import yaml

from benchmarks.cells import by_name
from benchmarks.shapes.card import page
from cmd_lightning.provenance import weights_sha256
from cmd_lightning.shapes.features import ShapesFeatures
from cmd_lightning.shapes.reader import ShapesReader

CARDS, WEIGHTS, RESULTS = Path("zoo/cards"), Path("zoo/weights"), Path("benchmarks/results")
MODELS = sorted(folder.name for folder in WEIGHTS.iterdir() if folder.is_dir())


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
    for file in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page(card, result)):
        assert (CARDS / file).is_file()


@pytest.mark.parametrize("name", MODELS)
def test_a_card_tells_the_figures_of_its_results(name):
    cells = by_name(json.loads((RESULTS / f"{name}.json").read_text()))
    lines = (CARDS / f"{name}.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith("| seen in training |")).split("|")
    assert float(row[3].strip(" %")) == pytest.approx(100 * cells["plain captions"]["seen"]["joint"], abs=0.051)
    row = next(line for line in lines if line.startswith("| middle |")).split("|")
    assert float(row[2]) == pytest.approx(cells["reconstruction/middle"]["psnr"], abs=0.0051)


def test_a_card_shows_content_frames_and_mixed_captions_where_they_were_measured():
    card = yaml.safe_load((CARDS / "shapes32paper.yaml").read_text())
    result = json.loads((RESULTS / "shapes32paper.json").read_text())
    before = page(card, result).splitlines()
    distances = {"shapes_frechet_distance": 1.234, "shapes_kernel_distance": 0.5678}
    videos = dict.fromkeys(("real", "reconstruction", "generated motion", "generated"), distances)
    measures = ("high_frequency", "local_correlation", "total_variation", "denoising_error")
    natural = {f"{name}{of}": value for of, value in (("", 0.25), ("_of_real_frames", 0.125)) for name in measures}
    result["settings"]["mixed_num"] = 1024
    result["rows"] += [{"cell": "mixed captions/extreme", **videos}, {"cell": "content frames", **natural}]
    added = [line for line in page(card, result).splitlines() if line not in before]
    assert "| extreme |" + " 1.23, 0.568 |" * 4 in added
    assert "| content frames |" + " 0.250 |" * 4 in added and "| real frames |" + " 0.125 |" * 4 in added
    assert any(line.startswith("Distances of 1024 videos") for line in added)
    assert not any(line.startswith("| middle | 1.23") for line in added)
