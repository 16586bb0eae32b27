"""The leaderboard from made-up cards, and cards that keep what else they hold."""

import re

import yaml

from cmd_lightning.ranking.leaderboard import save, table
from cmd_lightning.ranking.protocol import Protocol
from cmd_lightning.zoo.card import Card


def card(name, distances, key="k", **changes):
    reference = {
        "reconstruction": {"frechet": 0.4, "kernel": 0.0, "direction": 0.9765},
        "other clips": {"frechet": 1.5, "kernel": 0.0},
    }
    seeds = [{"seed": seed, "frechet": value, "direction": 0.5} for seed, value in enumerate(distances)]
    ranking = {
        "key": key,
        "protocol": Protocol().record,
        "network": {"class_path": f"zoo.{name}", "init_args": {}},
        "seeds": seeds,
        "reference": reference,
        "sampling": {"seconds": 0.25, "ratio": 1.5, "hardware": "a processor, one thread"},
        "parameters": 1_250_000,
        "macs": 40_000_000,
        "prepare_macs": 0,
    }
    return {"name": name, "kind": "motion", "what": "made up", "ranking": ranking | changes}


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_least_distance_is_first_and_differences_are_told_by_what_seeds_say():
    best = card("Best", [2.0, 3.0, 4.0])
    near = card("Near", [2.3, 2.9, 4.3])  # +0.3, -0.1, +0.3: 0.17 ± 0.57
    behind = card("Behind", [2.9, 4.0, 5.1], prepare_macs=4_200_000)  # +0.9, +1.0, +1.1, though the spread is 2
    text = table([behind, {"name": "Unranked", "kind": "motion", "what": "no"}, near, best], marked="Near")
    rows = rows_of(text)
    assert [row[0] for row in rows] == ["Best", "**Near**", "Behind"]
    assert [row[2] for row in rows] == ["best", "+0.17 (undecided)", "+1.00"]
    assert rows[0][1] == "3.00 ± 2.48"
    assert rows[0][3:] == ["50.0%", "0.250", "1.50", "40.0", "1.25"]
    assert rows[2][6] == "40.0 (+ 4.2 once)"
    assert "reconstructions have 0.40" in text
    assert "16,000 training samples" in text


def test_one_seed_is_undecided():
    rows = rows_of(table([card("Best", [2.0, 2.1, 2.2]), card("Once", [9.0])]))
    assert rows[1][1:3] == ["9.00", "+7.00 (undecided)"]


def test_rows_of_another_protocol_are_named_and_left_out():
    cards = [card("A", [2.0, 2.1]), card("B", [3.0, 3.1]), card("Old", [1.0, 1.1], key="another")]
    text = table(cards)
    assert [row[0] for row in rows_of(text)] == ["A", "B"]
    assert "not comparable: Old" in text
    assert [row[0] for row in rows_of(table(cards, marked="Old"))] == ["**Old**"]  # a new row is among its like


def test_nothing_ranked():
    assert "No motion model" in table([{"name": "A", "kind": "motion", "what": "no"}])


def test_only_the_ranking_of_a_card_is_written(tmp_path):
    before = "# hand-made\nname: A\nkind: motion\nranking:\n  key: old\n  seeds:\n  - {seed: 0}\nwhat: 'kept:  so'\n"
    (tmp_path / "A.yaml").write_text(before)
    path = save(card("A", [2.0])["ranking"], "A", "another sentence", tmp_path)
    text = path.read_text()
    assert text.startswith("# hand-made\nname: A\nkind: motion\nwhat: 'kept:  so'\nranking:\n")
    assert yaml.safe_load(text)["ranking"] == card("A", [2.0])["ranking"]
    assert "old" not in text
    again = save(card("A", [2.0])["ranking"], "A", "", tmp_path).read_text()
    assert again == text
    assert Card.read(path, "A", "motion").ranking["key"] == "k"


def test_a_model_without_card_gets_one(tmp_path):
    path = save(card("Mine", [2.0])["ranking"], "Mine", "A model of mine.", tmp_path)
    found = Card.read(path, "Mine", "motion")
    assert (found.what, found.ranking["seeds"][0]["frechet"]) == ("A model of mine.", 2.0)
    assert re.search(r"^ranking:", path.read_text(), re.MULTILINE)
