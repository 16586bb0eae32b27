"""Networks in half precision, with weights stored in another type than they compute in, and how they are called."""

import functools

import diffusers.models.modeling_utils as diffusers_models
import pytest
import torch
from small_models import wake

from cmd_lightning.networks import Condition
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
from cmd_lightning.zoo.autoencoders.grid import GridAutoencoder
from cmd_lightning.zoo.autoencoders.triplane import TriplaneAutoencoder
from cmd_lightning.zoo.baselines.lvdm import LVDM
from cmd_lightning.zoo.baselines.pvdm import TriplaneUNet
from cmd_lightning.zoo.content.dit import ContentDiT
from cmd_lightning.zoo.content.image_unet import ContentUNet
from cmd_lightning.zoo.motion.aligned import AlignedDiT
from cmd_lightning.zoo.motion.cached import CachedDiT
from cmd_lightning.zoo.motion.dit import MotionDiT
from cmd_lightning.zoo.motion.factorised import FactorisedDiT
from cmd_lightning.zoo.motion.grid import GridUNet
from cmd_lightning.zoo.motion.linear import LinearDiT
from cmd_lightning.zoo.motion.mixer import MotionMixer
from cmd_lightning.zoo.motion.unet import PlanesUNet

CLIP = (3, 4, 16, 16)
SMALL = {"patch_size": 4, "width": 16, "depth": 1, "heads": 2, "head_dim": 8}
DIT = {"width": 16, "depth": 1, "heads": 2}
UNET = {"width": 8, "multipliers": (1, 2)}
SPEC, PLANES = CMDAutoencoder(3, **SMALL).latent_spec(CLIP), TriplaneAutoencoder(3, **SMALL).latent_spec(CLIP)

NETWORKS = {
    "CMDAutoencoder": lambda: CMDAutoencoder(3, **SMALL | {"patch_size": 2}),  # begins with an orthogonal matrix
    "TriplaneAutoencoder": lambda: TriplaneAutoencoder(3, **SMALL),
    "GridAutoencoder": lambda: GridAutoencoder(3, grid=(2, 2), **SMALL),
    "ContentDiT": lambda: ContentDiT(SPEC, 8, **DIT, patch_size=4),
    "ContentUNet": lambda: ContentUNet(SPEC, 8, **UNET, layers=1, heads=2, tokens=True),
    "GridUNet": lambda: GridUNet(SPEC, 8, **UNET, layers=1, heads=2),
    "MotionDiT": lambda: MotionDiT(SPEC, 8, **DIT),
    "AlignedDiT": lambda: AlignedDiT(SPEC, 8, **DIT, frames=2),
    "CachedDiT": lambda: CachedDiT(SPEC, 8, **DIT, frames=2, content_depth=1),
    "FactorisedDiT": lambda: FactorisedDiT(SPEC, 8, **DIT, frames=2),
    "LinearDiT": lambda: LinearDiT(SPEC, 8, **DIT, frames=2),
    "MotionMixer": lambda: MotionMixer(SPEC, 8, width=16, depth=1, frames=2, tokens_width=8),
    "PlanesUNet": lambda: PlanesUNet(SPEC, 8, **UNET, blocks=1),
    "LVDM": lambda: LVDM(CLIP, 8, **UNET, layers=1, heads=2),
    "TriplaneUNet": lambda: TriplaneUNet(PLANES, 8, **UNET, layers=1, heads=2),
}
DENOISERS = [name for name in NETWORKS if not name.endswith("Autoencoder")]


