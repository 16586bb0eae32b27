"""Scores: a model that knows the true motion equals reconstruction, and is better than one that knows nothing."""

import pytest
import torch

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.frechet import frechet_distance_from_features
from cmd_lightning.networks import MotionModel
from cmd_lightning.ranking.score import direction, predict, references, score
from cmd_lightning.ranking.train import objective


class Cheat(MotionModel):
    """Finds the clip by its content frame, and answers with the velocity that leads to its true motion."""

    def __init__(self, bench):
        super().__init__()
        self.content = bench.tensors["test/content"]
        self.motion = bench.pipeline.autoencoder.normalize_motion(bench.tensors["test/motion"])
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, motion, timestep, content, condition):
        clean = self.motion[torch.cdist(content.flatten(1), self.content.flatten(1)).argmin(1)]
        schedule = objective()
        alpha = schedule.scheduler().alphas_cumprod[timestep].view(-1, 1, 1, 1)
        noise = (motion - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return schedule.target(clean, noise, timestep)


def test_a_cheat_scores_as_reconstruction_does(bench, small, shallow):
    floor = references(bench)["reconstruction"]
    cheat = score(Cheat(bench), bench, small, 0)
    assert cheat["frechet"] == pytest.approx(floor["frechet"], rel=0.05)
    assert cheat["kernel"] == pytest.approx(floor["kernel"], abs=0.01)
    assert cheat["direction"] == floor["direction"]
    spec = bench.pipeline.autoencoder.latent_spec((3, 16, 32, 32))
    untrained = score(shallow(spec, 64).eval(), bench, small, 0)
    assert untrained["frechet"] > 3 * cheat["frechet"]
    assert untrained["kernel"] > cheat["kernel"]


def test_references_are_distances_to_the_clips(bench):
    real, other = (bench.tensors[f"{split}/features"] for split in ("test", "val"))
    found = references(bench)
    assert found["other clips"]["frechet"] == pytest.approx(float(frechet_distance_from_features(other, real)))
    assert found["reconstruction"]["frechet"] < found["other clips"]["frechet"]


def test_the_noise_of_samples_is_that_of_the_seed(bench, small, shallow):
    spec = bench.pipeline.autoencoder.latent_spec((3, 16, 32, 32))
    network = shallow(spec, 64).eval()
    videos = [predict(network, bench, small, seed) for seed in (0, 0, 1)]
    assert torch.equal(videos[0], videos[1])
    assert not torch.equal(videos[0], videos[2])


def test_directions_are_those_of_plain_clips(bench, monkeypatch):
    class Known:
        def read(self, video):
            assert video.flatten(1)[:, 0].tolist() == [0, 1, 2, 4, 5, 6]  # every fourth is mixed
            return [
                type("Reading", (), {"direction": name}) for name in [*bench.directions.values()][:3] + 3 * ["none"]
            ]

    video = torch.arange(8).view(8, 1, 1, 1, 1).expand(8, 3, 1, 1, 1)
    monkeypatch.setitem(bench.__dict__, "reader", Known())
    assert direction(video, bench) == 0.5


def test_samples_that_are_no_numbers_are_reported(bench, small, shallow):
    class Lost(shallow):
        def forward(self, motion, timestep, content, condition):
            return torch.full_like(motion, torch.nan)

    with pytest.raises(InputError, match="Lost: its samples are NaN"):
        predict(Lost(bench.pipeline.autoencoder.latent_spec((3, 16, 32, 32)), 64), bench, small, 0)
