"""Verdicts of the claims ledger, from made-up evidence."""

import json
import re
from types import SimpleNamespace

import pytest

from benchmarks import ledger
from benchmarks.ledger import Claim, arithmetic, claims, value, verdict
from benchmarks.reported import figures
from cmd_lightning.errors import InputError

CLAIMS = {claim.claim: claim for claim in claims()}
FASTER = CLAIMS["7.7 times faster than earlier models"]
FEWER = CLAIMS["16.7 times fewer FLOPs"]
CHEAPER = CLAIMS["12 times less computation in training"]
MEMORY = CLAIMS["66 % of the memory"]
TABLES = CLAIMS["Tables 8 and 9, computation of CMD, LVDM and ModelScope"]
VIDEO = {"component": "video", "resolution": "512x1024", "steps": 50, "batch": 1, "guidance": False, "decoder": "none"}


@pytest.fixture
def results(tmp_path):
    """Writes rows as a file of results; gives the folder."""

    def write(name, *rows, scale="paper"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows, "settings": {"scale": scale}}))
        return tmp_path

    return write


def video(system, **values):
    return VIDEO | {"system": system} | values


def test_without_evidence_a_claim_needs_it(tmp_path):
    for claim in CLAIMS.values():
        assert claim.needs and claim.command
        if not (claim.tests or claim.ranked):
            assert verdict(claim, tmp_path) == f"needs {claim.needs}"


def test_every_figure_of_the_paper_is_one_that_it_reports():
    """For Fréchet distances and the like, which are in words; ratios are computed."""
    known = {f"{figure.value:g}" for figure in figures()} | {f"{figure.value:.4f}" for figure in figures()}
    known |= {f"{value(claim):.1f}" for claim in CLAIMS.values() if claim.ratio} | {"27.3", "4.3"}
    for claim in CLAIMS.values():
        if not claim.ours:
            text = claim.claim + claim.defined
            for number in re.findall(r"\d+\.\d+", text.replace("Diffusion 1.5", "").replace("Diffusion 2.1", "")):
                assert number in known, (claim.claim, number)


def test_arithmetic_is_spelled_out():
    assert arithmetic(FASTER) == "24.2 / 3.13 = 7.73"
    assert arithmetic(FEWER) == "mean(939, 625.6) / 46.8 = 16.7"
    assert arithmetic(MEMORY) == "5.56 / mean(8.5, 8.38) = 65.9 %"
    assert arithmetic(CLAIMS["WebVid-10M, FVD 238.3, 18.5 % below the previous best (Table 3)"]).endswith("= 18.5 %")


def test_a_ratio_that_the_tables_do_not_give_is_reported(monkeypatch):
    records = [FASTER.__dict__ | {"printed": 8.7}]
    monkeypatch.setattr(ledger.yaml, "safe_load", lambda _: records)
    with pytest.raises(InputError, match=r"the tables give 7\.73.*, not 8\.7"):
        claims()


def test_counts(results):
    rows = [video("CMD", tmacs_paper=46.5), video("LVDM", tmacs_paper=622.5), video("ModelScope", tmacs_paper=937.5)]
    assert verdict(FEWER, results("efficiency_counts", *rows)) == "**count reproduced**: 16.77"
    assert verdict(FEWER, results("efficiency_counts", *rows[:2])) == "needs a count"
    assert verdict(TABLES, results("efficiency_counts", *rows)) == "**count reproduced**, 3 of 3 figures"
    rows[1]["tmacs_paper"] = 700.0
    assert verdict(FEWER, results("efficiency_counts", *rows)) == "**count contradicted**: 17.61"
    rows.append(video("LVDM", tmacs_paper=625.6, guidance=True))  # which the paper's counts have not
    message = "**count reproduced**, 2 of 3 figures; **differs**: LVDM 700, reported 625.6"
    assert verdict(TABLES, results("efficiency_counts", *rows)) == message


