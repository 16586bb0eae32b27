"""Training by the protocol: the same clips and noise for all models of a seed, averaged weights, errors reported."""

import os
from dataclasses import replace

import pytest
import torch

from cmd_lightning.components.draws import normal
from cmd_lightning.errors import InputError
from cmd_lightning.ranking.train import Order, seeded, train

MADE_BY = {"latent_space": "pixels", "autoencoder": "ab"}


def fit(cls, bench, protocol, folder, seed=0, tell=lambda line: None):
    return train(lambda spec, dim: cls(spec, dim), bench, protocol, seed, folder, tell)


def test_an_order_shows_every_clip_once_an_epoch(bench, small):
    twice = replace(small, samples=2 * small.train_clips, batch_size=8)
    batches = list(Order(bench, twice, 0, MADE_BY))
    keys = [key for batch in batches for key in batch["key"]]
    half = small.train_clips
    assert len(batches) == len(Order(bench, twice, 0, MADE_BY)) == 6
    assert sorted(keys[:half]) == sorted(keys[half:]) == sorted({*keys})
    assert keys[:half] != keys[half:]
    assert [batch["epoch"] for batch in batches] == [0, 0, 0, 1, 1, 1]
    row = int(batches[4]["key"][3])
    assert batches[4]["caption"][3] == bench.captions["train"][row]
    assert batches[4]["made_by"] == [MADE_BY]
    assert torch.equal(batches[4]["motion"][3], bench.tensors["train/motion"][row])
    assert [key for batch in Order(bench, twice, 0, MADE_BY) for key in batch["key"]] == keys
    assert [key for batch in Order(bench, twice, 1, MADE_BY) for key in batch["key"]] != keys


def test_models_of_a_seed_see_the_same_noise(bench, small, shallow, deeper, tmp_path):
    before = os.environ.get("PL_GLOBAL_SEED")
    seen = []
    for cls, seed in ((shallow, 0), (deeper, 0), (shallow, 1)):
        torch.manual_seed(seed + 7)  # what ran before must not matter
        seen.append(fit(cls, bench, small, tmp_path, seed)[0].seen)
    assert len(seen[0]) == small.samples // small.batch_size
    for (own, step), (other, same) in zip(*seen[:2], strict=True):
        assert torch.equal(own, other)
        assert torch.equal(step, same)
    assert not torch.equal(seen[0][0][0], seen[2][0][0])
    assert os.environ.get("PL_GLOBAL_SEED") == before


def test_the_noise_of_a_clip_is_that_of_the_seed():
    drawn = []
    for seed in (0, 0, 1):
        with seeded(seed):
            drawn.append((normal((4,), "noise", ["000000003"], 0), torch.randn(4)))
    for own, again, other in zip(*drawn, strict=True):
        assert torch.equal(own, again)
        assert not torch.equal(own, other)


def test_a_training_is_the_same_again_and_scores_the_average(bench, small, shallow, tmp_path):
    first, facts = fit(shallow, bench, small, tmp_path)
    again, _ = fit(shallow, bench, small, tmp_path)
    raw, _ = fit(shallow, bench, replace(small, ema=0.0), tmp_path)
    weights = [dict(network.state_dict()) for network in (first, again, raw)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not any(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert facts["loss"] > 0
    assert not first.training


def test_progress_is_reported(bench, small, shallow, tmp_path):
    message = []
    fit(shallow, bench, replace(small, samples=128), tmp_path, tell=message.append)
    assert [line.split(",")[0] for line in message] == ["step 2 of 8", "step 4 of 8", "step 6 of 8"]


@pytest.mark.parametrize("samples", [64, 256])  # fewer steps than training stops after, and more
def test_losses_that_are_no_numbers_are_reported(bench, small, shallow, tmp_path, samples):
    class Dividing(shallow):
        def forward(self, motion, timestep, content, condition):
            return super().forward(motion, timestep, content, condition) / 0

    with pytest.raises(InputError, match="Dividing: loss or gradients became NaN or infinite in training with seed 3"):
        fit(Dividing, bench, replace(small, samples=samples), tmp_path, seed=3)
