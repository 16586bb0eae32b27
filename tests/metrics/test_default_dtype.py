"""Metrics do not depend on torch's default type, and torchmetrics' wrappers take their values in double precision."""

import json

import open_clip
import pytest
import torch
from torchmetrics.wrappers import BootStrapper

from cmd_lightning.metrics import CLIPSimilarity, FrechetVideoDistance, KernelVideoDistance
from cmd_lightning.metrics.clip_similarity import normalised
from cmd_lightning.metrics.preparation import PRESETS, prepare


@pytest.fixture(params=[torch.float64, torch.float16, torch.bfloat16])
def default(request):
    """A context with another default type."""
    before = torch.get_default_dtype()

    class Other:
        def __enter__(self):
            torch.set_default_dtype(request.param)

        def __exit__(self, *_):
            torch.set_default_dtype(before)

    yield Other()
    torch.set_default_dtype(before)


CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 12, "width": 16, "heads": 2, "layers": 1},
}
VIDEO = torch.rand(2, 3, 4, 20, 26, dtype=torch.float32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_prepare_alike(default, preset):
    wanted = prepare(VIDEO, PRESETS[preset])
    with default:
        got = prepare(VIDEO, PRESETS[preset])
    assert got.dtype == wanted.dtype and torch.equal(got, wanted)


class Visual:
    image_size = 16
    image_mean, image_std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


class Clip(torch.nn.Module):
    visual = Visual()

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 3 * 16 * 16 * 4, dtype=torch.float32).view(-1, 4))

    def encode_image(self, images):
        return images.flatten(1) @ self.weight

    def encode_text(self, tokens):
        return self.weight[tokens[:, 0]]


@pytest.mark.parametrize("resize", ["crop", "stretch"])
def test_clipsim_is_the_same(default, resize):
    def value():
        metric = CLIPSimilarity(
            clip, tokenizer=lambda texts: torch.tensor([[len(text)] for text in texts]), resize=resize
        )
        metric.update(VIDEO, captions=["a", "red circle"])
        return metric.compute()

    clip = Clip()
    wanted, images = value(), normalised(Visual, VIDEO[:, :, 0], resize)
    with default:
        assert torch.equal(value(), wanted)
        assert torch.equal(normalised(Visual, VIDEO[:, :, 0], resize), images)


@pytest.mark.filterwarnings("ignore:.*for 64 features", "ignore:.*features", "ignore:.*generated clips")
def test_networks_that_a_metric_opens_are_the_same(default, tmp_path):
    """Features from a file of weights, and a CLIP model from one."""
    (tmp_path / "tiny-clip.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny-clip").state_dict(), tmp_path / "tiny.pt")
    video = torch.rand(6, 3, 8, 16, 16, dtype=torch.float32)

    def values():
        distance = FrechetVideoDistance("shapes")
        for real in (True, False):
            distance.update(video[:3] if real else video[3:], real=real)
        similarity = CLIPSimilarity("tiny-clip", pretrained=tmp_path / "tiny.pt")
        similarity.update(video[:2], captions=["a", "red circle"])
        return [distance.compute(), similarity.compute()]

    wanted = values()
    with default:
        found, type_after = values(), torch.get_default_dtype()
        assert type_after != torch.float32
    assert [value.dtype for value in found] == [torch.float64] * 2
    assert all(map(torch.equal, found, wanted))


class Means(torch.nn.Module):
    num_features = 3

    def forward(self, video):
        return video.mean(dim=(2, 3, 4))


@pytest.mark.filterwarnings("ignore:.*for 3 features", "ignore:.*generated clips")
@pytest.mark.parametrize("kind", [FrechetVideoDistance, KernelVideoDistance])
@pytest.mark.parametrize("quantile", [0.5, torch.tensor(0.5), torch.tensor([0.05, 0.95]), torch.tensor([0.5]).double()])
def test_bootstrapper_takes_quantiles_of_any_type(kind, quantile):
    torch.manual_seed(0)
    wrapped = BootStrapper(kind(Means()), num_bootstraps=4, quantile=quantile, raw=True)
    for real in (True, False):
        wrapped.update(torch.rand(12, 3, 2, 4, 4), real=real)
    values = wrapped.compute()
    wanted = torch.quantile(values["raw"], torch.as_tensor(quantile, dtype=torch.float64))
    torch.testing.assert_close(values["quantile"].double(), wanted)
