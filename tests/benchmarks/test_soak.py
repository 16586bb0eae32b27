"""The soak run, made short: its roles, and when memory counts as level."""

import json
import sys

import pytest

from benchmarks import soak


def series(sizes):
    return soak.Series(list(range(len(sizes))), sizes, sizes)


def test_level_is_within_five_percent_after_the_first_fifth():
    level = [300] * 20 + [1000, 1040] * 40
    verdict = soak.judge(series(level), 100)
    assert verdict["level"] and verdict["distance"] == 0 and len(verdict["tenths"]) == 10
    growing = soak.judge(series([1000 + when for when in range(100)]), 100)  # a tenth has 8 readings
    assert growing["distance"] == pytest.approx(1095.5 / 1023.5 - 1)
    assert not growing["level"]
    assert soak.judge(series([1000 + when / 2 for when in range(100)]), 100)["level"]
    assert not soak.judge(series([1000] * 15), 100)["level"], "nothing was read in most tenths"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_short_run_tells_each_role_and_trains_on_in_spite_of_bad_samples(tmp_path):
    settings = soak.Settings(minutes=0.2, every=0.1, clips=28, source=16, size=16, frames=4, validate_every=1)
    record = soak.run(settings)
    assert list(record["roles"]) == ["main", "worker 0", "worker 1"]
    assert record["samples"] == {"good": 28, "bad": 3}
    assert record["done"]["epochs"] >= 2, "workers were not started again"
    main = record["roles"]["main"]["series"]
    assert len(main["resident"]) > 10 and 0 < main["seconds"][-1] <= record["done"]["seconds"] + 1
    assert all(100 << 20 < share < size for share, size in zip(main["share"], main["resident"], strict=True))
    soak.plot(json.loads(json.dumps(record)), tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 1000