def test_counts_of_a_training_step(results):
    step = {"resolution": "512x512"}
    rows = [
        step | {"system": "ModelScope", "component": "denoiser", "tmacs_paper": 9.39},
        step | {"system": "CMD", "component": "autoencoder", "tmacs_paper": 0.773},
    ]
    assert verdict(CHEAPER, results("efficiency_counts", *rows)).startswith("**count reproduced**: 12.15")


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (9.0, "**measured on a GPU**: 9"),
        (7.69, "**measured on a GPU**: 7.69"),  # which is 7.7
        (7.5, "**measured on a GPU**: 7.5, below"),
        (7.3, "**contradicted on a GPU**: 7.3"),
    ],
)
def test_times(results, seconds, message):
    of = {"device": "GPU", "compiled": True}
    rows = [video("CMD", seconds=1.0, **of), video("LVDM", seconds=seconds, **of)]
    rows.append(video("LVDM", seconds=0.1, device="another", compiled=True))  # devices are not mixed
    assert verdict(FASTER, results("efficiency_gpu", *rows)) == message
    rows = [row | {"resolution": "512x512"} for row in rows]  # of which the claim says nothing
    assert verdict(FASTER, results("efficiency_gpu", *rows)) == "needs an NVIDIA GPU"


def test_small_networks_decide_nothing(results):
    of = {"device": "Intel CPU, one thread", "compiled": False}
    rows = [video("CMD", seconds=1.0, **of), video("LVDM", seconds=2.5, **of)]
    folder = results("efficiency_fifth_cpu", *rows, scale="fifth")
    assert verdict(FASTER, folder) == "**small networks on an Intel CPU, one thread**: 2.5; needs an NVIDIA GPU"
    rows[0]["extrapolated"] = True
    folder = results("efficiency_fifth_cpu", *rows, scale="fifth")
    assert verdict(FASTER, folder) == "**small networks on an Intel CPU, one thread**: ≈ 2.5; needs an NVIDIA GPU"
    seconds = next(claim for claim in CLAIMS.values() if claim.unit == "s")
    assert verdict(seconds, folder) == "needs an NVIDIA GPU"
    # Those of free sizes are no evidence, at whatever resolution.
    assert verdict(FASTER, results("efficiency_fifth_cpu", *rows, scale="shapes32")) == "needs an NVIDIA GPU"


def test_less_memory_is_better(results):
    of = {"device": "NVIDIA GPU", "compiled": False}
    rows = [video(name, memory_gb=gb, **of) for name, gb in (("CMD", 4.0), ("LVDM", 8.0), ("ModelScope", 8.0))]
    assert verdict(MEMORY, results("efficiency_gpu", *rows)) == "**measured on an NVIDIA GPU**: 50 %"
    rows[0]["memory_gb"] = 5.4
    assert verdict(MEMORY, results("efficiency_gpu", *rows)) == "**measured on an NVIDIA GPU**: 67.5 %, above"
    rows[0]["memory_gb"] = 7.0
    assert verdict(MEMORY, results("efficiency_gpu", *rows)) == "**contradicted on an NVIDIA GPU**: 87.5 %"


def test_order(results, tmp_path):
    claim = next(claim for claim in CLAIMS.values() if claim.order)
    for name, values in (("shapes32paper_mixed", (1.0, 3.0, 9.0)), ("shapes32", (1.0, 5.0, 6.0))):
        cell = {key: {"shapes_frechet_distance": number} for key, number in zip(claim.order, values, strict=True)}
        other = {key: {"shapes_frechet_distance": 0.0} for key in claim.order}
        results(name, {"cell": "generation/a", **other}, {"cell": "mixed captions/middle", **cell})
    paper, first_frame = verdict(claim, tmp_path).split("; ")
    assert paper == "**yes on shapes32paper**: 1.00, 3.00, 9.00"
    assert first_frame == "**no on shapes32 (content frame: the first frame)**: 1.00, 5.00, 6.00"


