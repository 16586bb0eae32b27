from collections import Counter

import pytest

from benchmarks.reported import figures, reported
from cmd_lightning.errors import InputError


def of(system, quantity, table=9, **at):
    return reported(system, quantity, table=table, **at).value


def test_tables_are_whole():
    """Numbers of figures as counted in the paper; no figure is there twice."""
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
    ("wanted", "message"),
    [
        ({"system": "LVMD", "quantity": "seconds", "table": 9}, "table 9 has 0 figures of LVMD, seconds"),
        ({"system": "LVDM", "quantity": "seconds", "table": 9}, "has 2 figures of LVDM, seconds; .*'steps': 50"),
        ({"system": "CMD", "quantity": "seconds", "table": 9, "steps": 70}, "steps=70; .*'steps': 100"),
    ],
)
def test_what_is_not_one_figure_is_reported(wanted, message):
    with pytest.raises(InputError, match=message):
        reported(**wanted)
