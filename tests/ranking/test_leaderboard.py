"""The leaderboard from made-up cards, and that saving keeps the rest of a card."""

import pytest
import yaml

from cmd_lightning.ranking.leaderboard import ranked, save, table
from cmd_lightning.ranking.protocol import Protocol
from cmd_lightning.zoo import Entry, discovery
from cmd_lightning.zoo.card import Card


def ranking(distances, key="k", **changes):
    reference = {
        "reconstruction": {"frechet": 0.4, "kernel": 0.0, "direction": 0.9765},
        "other clips": {"frechet": 1.5, "kernel": 0.0},
    }
    seeds = [{"seed": seed, "frechet": value, "direction": 0.5} for seed, value in enumerate(distances)]
    return {
        "key": key,
        "protocol": Protocol().record,
        "network": {"class_path": "zoo.Mine", "init_args": {}},
        "seeds": seeds,
        "reference": reference,
        "sampling": {"seconds": 0.25, "ratio": 1.5, "hardware": "a processor, one thread"},
        "parameters": 1_250_000,
        "macs": 40_000_000,
        "prepare_macs": 0,
    } | changes


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_least_distance_is_first_and_differences_are_judged_by_seeds():
    best = ranking([2.0, 3.0, 4.0])
    near = ranking([2.3, 2.9, 4.3])  # +0.3, -0.1, +0.3: 0.17 ± 0.57
    behind = ranking([2.9, 4.0, 5.1], prepare_macs=4_200_000)  # +0.9, +1.0, +1.1, though the spread is 2
    text = table({"Behind": behind, "Near": near, "Best": best}, marked="Near")
    rows = rows_of(text)
    assert [row[0] for row in rows] == ["Best", "**Near**", "Behind"]
    assert [row[2] for row in rows] == ["best", "+0.17 ± 0.57 (undecided)", "+1.00 ± 0.25"]
    assert [row[3] for row in rows] == ["", "+0.17 ± 0.57 (undecided)", "+0.83 ± 0.63"]
    assert rows[0][1] == "3.00 ± 2.48"
    assert rows[0][4:] == ["50.0 ± 0.0 %", "0.250", "1.50", "40.0", "1.25"]
    assert rows[2][7] == "40.0 (+ 4.2 once)"
    assert "reconstructions have 0.40" in text
    assert "Of the directions of reconstructions, 97.7% are classified correctly" in text
    assert "16,000 training samples" in text
    assert "far from converged" in text and "at one learning rate, 0.001." in text


def test_one_seed_is_undecided():
    rows = rows_of(table({"Best": ranking([2.0, 2.1, 2.2]), "Once": ranking([9.0])}))
    assert rows[1][1:3] == ["9.00", "+7.00 (undecided)"]


def test_rows_of_another_protocol_are_named_and_left_out():
    rankings = {"A": ranking([2.0, 2.1]), "B": ranking([3.0, 3.1]), "Old": ranking([1.0, 1.1], key="another")}
    text = table(rankings)
    assert [row[0] for row in rows_of(text)] == ["A", "B"]
    assert "not comparable: Old" in text
    [alone] = rows_of(table(rankings, marked="Old"))  # a new row is among its like
    assert alone[0] == "**Old**" and alone[2] == "the only one"


def test_nothing_ranked():
    assert "No motion model" in table({})


@pytest.fixture
def cards(tmp_path, monkeypatch):
    """A separate folder of cards."""
    monkeypatch.setattr(discovery, "CARDS", tmp_path)
    return tmp_path


def test_only_the_ranking_of_a_card_is_written(cards):
    before = "# hand-made\nname: A\nkind: motion\nranking:\n  key: old\n  seeds:\n  - {seed: 0}\nwhat: 'kept:  so'\n"
    (cards / "A.yaml").write_text(before)
    entry, new = Entry("A", "motion"), ranking([2.0, 2.5])
    text = save(new, entry).read_text()
    assert text.startswith("# hand-made\nname: A\nkind: motion\nranking:\n  key: k\n")
    assert text.endswith("\nwhat: 'kept:  so'\n")
    assert "  - {seed: 1, frechet: 2.5, direction: 0.5}\n" in text, "a seed is a line"
    assert yaml.safe_load(text)["ranking"] == new
    assert save(new, entry).read_text() == text
    assert Card.read(entry.card_path, "A", "motion").ranking == new


def test_a_model_without_card_gets_one(cards):
    entry = Entry("MotionDiT", "motion", about="A model: mine.")
    assert "MotionDiT" not in ranked()
    save(ranking([2.0]), entry)
    found = Card.read(cards / "MotionDiT.yaml", "MotionDiT", "motion")
    assert (found.what, found.config) == ("A model: mine.", "configs/motion/dit.yaml")
    assert ranked() == {"MotionDiT": ranking([2.0])}
