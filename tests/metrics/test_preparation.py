import io
import json
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.preparation import PRESETS, Preparation, Prepared, prepare


def weights(old, new, grid="half-pixel", antialias=False):
    """The matrix (new, old) that interpolates one axis: a hat around each place, cut off and made whole at borders."""
    out = np.arange(new)[:, None]
    place = out * old / new if grid == "legacy" else np.clip((out + 0.5) * old / new - 0.5, 0, None)
    scale = max(old / new, 1) if antialias else 1
    if antialias:
        place = (out + 0.5) * old / new - 0.5
    hat = np.maximum(0, 1 - np.abs(np.arange(old) - np.minimum(place, old - 1 if not antialias else np.inf)) / scale)
    return hat / hat.sum(1, keepdims=True)


def expected(video, resize, levels, side, unit=(-1, 1), **axis):
    video = video.double().numpy()
    video = {"float": video, "round": np.rint(255 * video) / 255, "truncate": np.trunc(255 * video) / 255}[levels]
    matrices = []
    for old in video.shape[-2:]:
        new = side if resize == "stretch" else int(np.ceil(round(old * side / min(video.shape[-2:]), 6)))
        first = (new - side) // 2
        matrices.append(weights(old, new, **axis)[first : first + side])
    video = matrices[0] @ video @ matrices[1].T
    return torch.from_numpy(unit[0] + video * (unit[1] - unit[0]))


def clips(height, width, frames=2):
    level = torch.randint(0, 255, (2, 3, frames, height, width))
    return (level + torch.empty(level.shape).uniform_(0.02, 0.98)) / 255


LINEAGES = {
    "stylegan-v": {"resize": "stretch", "levels": "round"},
    "videogpt": {"resize": "crop", "levels": "truncate"},
    "tf": {"resize": "stretch", "levels": "float", "grid": "legacy"},
    "videogpt,antialias=true,resize=stretch": {"resize": "stretch", "levels": "truncate", "antialias": True},
    "videogpt,antialias=true,range=0..255": {
        "resize": "crop",
        "levels": "truncate",
        "antialias": True,
        "unit": (0, 255),
    },
    "tf,range=0..1,resize=crop": {"resize": "crop", "levels": "float", "grid": "legacy", "unit": (0, 1)},
}


@pytest.mark.parametrize("preset", LINEAGES)
@pytest.mark.parametrize("size", [(24, 24), (11, 11), (50, 50), (33, 20), (20, 33), (17, 90), (90, 61)])
def test_preparation_is_that_of_the_lineage(preset, size):
    video = clips(*size)
    prepared = prepare(video, Preparation.parse(f"{preset},side=24"))
    assert prepared.shape == (2, 3, 2, 24, 24) and prepared.dtype == torch.float32
    reference = expected(video, side=24, **LINEAGES[preset])
    torch.testing.assert_close(prepared.double(), reference, atol=1e-5 * reference.abs().max().item(), rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_end_at_224(preset):
    video = clips(60, 80, frames=1)
    reference = expected(video, side=224, **LINEAGES[preset])
    torch.testing.assert_close(prepare(video, PRESETS[preset]).double(), reference, atol=3e-5, rtol=0)


def test_settings_of_the_lineages():
    settings = {name: (preset.batch_norm_eps, preset.unbiased) for name, preset in PRESETS.items()}
    assert settings == {"stylegan-v": (1e-3, False), "videogpt": (1e-5, True), "tf": (1e-3, True)}


@pytest.mark.parametrize("levels", ["round", "truncate"])
def test_all_levels_survive(levels):
    preparation = Preparation("levels", resize="none", levels=levels, range="0..1")
    level = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 1, 256)
    ways = {
        "uint8": level,
        "divided": level / 255,
        "multiplied": level * (1 / 255),
        "numpy": torch.from_numpy(level.numpy().astype(np.float32) / np.float32(255)),
        "signed": ((level / 127.5 - 1) + 1) / 2,
        "signed twice": (((level / 255) * 2 - 1) + 1) * 0.5,
        "double": level.double() / 255,
    }
    for way, video in ways.items():
        assert prepare(video, preparation).equal(level.float() / 255), way


def test_fractions_of_levels():
    video = torch.tensor([100.1, 100.49, 100.51, 100.99, 254.9]).expand(1, 3, 1, 1, 5) / 255
    for levels, whole in {"round": [100, 100, 101, 101, 255], "truncate": [100, 100, 100, 100, 254]}.items():
        prepared = prepare(video, Preparation("levels", resize="none", levels=levels, range="0..255"))
        torch.testing.assert_close(prepared[0, 0, 0, 0], torch.tensor(whole).float())


