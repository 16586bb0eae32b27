"""Equal compute: the trainings of each system, the queue at toy size, and the verdicts."""

import time
from dataclasses import replace

import pytest

from benchmarks.quality import __main__ as quality
from benchmarks.quality import measure, tables
from benchmarks.quality import systems as kinds
from benchmarks.quality.ablations import ABLATIONS, CLAIMS, STAGES, motion
from benchmarks.quality.budgets import Budget
from benchmarks.quality.cells import Lab, best_size, main_cells, probe_cells, rates, table_4_cells
from benchmarks.quality.costs import BACKWARD, CACHED, Calls, affordable, calls, steps_of
from benchmarks.quality.measure import GUIDED, Yardstick
from benchmarks.quality.settings import Settings, of_entry
from benchmarks.quality.systems import COMMON, SIZES, SYSTEMS, Part, configs, dit, motion_dit, network
from benchmarks.trainings import TimeIsUp, Trained, Trainings
from cmd_lightning import cli
from cmd_lightning.errors import InputError
from cmd_lightning.ranking.estimates import Estimate

TOY = {
    "cmd": kinds.grid(8, 8),
    "cmd-paper": kinds.paper(dit("ContentDiT", (16, 1, 2), patch_size=8), motion_dit((16, 1, 2))),
    "pvdm": kinds.planes(8, [1, 1]),
    "latte": kinds.latte(1, 1),
    "lvdm": kinds.pixels("LVDM", width=8, multipliers=[1], layers=1, heads=1),
    "modelscope": kinds.modelscope([8, 8, 8]),
}
PLAN = Budget("samples", 8)
SETTINGS = Settings(num=2, steps=(1,), main_steps=1, probe=PLAN, budgets={"toy": PLAN}, batch=2)


def in_process(words, output):
    """`cmd-lightning` without the seconds that a process takes to begin."""
    return cli.main(words)


@pytest.fixture(scope="module")
def yardstick():
    return Yardstick(SETTINGS.num)


@pytest.fixture
def lab(tmp_path, yardstick):
    """The queue with small networks, one size of each, and two rows of table 4."""
    toy = {name: replace(SYSTEMS[name], sizes=dict.fromkeys(SIZES, parts)) for name, parts in TOY.items()}
    autoencoder, part = motion(4).parts  # which the paper's design shares
    patched = replace(motion(4), parts=(autoencoder, replace(part, network=motion_dit((16, 1, 2), 4))))
    ablations = {"24 frames": ABLATIONS["24 frames"], "content patch 4": patched}
    settings = replace(SETTINGS, ablation={"autoencoder": 2, "motion": 2})
    trainings = Trainings(time.monotonic() + 1000, in_process)
    return Lab(settings, tmp_path / "trainings", trainings, yardstick, toy, ablations)


def batches(names, *rows):
    """Probes, then a seed of each system, then rows of table 4."""
    found = [probe_cells(name) for name in names] + [main_cells(name, "toy", [0]) for name in names]
    return found + [table_4_cells([row], [0]) for row in rows]


def digits(result):
    """The rows of a result without what a clock measured."""
    kept = []
    for row in result["rows"]:
        training = {stage: spent | {"seconds": 0} for stage, spent in row["training"].items()}
        kept.append({key: value for key, value in row.items() if key != "sampling seconds"} | {"training": training})
    return kept


@pytest.mark.slow
def test_the_whole_queue_at_toy_size(lab, tmp_path):
    path, found = tmp_path / "quality.json", batches(SYSTEMS, *lab.ablations)
    result = quality.run(lab, found, path)
    text = quality.report(result, lab.settings, path)
    assert len(result["rows"]) == 4 * len(SYSTEMS) + 2
    assert len([*lab.root.iterdir()]) == 3 + 3 + 2 + 3 + 1  # no stage is trained twice
    assert path.with_suffix(".png").stat().st_size > 20_000
    assert all(system.name in text for system in SYSTEMS.values())
    assert text.count(tables.NO_FVD) == len(SYSTEMS)
    for row in result["rows"]:
        assert all(spent["steps"] and spent["macs"] and spent["seconds"] for spent in row["training"].values())
        assert row["mixed"]["shapes"]["frechet"] > 0
    assert digits(quality.run(lab, found, path)) == digits(result)  # nothing is left to do


@pytest.mark.slow
def test_a_resumed_queue_gives_the_same_digits(lab, tmp_path):
    found, path = batches(["pvdm"]), tmp_path / "resumed.json"
    whole = quality.run(lab, found, tmp_path / "once.json")
    calls_of_fit = []

    def fit(words, output):
        calls_of_fit.append(words)
        trainings.deadline = time.monotonic()  # the time is up after each stage
        return cli.main(words)

    trainings = Trainings(time.monotonic() + 1000, fit)
    again = replace(lab, root=tmp_path / "again", trainings=trainings)
    with pytest.raises(TimeIsUp):
        quality.run(again, found, path)
    assert not path.exists() and len(calls_of_fit) == 1
    trainings.deadline = time.monotonic() + 1000
    assert digits(quality.run(again, found, path)) == digits(whole)
    assert len(calls_of_fit) == 2


