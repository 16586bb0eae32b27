"""The comparison of content frames: training of each variant, shared parts, and measurements."""

import pytest
import torch

from benchmarks.shapes import content
from benchmarks.shapes.content import BASE, FRAMES, LAYOUTS, MODELS, SAMPLES, STAGES, VARIANTS, Variant
from benchmarks.shapes.quality import Settings
from cmd_lightning import zoo
from cmd_lightning.conditioning import OpenCLIPTextEncoder
from cmd_lightning.diffusion import FlowMatching
from cmd_lightning.pipeline import CMDPipeline


def built(network, *arguments):
    """The network that a config names."""
    return zoo.entry(network["class_path"]).load()(*arguments, **network["init_args"])


def configs(variant, root, seed=0):
    return {stage: content.config(stage, variant, seed, root, SAMPLES) for stage in STAGES}


@pytest.mark.parametrize(
    "variant",
    [pytest.param(variant, marks=[pytest.mark.slow] * (number > 1)) for number, variant in enumerate(VARIANTS)],
    ids=lambda variant: " ".join(variant.cell.values()),
)
def test_networks_of_a_variant_fit_together(variant, tmp_path):
    made = configs(variant, tmp_path, seed=3)
    with torch.device("meta"):
        autoencoder = built(made["autoencoder"]["model"]["init_args"]["network"])
        spec = autoencoder.latent_spec((3, 16, 32, 32))
        for stage in ("content", "motion"):
            network = built(made[stage]["model"]["init_args"]["network"], spec, 64)
            assert network.num_parameters() < 8e6
    for stage, config in made.items():
        trainer, batch = config["trainer"], config["data"]["init_args"]["batch_size"]
        assert trainer["max_steps"] * batch == SAMPLES[stage]
        assert config["model"]["init_args"]["schedule"]["init_args"]["total_steps"] == trainer["max_steps"]
        assert config["seed_everything"] == 3
        folder = str(tmp_path / variant.folder(stage, 3))
        assert trainer["default_root_dir"] == folder and "folder" not in trainer["callbacks"][-1]["init_args"]
        if stage != "autoencoder":
            expected = tmp_path / variant.folder("autoencoder", 3) / "last.ckpt"
            assert config["model"]["init_args"]["autoencoder"] == str(expected)


def test_variants_are_of_what_there_is_and_differ():
    cells = [tuple(variant.cell.values()) for variant in VARIANTS]
    assert len(set(cells)) == len(cells)
    for variant in VARIANTS:
        assert variant.frame in FRAMES and variant.layout in LAYOUTS and variant.model in MODELS
        assert 0 < variant.predicted < 1
    assert all((BASE / f"{stage}.yaml").is_file() for stage in STAGES)


def test_stages_are_shared_where_they_are_the_same():
    def folders(*what, seed=0):
        return [Variant(*what, 0.5).folder(stage, seed) for stage in STAGES]

    grid, axes = folders("first frame", "grid 8x8", "U-Net"), folders("first frame", "axes", "U-Net")
    assert [a == b for a, b in zip(grid, axes, strict=True)] == [False, True, False]
    other = folders("first frame", "grid 8x8", "DiT, patch 4")
    assert [a == b for a, b in zip(grid, other, strict=True)] == [True, False, True]
    learned = (folders("softmax per patch", layout, "U-Net") for layout in ("grid 8x8", "axes"))
    assert not any(a == b for a, b in zip(*learned, strict=True))
    assert set(grid).isdisjoint(folders("first frame", "grid 8x8", "U-Net", seed=1))


@pytest.mark.slow
def test_figures_of_a_small_model(wake):
    made = configs(VARIANTS[0], content.Path("nowhere"))
    autoencoder = wake(built(made["autoencoder"]["model"]["init_args"]["network"]))
    spec = autoencoder.latent_spec((3, 16, 32, 32))
    text = OpenCLIPTextEncoder({"context_length": 48, "width": 16, "heads": 2, "layers": 1})
    pipeline = CMDPipeline(
        autoencoder,
        unet=zoo.entry("ContentUNet").load()(spec, 16, width=8, multipliers=[1, 1], layers=1, heads=2),
        scheduler=FlowMatching().scheduler(),
        text_encoder=text,
        motion_model=zoo.entry("GridUNet").load()(spec, 16, width=8, multipliers=[1, 1], layers=1, heads=2, frames=4),
        motion_scheduler=FlowMatching().scheduler(),
        motion_text_encoder=text,
        video_shape=(3, 16, 32, 32),
        fps=8.0,
    )
    pipeline.register_to_config(steps={"content": 1, "motion": 1}, guidance={"content": 2.0, "motion": 1.0})
    row = content.figures(pipeline, Settings(num=6, curve_num=4, curve_steps=1))
    for name in ("high_frequency", "local_correlation", "total_variation", "denoising_error"):
        assert row[name] == pytest.approx(1, abs=0.5)  # first frames against all frames
    assert {"psnr plain", "psnr mixed", "reconstructed", "true content", "generated", "generated, seen"} <= set(row)
    assert row["plain"]["generated"]["shapes_frechet_distance"] > row["plain"]["real"]["shapes_frechet_distance"]


def test_the_table_has_means_over_seeds():
    row = dict.fromkeys(("psnr mixed", "psnr plain", "denoising_error", "reconstructed", "true content"), 0.5)
    row |= {"plain": {"generated": {"shapes_frechet_distance": 7.0}}, "predicted": 0.1}
    row["cpu seconds"] = dict.fromkeys(STAGES, 90)
    cell = VARIANTS[0].cell
    rows = [{**cell, **row, "seed": 0, "generated": 0.4}, {**cell, **row, "seed": 1, "generated": 0.6}]
    lines = content.comparison(rows).splitlines()
    assert len(lines) == 3
    shown = ["2", "0.5 / 0.5", "0.50", "50%", "50%", "50% ± 10%", f"{VARIANTS[0].predicted:.0%}", "7.0", "2+2+2 |"]
    assert lines[2].split(" | ")[3:] == shown
    assert len(content.comparison([]).splitlines()) == 2
