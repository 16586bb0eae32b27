"""MetricSuite: one pass of each network, and values that do not depend on what surrounds it."""

import pytest
import torch
from torch import nn

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.clip_similarity import CLIPSimilarity
from cmd_lightning.metrics.frechet import FrechetVideoDistance
from cmd_lightning.metrics.suite import MetricSuite
from cmd_lightning.shapes.features import ShapesFeatures

pytestmark = pytest.mark.filterwarnings("ignore:.*generated clips for")


def clips(count, seed):
    return torch.rand(count, 3, 8, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cast_around_it_changes_nothing(dtype):
    surroundings = nn.Module()
    surroundings.suite = MetricSuite(["frechet:shapes", "kernel:shapes", "psnr"])
    surroundings.train().to(dtype)
    plain = FrechetVideoDistance(ShapesFeatures.from_pretrained())
    for part in range(13):  # 260 clips: more than bfloat16 can count
        real, fake = clips(20, part), clips(20, 100 + part) * 0.9
        surroundings.suite.update_real(real)
        surroundings.suite.update(fake, real=real)
        plain.update(real, real=True)
        plain.update(fake, real=False)
    frechet, _, psnr = surroundings.suite.results()
    assert frechet["value"] == pytest.approx(plain.compute().item(), rel=1e-9)
    assert psnr["clips"] == {"fake": 260}
    error = ((fake - real).double().square().flatten(1).mean(1)).log10().mul(-10).mean().item()
    assert psnr["value"] == pytest.approx(error, rel=1e-2)
    surroundings.suite.reset()
    surroundings.suite.update_real(real)
    surroundings.suite.update(fake, real=real)
    assert surroundings.suite.results()[2]["value"] == pytest.approx(error, rel=1e-5)


def test_a_network_runs_once_a_batch_for_all_its_metrics(monkeypatch):
    calls = []
    forward = ShapesFeatures.forward
    monkeypatch.setattr(ShapesFeatures, "forward", lambda self, video: calls.append(len(video)) or forward(self, video))
    suite = MetricSuite(["frechet:shapes", "kernel:shapes"], {"one": None, "two": ["kernel"]})
    suite.update_real(clips(4, 0))
    suite.update(clips(3, 1), "one")
    suite.update(clips(3, 2), "two")
    assert calls == [4, 3, 3]
    first, _, second = suite.results()
    assert (first["of"], second["of"]) == ("one", "two")
    assert second["clips"] == {"real": 4, "fake": 3}
    assert list(suite.distances) == ["frechet_distance(shapes)", "kernel_distance(shapes)"]


def test_missing_weights_of_a_short_name_give_one_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr("cmd_lightning.shapes.saved_network.WEIGHTS", tmp_path)
    with pytest.raises(InputError, match=r"^path .*shapes_\w+\.safetensors: no weights of ") as error:
        MetricSuite(["frechet:shapes"])
    assert "without arguments" not in str(error.value)


class Brightness(nn.Module):
    """Every caption is +1, a frame +1 or -1."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Identity()
        self.visual.image_size, self.visual.image_mean, self.visual.image_std = 32, [0.5] * 3, [0.5] * 3

    def encode_image(self, images):
        return images.mean((1, 2, 3))[:, None]

    def encode_text(self, tokens):
        return torch.ones(len(tokens), 1)


def bright_similarity():
    return CLIPSimilarity(Brightness(), lambda captions: torch.zeros(len(captions), 1))


def test_any_importable_clip_similarity():
    suite = MetricSuite([f"clipsim:{__name__}.bright_similarity"])
    suite.update(torch.cat([clips(3, 0) * 0, clips(1, 0) * 0 + 1]), captions=["x"] * 4)
    [result] = suite.results()
    assert (result["metric"], result["value"]) == ("clip_similarity(Brightness)", -0.5)
    with pytest.raises(InputError, match=r"clipsim torch.nn.Flatten: it makes a Flatten, and must make a CLIPSimil"):
        MetricSuite(["clipsim:torch.nn.Flatten"])
    with pytest.raises(InputError, match=r"clipsim torch.nn.Linear: .*; give a class or function that makes a CLIPS"):
        MetricSuite(["clipsim:torch.nn.Linear"])
    with pytest.raises(InputError, match="metrics clipsim:pixels: give model and weights"):
        MetricSuite(["clipsim:pixels"])


def test_what_no_set_takes_is_rejected():
    with pytest.raises(InputError, match="metrics psnr: it cannot be asked for here; what can is frechet, kernel"):
        MetricSuite(["frechet:shapes", "psnr"], {"one": ["frechet", "kernel"]})
    with pytest.raises(InputError, match="preset tf: none of the metrics"):
        MetricSuite(["clipsim:shapes"], preset="tf")
    suite = MetricSuite(["ssim"])
    with pytest.raises(InputError, match="bring pairs to one shape"):
        suite.update(clips(2, 0), real=clips(2, 0)[..., :16])