@pytest.mark.slow
@pytest.mark.parametrize("entry", SYSTEMS)
def test_all_sizes_build_and_larger_ones_cost_more(entry):
    made = [calls(parts) for parts in SYSTEMS[entry].sizes.values()]
    costs = [sum(one.networks.values()) for one in made]
    assert costs == sorted(costs) and len(set(costs)) == len(SIZES)
    assert all(one.parameters < 25e6 for one in made)


def test_all_diffusion_models_have_the_same_clips_condition_objective_and_optimiser():
    common = kinds.read(COMMON)["model"]["init_args"]
    for system in SYSTEMS.values():
        for parts in system.sizes.values():
            assert sum(part.share for part in parts) == pytest.approx(1)
            for part in parts:
                made = part.config()
                assert made["data"]["init_args"].items() >= kinds.DATA.items()
                assert made["trainer"]["limit_val_batches"] == 0
                if part.stage != "autoencoder":
                    for name in ("condition", "objective", "optimizer", "condition_dropout"):
                        assert made["model"]["init_args"][name] == common[name]


def test_equal_stages_share_a_folder_and_others_do_not(tmp_path):
    steps = {"autoencoder": 5, "motion": 7}

    def folders(row, seed=0, steps=steps):
        made = configs(ABLATIONS[row].parts, steps, seed, tmp_path)
        return [config["trainer"]["default_root_dir"] for config in made.values()]

    four, eight = folders("content patch 4"), folders("content patch 8")
    assert four[0] == eight[0] and four[1] != eight[1]
    assert folders("16 motion channels") != folders("mean frame")
    assert not set(four) & set(folders("content patch 4", seed=1))
    longer = folders("content patch 4", steps=steps | {"autoencoder": 6})
    assert not set(four) & set(longer)  # another autoencoder, so another motion model
    made = configs(ABLATIONS["content patch 4"].parts, steps, 0, tmp_path)
    assert made["motion"]["model"]["init_args"]["autoencoder"] == f"{four[0]}/last.ckpt"


TWO = (Part("autoencoder", "", network("A"), 0.25, 4), Part("motion", "", network("M"), 0.75, 16))


def test_budgets_are_split_by_shares(monkeypatch):
    assert steps_of(TWO, Budget("samples", 3200)) == {"autoencoder": 200, "motion": 150}
    assert steps_of(TWO, Budget("seconds", 1000), {"autoencoder": 0.5, "motion": 2.0}) == {
        "autoencoder": 500,
        "motion": 375,
    }
    assert steps_of(TWO, Budget("samples", 1)) == {"autoencoder": 1, "motion": 1}
    made = Calls({"autoencoder": 10, "motion": 20}, {"motion": 40}, decode=5, parameters=0)
    monkeypatch.setattr("benchmarks.quality.costs.calls", lambda parts: made)
    found = steps_of(TWO, Budget("macs", 1_000_000))
    assert found == {"autoencoder": 250_000 // 30 // 4, "motion": 750_000 // (60 + 40) // 16}


@pytest.mark.parametrize("clips", [100, CACHED, 3 * CACHED])
def test_multiply_adds_of_training_are_those_that_a_budget_pays_for(clips):
    made = Calls({"autoencoder": 10, "motion": 20}, {"motion": 40}, decode=5, parameters=0)
    spent = made.training("motion", clips)
    assert spent == clips * 20 * (1 + BACKWARD) + min(clips, CACHED) * 40
    assert affordable(made, "motion", spent) == pytest.approx(clips)
    assert made.training("autoencoder", clips) == clips * 30


def test_a_guided_stage_takes_two_passes():
    made = Calls({"autoencoder": 1000, "content": 3, "motion": 20}, {}, decode=5, parameters=0)
    assert GUIDED == {"content": True, "motion": False, "video": True}
    assert made.sampling(7, GUIDED) == 7 * (2 * 3 + 20) + 5


def probed(size, frechet, **spent):
    training = {stage: {"steps": steps, "seconds": seconds} for stage, (steps, seconds) in spent.items()}
    mixed = {"shapes": {"frechet": frechet}}
    return {"entry": "lvdm", "budget": "probe", "size": size, "seed": 0, "mixed": mixed, "training": training}


def test_the_best_size_of_the_probe_continues():
    rows = [
        probed("small", 9.0, video=(10, 5)),
        probed("middle", 7.0, video=(4, 6)),
        probed("large", 8.0, video=(1, 9)),
    ]
    assert best_size(rows, "lvdm") == "middle"
    assert rates(rows, "lvdm") == {"video": 1.5}
    with pytest.raises(InputError, match="--only lvdm: its probe is not measured yet"):
        best_size(rows[:2], "lvdm")


def test_a_probe_of_seconds_ends_by_the_clock(tmp_path):
    lab = Lab(Settings(), tmp_path, Trainings(0), None)
    made = lab.configs(probe_cells("pvdm")[0], [])
    limits = {stage: config["trainer"]["callbacks"][0]["init_args"]["limit"] for stage, config in made.items()}
    assert limits == {"autoencoder": 150, "video": 450}
    rows = [probed(size, 1.0, video=(100, 50)) for size in SIZES]
    made = lab.configs(main_cells("lvdm", "one core-hour", [2])[0], rows)
    assert made["video"]["trainer"]["max_steps"] == 7200
    assert made["video"]["seed_everything"] == 2


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ((5, 1), (8, 1), "better"),
        ((5, 1), (7, 1), "undecided"),
        ((8, 1), (5, 1), "worse"),
        ((5, 1), (50, float("inf")), "undecided"),
    ],
)
def test_overlapping_intervals_are_undecided(own, other, expected):
    assert tables.against(Estimate(*own), Estimate(*other)) == expected


