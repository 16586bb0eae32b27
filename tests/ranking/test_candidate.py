"""What can be ranked: zoo names, dotted paths, configs; and the errors for others."""

import re
import sys

import pytest
import torch

from cmd_lightning.cli import import_asked, main
from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, LatentSpec
from cmd_lightning.ranking.candidate import Candidate, candidate
from cmd_lightning.zoo.discovery import motion_configs
from cmd_lightning.zoo.motion.dit import MotionDiT

SPEC = LatentSpec((3, 8, 8), (2, 4, 4), tuple((float(i // 2), i % 2 / 2) for i in range(4)))
CONDITION = Condition(torch.zeros(2, 6), torch.zeros(2, 5, 6), torch.ones(2, 5, dtype=torch.bool))

OF_MINE = '''
import torch
from torch import nn
from cmd_lightning.networks import MotionModel


class MyMotion(MotionModel):
    """A model of mine."""

    def __init__(self, latent_spec, condition_dim, width: int = 4):
        super().__init__()
        channels = latent_spec.motion[0]
        self.layers = nn.Sequential(nn.Conv2d(channels, width, 1), nn.Conv2d(width, channels, 1))

    def forward(self, motion, timestep, content, condition):
        return self.layers(motion)


class NoModel:
    pass
'''


@pytest.fixture
def of_mine(tmp_path, monkeypatch):
    """A package in the working directory, of which nothing stays imported."""
    (tmp_path / "my_pkg.py").write_text(OF_MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("my_pkg", None)


@pytest.mark.parametrize("name", motion_configs())
def test_every_config_of_a_motion_model_is_a_candidate(name):
    found = candidate(name)
    assert found.name == found.cls.__name__ == name
    assert found.class_path.startswith("cmd_lightning.zoo.motion.")
    assert found.init_args  # of its config
    assert candidate(found.class_path) == found


def test_a_third_party_class_by_its_path(of_mine):
    found = candidate("my_pkg.MyMotion")
    assert (found.name, found.class_path, found.init_args) == ("MyMotion", "my_pkg.MyMotion", {})
    found.check(SPEC, CONDITION)
    config = of_mine / "wide.yaml"
    config.write_text(
        "model: {init_args: {network: {class_path: my_pkg.MyMotion, init_args: {width: 9}}, autoencoder: x.ckpt}}"
    )
    wide = candidate("my_pkg.MyMotion", config=str(config), name="Wide")
    assert (wide.name, wide.build(SPEC, 6).config.width) == ("Wide", 9)
    assert candidate(str(config)).init_args == {"width": 9}
    config.write_text("model: {init_args: {network: {init_args: {width: 9}}}}")  # as one to lay over another
    assert candidate("my_pkg.MyMotion", config=str(config), name="Wide") == wide


@pytest.mark.parametrize("model", ["MyMotion", "my_pkg.MyMotion"])
def test_a_third_party_class_that_was_imported(of_mine, model, capsys):
    """With `--import` it is in the zoo's list, and still no model of the zoo."""
    expected = candidate("my_pkg.MyMotion")
    assert import_asked(["--import", "my_pkg"]) == []
    assert candidate(model) == expected
    assert main(["zoo", "rank", model, "--save"]) == 2
    assert "have cards, not MyMotion" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"), [("MotionDiT", "the zoo has a model of that name"), ("../mine", "give letters")]
)
def test_names_of_rows(of_mine, name, message):
    assert candidate("my_pkg.MyMotion", name="My-Motion 2").name == "My-Motion 2"
    with pytest.raises(InputError, match=f"^name {re.escape(name)}: {message}"):
        candidate("my_pkg.MyMotion", name=name)


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        ("MotionDit", None, "did you mean MotionDiT"),
        ("ContentDiT", None, r"ContentDiT: this is not a motion model \(content\)"),
        ("my_pkg.MyMotoin", None, "did you mean MyMotion"),
        ("my_pkg.NoModel", None, "not a MotionModel"),
        ("no_such_pkg.Model", None, "cannot be imported"),
        ("missing.yaml", None, "^model missing.yaml: there is no such file"),
        ("MotionDiT", "missing.yaml", "^config missing.yaml: there is no such file"),
        ("overlay.yaml", None, "it names no class; give it as `config`"),
        ("empty.yaml", None, "no model.init_args.network"),
        ("MotionDiT", "of_mine.yaml", "it is of my_pkg.MyMotion"),
        ("of_mine.yaml", "of_mine.yaml", "is a config already"),
    ],
)
def test_what_is_no_candidate_is_reported(of_mine, model, config, message):
    (of_mine / "empty.yaml").write_text("model: {}")
    (of_mine / "overlay.yaml").write_text("model: {init_args: {network: {init_args: {width: 9}}}}")
    (of_mine / "of_mine.yaml").write_text("model: {init_args: {network: {class_path: my_pkg.MyMotion}}}")
    with pytest.raises(InputError, match=message) as error:
        candidate(model, config)
    assert "\n" not in str(error.value)


def test_a_zoo_model_without_config_needs_one(monkeypatch):
    monkeypatch.setattr("cmd_lightning.ranking.candidate.motion_configs", dict)
    with pytest.raises(InputError, match="give one as `config`"):
        candidate("MotionDiT")


def test_arguments_that_do_not_fit_are_reported():
    with pytest.raises(InputError, match=r"widht.*did you mean width"):
        Candidate("MotionDiT", MotionDiT, {"widht": 8}).build(SPEC, 6)
    with pytest.raises(InputError, match="cannot be built for motion latents"):
        Candidate("MotionDiT", MotionDiT, {"width": "wide"}).build(SPEC, 6)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda own, motion: own(motion)[:, :, :2], r"output is \(2, 2, 2, 4\)"),
        (lambda own, motion: (own(motion),), "output is tuple"),
        (lambda own, motion: own(motion) / 0, "NaN or infinite"),
        (lambda own, motion: motion, "does not depend on trainable weights"),
        (lambda own, motion: own(motion[:, :1]), "a call with motion"),
    ],
)
def test_outputs_that_do_not_fit_are_reported(of_mine, output, message):
    mine = candidate("my_pkg.MyMotion").cls

    class Odd(mine):
        def forward(self, motion, timestep, content, condition):
            return output(self.layers, motion)

    with pytest.raises(InputError, match=message) as error:
        Candidate("Odd", Odd).check(SPEC, CONDITION)
    assert "\n" not in str(error.value)