@functools.cache
def network(name):
    torch.manual_seed(0)
    return wake(NETWORKS[name]()).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a saved network."""

    @functools.cache
    def save(name):
        folder = tmp_path_factory.mktemp(name)
        network(name).save_pretrained(folder)
        return folder

    return save


def inputs(name, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def values(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    condition = Condition(values(2, 8), values(2, 5, 8))
    shapes = {"ContentDiT": SPEC.content, "ContentUNet": SPEC.content, "TriplaneUNet": PLANES.packed}
    shape = shapes.get(name, SPEC.motion)
    noisy = values(2, *(CLIP if name == "LVDM" or name.endswith("Autoencoder") else shape))
    if name.endswith("Autoencoder"):
        return (noisy,)
    timestep = torch.tensor([3, 500])
    return (noisy, timestep, condition) if shape != SPEC.motion or name == "LVDM" else (
        noisy, timestep, values(2, *SPEC.content), condition
    )  # fmt: skip


@torch.no_grad()
def output(network, arguments):
    return network.predict(*arguments) if len(arguments) == 4 else network(*arguments)


def error(ours, reference):
    """The largest difference, relative to the largest value."""
    return float((ours.float() - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_opens_in_half_precision_with_and_without_accelerate(saved, monkeypatch, name, accelerated):
    reference = output(network(name), inputs(name))
    if not accelerated:
        monkeypatch.setattr(diffusers_models, "is_accelerate_available", lambda: False)
    for dtype, bound in ((torch.bfloat16, 0.03), (torch.float16, 0.005)):
        opened = type(network(name)).from_pretrained(saved(name), torch_dtype=dtype)
        assert torch.get_default_dtype() == torch.float32
        assert {t.dtype for t in [*opened.parameters(), *opened.buffers()] if t.is_floating_point()} == {dtype}
        assert error(output(opened, inputs(name, dtype)), reference) < bound


def test_torchs_default_type_is_left_alone_after_an_error_too(saved, monkeypatch):
    monkeypatch.setattr(diffusers_models, "is_accelerate_available", lambda: False)
    monkeypatch.setattr(CMDAutoencoder, "initialize", None)
    with pytest.raises(TypeError):
        CMDAutoencoder.from_pretrained(saved("CMDAutoencoder"), torch_dtype=torch.bfloat16)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(("storage", "bound"), [(torch.float8_e4m3fn, 0.25), (torch.float16, 0.03)])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_layerwise_casting(saved, name, storage, bound, compute):
    opened = type(network(name)).from_pretrained(saved(name), torch_dtype=compute)
    opened.enable_layerwise_casting(storage_dtype=storage, compute_dtype=compute)
    assert {weight.dtype for weight in opened.parameters()} & {storage}
    out = output(opened, inputs(name, compute))
    assert out.dtype == opened.dtype == compute
    assert error(out, output(network(name), inputs(name))) < bound


@pytest.mark.parametrize("name", DENOISERS)
def test_any_timestep_and_return_dict(name):
    denoiser = network(name)
    noisy, _, *rest = inputs(name)
    with torch.no_grad():
        if len(rest) == 2:
            rest[0] = denoiser.prepare(rest[0])
        wanted = denoiser(noisy, torch.tensor([500, 500]), *rest)
        for timestep in (500, 500.0, torch.tensor(500), torch.tensor([500]), torch.tensor([500.0, 500.0])):
            assert torch.equal(denoiser(noisy, timestep, *rest), wanted)
        assert torch.equal(denoiser(noisy, timestep=500, **dict(zip(names(denoiser), rest, strict=True))), wanted)
        (alone,) = denoiser(noisy, 500, *rest, return_dict=False)
        assert torch.equal(alone, wanted)
        assert torch.equal(denoiser(noisy, 500, *rest, return_dict=True).sample, wanted)


def names(denoiser):
    return denoiser.forward.__code__.co_varnames[3 : denoiser.forward.__code__.co_argcount]


@pytest.mark.parametrize("accelerated", [True, False])
def test_the_shipped_pipeline_in_half_precision(monkeypatch, accelerated):
    if not accelerated:
        monkeypatch.setattr(diffusers_models, "is_accelerate_available", lambda: False)
    pipeline = CMDPipeline.from_pretrained("shapes32", dtype=torch.bfloat16)
    assert torch.get_default_dtype() == torch.float32
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            assert {t.dtype for t in part.parameters()} == {torch.bfloat16}
    pipeline.set_progress_bar_config(disable=True)
    video = pipeline("a red circle moves left", seeds=[0], num_inference_steps=2, output_type="pt").frames
    assert video.shape == (1, 16, 3, 32, 32)