@pytest.mark.parametrize(
    ("hits", "distance", "message"),
    [
        ("10" * 4, 1.25, "**undecided on shapes32paper**: accuracy +0.000 ± 0.000, kernel distance +0.000 ± "),
        ("10" * 4, 1.0, "**measured on shapes32paper**: accuracy +0.000 ± 0.000, kernel distance -0.250 ± "),
        ("10" * 4, 2.0, "**contradicted on shapes32paper**: accuracy +0.000 ± 0.000, kernel distance +0.750 ± "),
        ("00" * 4, 1.0, "**contradicted on shapes32paper**: accuracy -0.500 ± 0.000, kernel distance -0.250 ± "),
    ],
)
def test_samples(results, hits, distance, message):
    claim = next(claim for claim in CLAIMS.values() if claim.sampled)

    def row(setting, **values):
        solver, steps = setting.split("/")
        return {"split": "test", "solver": solver, "steps": int(steps), **values}

    few, many = claim.sampled
    rows = [
        row(few, hits=hits, kernel_distance_parts=[distance, distance, distance, distance + 0.1]),
        row(many, hits="10" * 4, kernel_distance_parts=[1.2, 1.3, 1.3, 1.3]),
    ]
    assert verdict(claim, results("sampling", *rows)).startswith(message)
    assert verdict(claim, results("sampling", rows[0])) == "needs samples"


@pytest.mark.parametrize(
    ("other", "word"),
    [((5.0, 5.1, 5.2), "measured"), ((2.1, 3.9, 3.0), "undecided"), ((1.0, 1.1, 1.2), "contradicted")],
)
def test_ranking(monkeypatch, tmp_path, other, word):
    def entry(name):
        values = other if name == "Other" else (3.0, 3.1, 3.1)
        seeds = [{"seed": seed, "frechet": value} for seed, value in enumerate(values)]
        return SimpleNamespace(card=SimpleNamespace(ranking={"seeds": seeds}))

    monkeypatch.setattr(ledger.zoo, "entry", entry)
    message = verdict(Claim("c", "d", "e", ranked=("One", "Other"), needs="a ranking"), tmp_path)
    assert message.startswith(f"**{word} on shapes32paper**: 3.07 against ")


def test_tests_that_hold_a_claim_are_there(tmp_path):
    held = [claim for claim in CLAIMS.values() if claim.tests]
    assert held
    for claim in held:
        assert verdict(claim, tmp_path).startswith("**tested** in test_")
    assert verdict(Claim("c", "d", "e", tests=("tests/none.py",), needs="a test"), tmp_path) == "needs a test"


def test_systems_at_equal_compute_are_compared_by_intervals(results):
    claim = Claim(**ledger.evidence({"beats": "one core-hour"}), claim="", defined="", beats="one core-hour")

    def rows(entry, *distances):
        about = {"entry": entry, "budget": "one core-hour", "sampling steps": 16}
        return [about | {"seed": seed, "mixed": {"shapes": {"frechet": value}}} for seed, value in enumerate(distances)]

    own = rows("cmd", 5.0, 5.1, 5.2)
    assert verdict(claim, results("quality")) == "needs the trainings"
    assert verdict(claim, results("quality", *own)) == "needs the trainings"
    clear, near = rows("lvdm", 9.0, 9.1, 9.2), rows("latte", 5.2, 5.3, 5.4)
    found = verdict(claim, results("quality", *own, *clear))
    assert found == "**measured on the procedural world**: 5.1 ± 0.2 against LVDM-like 9.1 ± 0.2, better"
    assert verdict(claim, results("quality", *own, *clear, *near)).startswith("**undecided on")
    assert verdict(claim, results("quality", *own, *rows("lvdm", 1.0, 1.1, 1.2))).startswith("**contradicted on")


def test_rows_of_table_4_at_small_scale_leave_the_claim_open(results):
    claim = next(claim for claim in CLAIMS.values() if "mean frame" in claim.ablated)
    made = [
        {"entry": "table 4", "row": row, "seed": seed, "mixed": {"shapes": {"frechet": value + seed}}}
        for row, value in (("16 motion channels", 1.0), ("8 motion channels, weighted sum, 16 frames", 2.0))
        for seed in range(3)
    ]
    found = verdict(claim, results("quality", *made))
    assert "16 motion channels confirmed, Fréchet distance on shapes features 2.00 against 3.00" in found
    assert found.startswith("**small networks on the procedural world**") and found.endswith(f"needs {claim.needs}")
