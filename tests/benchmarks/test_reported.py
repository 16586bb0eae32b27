from collections import Counter
from statistics import mean

import pytest

from benchmarks.reported import figures, reported
from cmd_lightning.errors import InputError


def of(system, quantity, table=9, **at):
    return reported(system, quantity, table=table, **at).value


def test_headlines_come_out_of_the_tables_to_the_printed_digits():
    """The definitions that fit the paper's headlines, worked out by hand from the printed tables."""
    seconds = {name: of(name, "seconds", steps=50) for name in ("CMD", "LVDM", "ModelScope")}
    assert round(seconds["LVDM"] / seconds["CMD"], 2) == 7.73
    assert round(seconds["ModelScope"] / seconds["CMD"], 1) == 11.2
    macs = {name: of(name, "tmacs_paper", steps=50) for name in seconds}
    assert round(mean([macs["LVDM"], macs["ModelScope"]]) / macs["CMD"], 2) == 16.72
    memory = {name: of(name, "memory_gb", batch=1) for name in seconds}
    assert round(100 * memory["CMD"] / mean([memory["LVDM"], memory["ModelScope"]]), 1) == 65.9
    training = of("ModelScope", "tmacs_paper", 8) / of("CMD", "tmacs_paper", 8, component="autoencoder")
    assert round(training, 1) == 12.2
    assert round(of("ModelScope", "memory_gb", batch=4) / of("CMD", "memory_gb", batch=4), 2) == 2.49
    tables, abstract = of("CMD", "fvd", 3), of("CMD", "fvd", "abstract")
    assert [round(100 * (1 - fvd / of("VideoFactory", "fvd", 3)), 1) for fvd in (tables, abstract)] == [18.5, 27.3]


def test_tables_are_whole():
    """Numbers of figures as counted in the paper; no figure stands there twice."""
    counted = Counter(figure.table for figure in figures())
    assert counted == {
        **{"1": 16, "2": 9, "3": 8, "4a": 3, "4b": 4, "4c": 3, "8": 15, "9": 18, "10": 7, "11": 8},
        **{"text": 4, "abstract": 1},
    }
    places = [(f.table, f.system, f.quantity, tuple(sorted(f.at.items()))) for f in figures()]
    assert len(places) == len(set(places))
    assert all(figure.protocol and figure.value > 0 for figure in figures())
    assert "no table" in reported("CMD", "fvd", table="abstract").remark


def test_figures_that_agree():
    """What the paper prints twice."""
    assert of("CMD", "fvd", 11, guidance=9.0) == of("CMD", "fvd", 3) == 238.3
    assert of("CMD", "fvd", "4a", stage="motion prediction") == of("CMD", "fvd", "4c", content_patch=4)
    assert round(of("CMD", "tmacs_paper", "text"), 1) == of("CMD", "tmacs_paper", 9, steps=50)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"system": "LVMD", "quantity": "seconds", "table": 9}, "table 9 has 0 figures of LVMD, seconds"),
        ({"system": "LVDM", "quantity": "seconds", "table": 9}, "has 2 figures of LVDM, seconds; .*'steps': 50"),
        ({"system": "CMD", "quantity": "seconds", "table": 9, "steps": 70}, "steps=70; .*'steps': 100"),
    ],
)
def test_what_is_not_one_figure_is_told(wanted, told):
    with pytest.raises(InputError, match=told):
        reported(**wanted)
