"""Values that others published, with the real weights: run with CMD_I3D_WEIGHTS naming i3d_pretrained_400.pt or
i3d_torchscript.pt.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cmd_lightning.metrics.frechet import FrechetVideoDistance, frechet_distance_from_features
from cmd_lightning.metrics.i3d_weights import PUBLIC, PUBLISHED, open_i3d
from cmd_lightning.metrics.preparation import PRESETS, Preparation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("CMD_I3D_WEIGHTS" not in os.environ, reason="CMD_I3D_WEIGHTS names no weights of the I3D"),
]


@pytest.fixture(scope="module")
def values(assets):
    values = json.loads((assets / "fvd_reference/published_values.json").read_text())["values"]
    return {value["id"]: value for value in values}


def opened(preparation):
    network = open_i3d("i3d", preparation)
    assert network.published, "these are not the weights of published FVD"
    return network


def constant(level, frames):
    return torch.full((1, 3, frames, 64, 64), float(level))


@torch.no_grad()
def distance_of_constants(network, frames):
    black, white = (network(constant(level, frames)).expand(8, -1) for level in (0, 1))
    return frechet_distance_from_features(black, white).item()


def noise(seed, clips):
    """Clips of uniform noise, one after the other as one draw of `RandomState(seed).rand(N, 16, 224, 224, 3)`."""
    state = np.random.RandomState(seed)
    for _ in range(clips):
        yield torch.from_numpy(state.rand(1, 16, 224, 224, 3).astype(np.float32)).permute(0, 4, 1, 2, 3)


def test_black_against_white(values):
    value = values["zeros_vs_ones"]
    distance = distance_of_constants(opened(PRESETS["stylegan-v"]), 30)
    assert distance == pytest.approx(value["fvd"], abs=0.05)
    assert distance == pytest.approx(value["fvd_tensorflow_original"], abs=0.3)


def test_black_against_white_by_number_of_frames(values):
    network = opened(PRESETS["stylegan-v"])
    distances = [distance_of_constants(network, frames) for frames in range(10, 31)]
    assert distances == pytest.approx(values["zeros_vs_ones"]["fvd_by_number_of_leading_frames_10_to_30"], abs=0.2)


def test_the_example_of_the_original():
    # "≈ 131" is all that was published.
    metric = FrechetVideoDistance("i3d", "tf")
    for level in (0, 1):
        metric.update(constant(level, 15).expand(16, -1, -1, -1, -1), real=bool(level))
    with pytest.warns(UserWarning, match="16 real"):
        assert metric.compute().item() == pytest.approx(131, abs=5)


def test_uniform_noise(values):
    # It was fed with [0, 1], where [-1, 1] would be right.
    metric = FrechetVideoDistance("i3d", Preparation("noise", resize="none", range="0..1"), unbiased=True)
    for real in (True, False):
        for clip in noise(1 if real else 2, 128):
            metric.update(clip, real)
    with pytest.warns(UserWarning, match="128 real"):
        assert metric.compute().item() == pytest.approx(values["uniform_noise"]["fvd"], abs=0.01)


@torch.no_grad()
def test_plain_weights_and_torchscript_are_one_network(values):
    # Published is how far the TorchScript is from TensorFlow; of the plain weights it is to be no farther.
    script = Path(torch.hub.get_dir(), "checkpoints", PUBLIC[PUBLISHED["i3d-torchscript"]].file)
    if not script.is_file():
        pytest.skip(f"no {script}")
    preparation = Preparation("noise", resize="none", range="0..1")
    networks = opened(preparation), open_i3d("i3d-torchscript", preparation)
    a, b = (torch.cat([network(clip) for clip in noise(1, 4)]) for network in networks)
    assert (a - b).norm() < 4 * values["model_port_difference"]["l2_difference_of_features_tensorflow_vs_torchscript"]
