"""The loop that trains the yardstick's networks: in many calls as in one."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.shapes.yardstick.train import fit

TRUTH = torch.tensor([[2.0, -1.0, 0.5]])


def draw(index):
    clips = torch.randn(16, 3, generator=torch.Generator().manual_seed(index))
    return clips, clips @ TRUTH.T


def squared_error(network, clips, targets):
    return (network(clips) - targets).square().mean()


def options(minutes, steps=300):
    return Namespace(minutes=minutes, steps=steps, rate=0.05, out=Path("net.safetensors"), device="cpu", threads=1)


def network():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def test_short_calls_give_the_weights_of_a_long_one(tmp_path, monkeypatch, capsys):
    for folder in ("long", "short"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "long")
    whole, record = fit(network(), draw, squared_error, options(minutes=5, steps=4))
    assert record["clips"] == 4 * 16
    monkeypatch.chdir(tmp_path / "short")
    for _ in range(3):
        with pytest.raises(SystemExit) as end:
            fit(network(), draw, squared_error, options(minutes=0, steps=4))
        assert not end.value.code
        assert "goes on from here" in capsys.readouterr().out
    parts, record = fit(network(), draw, squared_error, options(minutes=0, steps=4))
    assert (record["steps"], record["clips"]) == (4, 4 * 16)
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), parts.parameters(), strict=True))


def test_other_options_do_not_go_on_from_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(network(), draw, squared_error, options(minutes=5, steps=3))
    fit(network(), draw, squared_error, options(minutes=5, steps=3))
    with pytest.raises(SystemExit, match="delete it to train anew"):
        fit(network(), draw, squared_error, options(minutes=5, steps=4))


def test_it_learns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained, _ = fit(network(), draw, squared_error, options(minutes=5))
    torch.testing.assert_close(trained.weight.detach(), TRUTH, atol=0.05, rtol=0)
