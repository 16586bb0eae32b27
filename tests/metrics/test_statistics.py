import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from two_processes import run_two

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.frechet import FrechetVideoDistance
from cmd_lightning.metrics.kernel import KernelVideoDistance
from cmd_lightning.metrics.statistics import describe_statistics, load_statistics, save_statistics

READING = {"frames": 4, "stride": 1}


class Means(nn.Module):
    num_features, name = 12, "means"

    def __init__(self, sha256="aa", weights="means.pt"):
        super().__init__()
        self.origin = {"weights": weights, "sha256": sha256, "protocol": {"resize": "none"}}

    def forward(self, video):
        return nn.functional.adaptive_avg_pool3d(video, (1, 2, 2)).flatten(1)


def clips(count, seed=0):
    return torch.rand(count, 3, 4, 6, 4, generator=torch.Generator().manual_seed(seed))


def metrics(**changes):
    return {"fvd": FrechetVideoDistance(Means(**changes)), "kvd": KernelVideoDistance(Means(**changes))}


@pytest.fixture
def saved(tmp_path):
    both = metrics()
    for metric in both.values():
        metric.update(clips(30), real=True)
    save_statistics(tmp_path / "real.safetensors", both, READING, {"path": "somewhere"})
    return tmp_path / "real.safetensors"


def test_loaded_is_as_good_as_seen(saved):
    loaded, seen = metrics(weights="elsewhere.pt"), metrics()  # another name of the same weights
    load_statistics(saved, loaded, READING)
    assert describe_statistics(saved) == {"path": "somewhere"}
    for name in loaded:
        seen[name].update(clips(30), real=True)
        for metric in (loaded[name], seen[name]):
            metric.update(clips(20, seed=1), real=False)
        assert loaded[name].compute() == seen[name].compute()
    with pytest.raises(InputError, match="one size"):
        loaded["fvd"].update(torch.rand(2, 3, 4, 8, 8), real=False)
    with safe_open(saved, "pt") as file:  # anyone can read how it was made
        treatment = json.loads(file.metadata()["treatment"])
    assert treatment["clips"] == READING
    assert treatment["fvd"]["features"]["sha256"] == "aa"


@pytest.mark.parametrize(
    ("changes", "reading", "message"),
    [
        ({}, {"frames": 4, "stride": 2}, "clips stride: saved with 1, asked with 2"),
        ({}, {"frames": 4}, "clips stride: saved with 1, asked with None"),
        ({"sha256": "bb"}, READING, "fvd features sha256: saved with aa, asked with bb"),
    ],
)
def test_a_mismatch_is_rejected(saved, changes, reading, message):
    with pytest.raises(InputError, match=message) as error:
        load_statistics(saved, metrics(**changes), reading)
    assert "\n" not in str(error.value)


def test_other_files_than_statistics_are_rejected(saved, tmp_path):
    with pytest.raises(InputError, match="it is of fvd, kvd, not of other"):
        load_statistics(saved, {"other": metrics()["fvd"]}, READING)
    with pytest.raises(
        InputError, match="kept: saved with sums, asked with features"
    ):  # sums cannot stand for features
        load_statistics(saved, {"fvd": FrechetVideoDistance(Means(), keep_features=True)}, READING)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("other", "text", "missing"):
        with pytest.raises(InputError, match="no statistics of real clips"):
            load_statistics(tmp_path / f"{name}.safetensors", metrics(), READING)
    with pytest.raises(InputError, match="0 real clips"):
        save_statistics(tmp_path / "none.safetensors", metrics(), READING)


def one_of_two(rank, path):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{path}/meet", rank=rank, world_size=2)
    both, again = metrics(), metrics()
    for metric in both.values():
        metric.update(clips(30).split((11, 19))[rank], real=True)
    save_statistics(f"{path}/two.safetensors", both, READING)
    torch.distributed.barrier()
    load_statistics(f"{path}/two.safetensors", again, READING)
    for metric in again.values():
        metric.update(clips(20, seed=1).split((13, 7))[rank], real=False)
    values = {name: metric.compute() for name, metric in again.items()}
    if rank:
        torch.save(values, f"{path}/values.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_save_and_load_as_one(tmp_path):
    run_two(one_of_two, tmp_path)
    values = torch.load(tmp_path / "values.pt", weights_only=True)
    for name, metric in metrics().items():
        metric.update(clips(30), real=True)
        metric.update(clips(20, seed=1), real=False)
        torch.testing.assert_close(values[name], metric.compute(), rtol=1e-9, atol=1e-12)