def test_parse():
    videogpt = PRESETS["videogpt"]
    assert Preparation.parse("tf") is not videogpt and Preparation.parse(videogpt) is videogpt
    text = "videogpt, antialias=true,resize=stretch,side=128,batch_norm_eps=none,unbiased=False"
    changes = {"antialias": True, "resize": "stretch", "side": 128, "batch_norm_eps": None, "unbiased": False}
    assert Preparation.parse(text) == replace(videogpt, **changes, name=text.replace(" ", ""))
    record = json.loads(json.dumps(asdict(Preparation.parse("tf,batch_norm_eps=1e-4"))))
    assert (
        record["name"] == "tf,batch_norm_eps=1e-4" and record["batch_norm_eps"] == 1e-4 and record["grid"] == "legacy"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stylgan-v", "did you mean stylegan-v?"),
        ("", "there are stylegan-v, videogpt, tf"),
        ("tf,anti=true", "did you mean antialias?"),
        ("tf,resize", "stretch, crop, none"),
        ("tf,name=x", "as knob=value"),
        ("tf,resize=streched", "did you mean stretch?"),
        ("tf,grid=none", "half-pixel, legacy"),
        ("tf,unbiased=1", "give true or false"),
        ("tf,side=2.5", "whole number"),
        ("tf,side=0", "at least 1"),
        ("tf,batch_norm_eps=small", "number, or none"),
        ("tf,batch_norm_eps=-1", "from 0 to 1"),
        ("tf,antialias=true", "needs grid=half-pixel"),
    ],
)
def test_wrong_presets_are_reported_on_one_line(text, message):
    with pytest.raises(InputError) as error:
        Preparation.parse(text)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("video", [torch.rand(2, 1, 4, 8, 8), torch.rand(2, 3, 8, 8), 2 * torch.ones(1, 3, 1, 8, 8)])
def test_other_clips_are_rejected(video):
    with pytest.raises(InputError):
        prepare(video, PRESETS["tf"])


class Probe(nn.Module):
    """Means of a batch norm's output."""

    num_features, name, published = 3, "probe", False

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm3d(3)
        self.norm.running_mean.uniform_()
        self.norm.running_var.uniform_(0, 0.01)
        self.origin = {"weights": "none"}

    def forward(self, video):
        return self.norm(video).mean((2, 3, 4))


def test_prepared_network():
    probe, video = Probe(), torch.rand(2, 3, 4, 6, 5)
    prepared = Prepared(probe, Preparation("p", resize="none", batch_norm_eps=0.25))
    variance, mean = probe.norm.running_var + 0.25, probe.norm.running_mean
    by_formula = ((video * 2 - 1).mean((2, 3, 4)) - mean) / variance.sqrt()
    torch.testing.assert_close(prepared(video), by_formula)
    torch.testing.assert_close(prepared((video * 255).round().byte()), by_formula, atol=0.01, rtol=0.01)
    assert probe.norm.eps == 1e-5 and probe.training, "the network given stays as it is"
    assert (prepared.num_features, prepared.name, prepared.published) == (3, "probe", False)
    assert prepared.origin == {"weights": "none", "protocol": asdict(prepared.preparation)}
    kept = Prepared(probe, Preparation("p", resize="none", batch_norm_eps=None))
    assert kept.network.norm.eps == 1e-5


class Norms(nn.Module):
    """Batch norms of two epsilons: a module, and a function whose epsilon is an attribute."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4, eps=1e-2))
        self.register_buffer("mean", torch.rand(4))
        self.register_buffer("variance", 0.01 * torch.rand(4))
        self.inner[1].running_var.uniform_(0, 0.01)
        self.eps = 1e-4

    def forward(self, x):
        x = F.batch_norm(self.inner(x), self.mean, self.variance, eps=self.eps)
        return x.mean((2, 3, 4))


def torchscript(network, kind):
    with warnings.catch_warnings(action="ignore"):
        make = {"trace": lambda x: torch.jit.trace(x, torch.rand(1, 3, 2, 4, 4))}.get(kind, torch.jit.script)
        script = make(network)
        script = torch.jit.freeze(script) if kind == "freeze" else script
        file = io.BytesIO()
        torch.jit.save(script, file)
        file.seek(0)
        return torch.jit.load(file)


@pytest.mark.parametrize("kind", ["script", "trace"])
def test_epsilon_of_torchscript(kind):
    network, video = Norms().eval(), torch.rand(2, 3, 2, 4, 4)
    script = torchscript(network, kind)
    network.inner[1].eps = network.eps = 3e-3
    prepared = Prepared(script, Preparation("p", resize="none", range="0..1", batch_norm_eps=3e-3))
    torch.testing.assert_close(prepared(video), network(video))
    assert not torch.allclose(script(video), network(video), rtol=0.01), "the script given stays as it is"


def test_folded_torchscript_is_rejected():
    script = torchscript(Norms().eval(), "freeze")
    with pytest.raises(InputError, match="batch_norm_eps=none"):
        Prepared(script, PRESETS["tf"])
    Prepared(script, Preparation.parse("tf,batch_norm_eps=none"))