def main_row(entry, seed, frechet, **spaces):
    distances = {"shapes": {"frechet": frechet, "kernel": frechet / 100}} | spaces
    return {
        **{"entry": entry, "budget": "one core-hour", "seed": seed, "size": "small", "sampling steps": 16},
        **{"mixed": distances, "plain": distances, "accuracy": 0.5, "parameters": 2e6, "sampling macs": 3e9},
        "training": {"video": {"seconds": 3600, "macs": 1e12, "samples": 100}},
    }


def test_the_table_has_intervals_verdicts_and_a_column_for_fvd():
    rows = [main_row("cmd", seed, 5 + 0.1 * seed) for seed in range(3)]
    rows += [main_row("lvdm", seed, 9 + 0.1 * seed) for seed in range(3)] + [main_row("latte", 0, 6)]
    lines = [line.split(" | ") for line in tables.systems(rows, "one core-hour", Settings()).splitlines()[2:]]
    assert [line[0] for line in lines] == [
        "| CMD, first frame and grid, small",
        "| Latte-like, small",
        "| LVDM-like, small",
    ]
    assert lines[0][7] == "5.1 ± 0.2"  # 4.3027 * 0.1 / sqrt(3)
    assert [line[-1].rstrip(" |") for line in lines] == ["", "undecided", "better"]
    assert all(line[11] == tables.NO_FVD for line in lines)
    rows = [main_row("cmd", seed, 5, i3d={"frechet": 300.0, "kernel": 1.0}) for seed in range(3)]
    assert " | 300.0 ± 0.0 | " in tables.systems(rows, "one core-hour", Settings())


def test_verdicts_on_table_4_are_of_pairs():
    def rows(name, values):
        return [
            {"entry": "table 4", "row": name, "seed": seed, "mixed": {"shapes": {"frechet": value}}}
            for seed, value in enumerate(values)
        ]

    found = rows(CLAIMS[0].better, [1, 5, 9]) + rows(CLAIMS[0].worse, [2, 6.1, 10])
    found += rows("mean frame", [1.5, 8, 9]) + rows("24 frames", [1, 5, 9])
    stages = {"reconstruction": {"shapes": {"frechet": 3.0}}, "motion prediction": {"shapes": {"frechet": 2.0}}}
    found += [main_row("cmd-paper", seed, 9.0 + seed) | stages for seed in range(3)]
    lines = [line.split(" | ") for line in tables.table_4(found, Settings()).splitlines()[2:]]
    verdicts = {line[0].strip("| ") + " < " + line[1]: line[4] for line in lines}
    assert len(verdicts) == len(STAGES) + len(CLAIMS)
    assert verdicts["16 motion channels < 8 motion channels, weighted sum, 16 frames"] == "confirmed"
    assert verdicts["8 motion channels, weighted sum, 16 frames < mean frame"] == "undecided"
    assert verdicts["8 motion channels, weighted sum, 16 frames < 24 frames"] == "contradicted"
    assert verdicts["reconstruction < motion prediction"] == "contradicted"
    assert verdicts["motion prediction < generation"] == "confirmed"
    assert verdicts["content patch 4 < content patch 8"] == ""


def test_fvd_is_measured_where_the_weights_are(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "i3d_file", lambda: None)
    assert measure.feature_spaces(["pkg.Net"]) == ("shapes", "pkg.Net")
    monkeypatch.setattr(measure, "i3d_file", lambda: tmp_path)
    assert measure.feature_spaces() == ("shapes", "i3d")


def test_checkpoints_of_a_cell_are_trained_in_order(tmp_path):
    seen = []

    class Recorder(Trainings):
        def finished(self, config):
            seen.append(config["model"]["class_path"])
            return Trained(tmp_path)

    lab = Lab(Settings(), tmp_path, Recorder(0), None)
    lab.train(probe_cells("cmd")[0], [])
    assert seen == ["VideoAutoencoder", "ContentDiffusion", "MotionDiffusion"]
    assert of_entry([{"entry": "a", "x": 1}, {"entry": "a"}], "a", x=1) == [{"entry": "a", "x": 1}]
