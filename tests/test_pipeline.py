import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    UNet2DConditionModel,
)
from PIL import Image
from stable_diffusion_folders import vae_of

from cmd_lightning.diffusion import Diffusion
from cmd_lightning.diffusion.sampling import per_stage
from cmd_lightning.diffusion.solvers import SOLVERS
from cmd_lightning.errors import InputError, InputWarning
from cmd_lightning.pipeline import GUIDANCE, STEPS, CMDPipeline
from cmd_lightning.pipeline.images import fit_image
from cmd_lightning.zoo.content.dit import ContentDiT

FEW = {"num_inference_steps": {"content": 3, "motion": 4}, "guidance_scale": {"content": 2.0, "motion": 1.5}}
WEIGHTED = ("autoencoder", "unet", "text_encoder", "motion_model", "motion_text_encoder")
CAPTIONS = ["a red circle moves left", "a blue square", "nothing"]


def count_calls(module):
    """The batch sizes of the calls of a network, from now on."""
    sizes = []
    module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def test_parts_have_the_names_of_stable_diffusion(tiny_pipeline, tmp_path):
    names = {
        *("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
        *("autoencoder", "motion_model", "motion_scheduler", "motion_text_encoder"),
    }
    guides = {"controlnet", "image_encoder", "feature_extractor"}
    names |= guides
    settings = {"video_shape", "fps", "steps", "guidance", "averaged_weights"}
    pipeline = tiny_pipeline()
    assert set(pipeline.components) == names
    assert set(inspect.signature(CMDPipeline.__init__).parameters) == {"self"} | settings | names
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert {key for key in index if not key.startswith("_")} == settings | names
    assert {folder.name for folder in tmp_path.iterdir() if folder.is_dir()} == names - guides - {"vae", "tokenizer"}
    assert not [file for file in tmp_path.rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]


def test_video_has_the_models_shape_and_belongs_to_its_seed(tiny_pipeline):
    pipeline = tiny_pipeline()
    together = pipeline(CAPTIONS, seeds=[5, 6, 7], **FEW, output_type="np")
    assert together.frames.shape == (3, 5, 8, 12, 3)
    assert together.content.shape == (3, 3, 8, 12)
    assert together.seeds == [5, 6, 7]
    again = pipeline(CAPTIONS, seeds=[5, 6, 7], **FEW, output_type="np")
    assert np.array_equal(again.frames, together.frames)
    for i, seed in enumerate((5, 6, 7)):
        alone = pipeline(CAPTIONS[i], seeds=[seed], **FEW, output_type="np")
        np.testing.assert_allclose(alone.frames[0], together.frames[i], atol=1e-3)
    turned = pipeline(CAPTIONS[::-1], seeds=[7, 6, 5], **FEW, output_type="np")
    np.testing.assert_allclose(turned.frames[::-1], together.frames, atol=1e-3)


def test_seed_and_caption_both_matter(tiny_pipeline):
    pipeline = tiny_pipeline()
    first = pipeline(CAPTIONS[0], seeds=[5], **FEW, output_type="np")
    other_seed = pipeline(CAPTIONS[0], seeds=[6], **FEW, output_type="np")
    other_caption = pipeline(CAPTIONS[1], seeds=[5], **FEW, output_type="np")
    assert abs(other_seed.frames - first.frames).max() > 0.05
    assert abs(other_caption.content - first.content).max() > 1e-3
    motions = [
        pipeline.generate_motion(first.content, [caption], [5], 3, 1.5) for caption in (CAPTIONS[0], CAPTIONS[1])
    ]
    assert (motions[0] - motions[1]).abs().max() > 1e-3


def test_motion_is_sampled_normalised_and_follows_the_content(tiny_pipeline):
    pipeline = tiny_pipeline(None)
    content = torch.randn(2, 3, 8, 12)
    motion = pipeline.generate_motion(content, 2, [5, 6], 3, 1.0)
    assert motion.shape == (2, 3, 5, 10)
    mean, std = pipeline.autoencoder.motion_mean, pipeline.autoencoder.motion_std
    pipeline.autoencoder.motion_mean, pipeline.autoencoder.motion_std = torch.zeros(3), torch.ones(3)
    normal = pipeline.generate_motion(content, 2, [5, 6], 3, 1.0)
    torch.testing.assert_close(motion, normal * std.view(3, 1, 1) + mean.view(3, 1, 1))
    other = pipeline.generate_motion(content + 1, 2, [5, 6], 3, 1.0)
    assert (other - normal).abs().max() > 1e-3


def test_steps_and_guidance_are_set_by_stage(tiny_pipeline):
    pipeline = tiny_pipeline()
    content, motion = count_calls(pipeline.unet), count_calls(pipeline.motion_model)
    for steps, guidance, expected in (
        ({"content": 3, "motion": 5}, {"content": 2.0, "motion": 1.0}, ([2] * 3, [1] * 5)),
        ({"content": 3, "motion": 5}, {"content": 1.0, "motion": 3.0}, ([1] * 3, [2] * 5)),
        (4, 1.0, ([1] * 4, [1] * 4)),
        (4, 2.0, ([2] * 4, [2] * 4)),
    ):
        content.clear()
        motion.clear()
        pipeline(CAPTIONS[0], seeds=[5], num_inference_steps=steps, guidance_scale=guidance)
        assert (content, motion) == expected


def test_defaults_are_the_papers_steps_and_the_authors_guidance():
    assert per_stage(None, STEPS, "steps") == {"content": 50, "motion": 100}
    assert per_stage({"motion": 7}, STEPS, "steps") == {"content": 50, "motion": 7}
    assert per_stage(None, GUIDANCE, "guidance") == {"content": 4.0, "motion": 1.0}
    assert per_stage(2.5, GUIDANCE, "guidance") == {"content": 2.5, "motion": 2.5}


def test_a_model_has_defaults_of_its_own(tiny_pipeline, tmp_path):
    tiny_pipeline(steps={"motion": 3}, guidance={"content": 2.5}).save_pretrained(tmp_path)
    pipeline = CMDPipeline.from_pretrained(tmp_path)
    assert pipeline.sampling("content") == (50, 2.5)
    assert pipeline.sampling("motion") == (3, 1.0)
    assert pipeline.sampling("motion", {"motion": 7}, 3.0) == (7, 3.0)


@pytest.mark.parametrize("option", ["num_inference_steps", "guidance_scale"])
def test_an_unknown_stage_is_reported(tiny_pipeline, option):
    with pytest.raises(InputError, match=r"no stage 'contents'; the stages are content, motion"):
        tiny_pipeline(None)(seeds=[5], **{option: {"contents": 3}})


@pytest.mark.parametrize("steps", [0, -3, 1001, {"motion": 0}])
def test_impossible_steps_are_reported(tiny_pipeline, steps):
    with pytest.raises(InputError, match="takes 1 to 1000"):
        tiny_pipeline(None)(seeds=[5], num_inference_steps=steps)


def test_unconditional_model_takes_a_count(tiny_pipeline):
    pipeline = tiny_pipeline(None)
    content = count_calls(pipeline.unet)
    output = pipeline(num_videos_per_prompt=3, seeds=[1, 2, 3], **FEW, output_type="pt")
    assert output.frames.shape == (3, 5, 3, 8, 12)
    assert content == [3] * 3  # no second half without a condition


def test_model_of_classes(tiny_pipeline):
    pipeline = tiny_pipeline("label")
    output = pipeline(class_labels=[0, 3], num_videos_per_prompt=2, seeds=[1, 2, 3, 4], **FEW)
    assert len(output.frames) == 4
    alone = pipeline(class_labels=3, seeds=[3], **FEW)
    torch.testing.assert_close(alone.content[0], output.content[2], atol=1e-4, rtol=1e-3)
    with pytest.raises(InputError, match="class 4: the model knows classes 0 to 3"):
        pipeline(class_labels=4, **FEW)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (
            "label",
            {"prompt": "a red circle"},
            r"on labels: give class ids \(`class_labels`\), not a caption",
        ),
        ("caption", {"class_labels": [1]}, r"conditioned on captions: give a prompt \(`prompt`\), not a label"),
        ("caption", {}, r"conditioned on captions: give a prompt \(`prompt`\)$"),
        ("label", {"prompt": "a", "class_labels": 1}, "give one of the two"),
        ("caption", {"prompt": "a", "seeds": [1, 2]}, "2 given for 1 videos"),
        ("caption", {"prompt": "a", "output_type": "mp4"}, "choose pil, np, pt, latent"),
    ],
)
def test_what_does_not_fit_is_reported(tiny_pipeline, kind, given, message):
    with pytest.raises(InputError, match=message):
        tiny_pipeline(kind)(**FEW | given)


def test_an_image_is_its_own_content_frame(tiny_pipeline):
    pipeline = tiny_pipeline(unet=None, scheduler=None, text_encoder=None)
    arrays = torch.rand(2, 3, 8, 12)
    output = pipeline(CAPTIONS[:2], image=arrays, num_videos_per_prompt=2, seeds=[1, 2, 3, 4], **FEW)
    torch.testing.assert_close(output.content, arrays[[0, 0, 1, 1]] * 2 - 1, atol=1e-5, rtol=0)
    alone = pipeline(CAPTIONS[1], image=arrays[1:], seeds=[3], **FEW, output_type="np")
    whole = pipeline(CAPTIONS[:2], image=arrays, num_videos_per_prompt=2, seeds=[1, 2, 3, 4], **FEW, output_type="np")
    np.testing.assert_allclose(alone.frames[0], whole.frames[2], atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 1, 8, 12), (8, 12), (0, 3, 8, 12), (1, 3, 0, 12)])
def test_images_that_do_not_fit_are_reported(tiny_pipeline, shape):
    with pytest.raises(InputError, match="image"):
        tiny_pipeline()(CAPTIONS[0], image=torch.zeros(shape), **FEW)


@pytest.mark.parametrize("shape", [(16, 24), (9, 12), (8, 40), (33, 50), (3, 5)])
def test_images_of_another_size_are_resized_and_reported(shape):
    """Against Pillow, which resizes bytes with the same filter."""
    height, width = shape
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    whole = (12 * width * 8 // (12 * height), 8) if 8 * width >= 12 * height else (12, height * 12 // width)
    left, top = (whole[0] - 12) / 2, (whole[1] - 8) / 2
    resized = image.resize(whole, Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((round(left), round(top), round(left) + 12, round(top) + 8)))
    fitted, notes = fit_image(torch.from_numpy(np.array(image)).permute(2, 0, 1), (8, 12))
    assert fitted.shape == (3, 8, 12)
    np.testing.assert_allclose(fitted.permute(1, 2, 0) * 255, expected, atol=1)
    assert notes == [f"image of {width}x{height} pixels: resized and cropped to the model's 12x8"]


def test_images_of_several_sizes(tiny_pipeline):
    pipeline = tiny_pipeline()
    images = [torch.rand(3, 8, 12), torch.rand(3, 16, 24)]
    with pytest.warns(InputWarning, match="image of 24x16 pixels: resized and cropped to the model's 12x8") as caught:
        output = pipeline(CAPTIONS[:2], image=images, seeds=[1, 2], **FEW)
    assert caught[0].filename == __file__
    assert len(output.frames) == 2
    assert [len(notes) for notes in output.warnings] == [0, 1]
    torch.testing.assert_close(output.content[0], images[0] * 2 - 1, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.content[1], fit_image(images[1], (8, 12))[0] * 2 - 1, atol=1e-5, rtol=0)
    for wrong in (torch.zeros(3, 8, 12, dtype=torch.int64), images[0] - 1, images[0] * 255):
        with pytest.raises(InputError, match=r"`image`: .*give floats in \[0, 1\], or uint8"):
            pipeline(CAPTIONS[0], image=wrong, **FEW)


def test_seeds_come_from_the_generator(tiny_pipeline):
    pipeline = tiny_pipeline(None)
    few = {"num_videos_per_prompt": 2, **FEW, "output_type": "pt"}
    first, again = (pipeline(generator=torch.Generator().manual_seed(9), **few) for _ in range(2))
    assert first.seeds == again.seeds
    assert first.seeds[0] != first.seeds[1]
    assert torch.equal(pipeline(seeds=first.seeds, **few).frames, first.frames)


def test_folder_gives_the_same_frames_in_a_fresh_process(python, tiny_pipeline, tmp_path):
    """Bit-exact for batches; for a single vector, the last bit of a product depends on memory addresses."""
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    frames = pipeline(CAPTIONS, seeds=[5, 6, 7], **FEW, output_type="np").frames
    script = f"""
import numpy, torch
from cmd_lightning.pipeline import CMDPipeline
torch.set_num_threads({torch.get_num_threads()})
pipeline = CMDPipeline.from_pretrained({str(tmp_path / "model")!r})
assert (pipeline.config.video_shape, pipeline.config.fps) == ([3, 5, 8, 12], 7.0)
assert not any(part.training for part in pipeline.components.values() if isinstance(part, torch.nn.Module))
output = pipeline({CAPTIONS!r}, seeds=[5, 6, 7], **{FEW!r}, output_type="np")
numpy.save({str(tmp_path / "frames.npy")!r}, output.frames)
"""
    python.run("-c", script, cwd=tmp_path).check_returncode()
    assert np.array_equal(np.load(tmp_path / "frames.npy"), frames)


def test_unet_of_the_folder_opens_with_diffusers(tiny_pipeline, tmp_path):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert type(unet) is UNet2DConditionModel
    call = {"sample": torch.randn(2, 3, 8, 12), "timestep": 7, "encoder_hidden_states": torch.randn(2, 4, 16)}
    assert torch.equal(unet(**call).sample, pipeline.unet(**call).sample)


def test_another_scheduler_can_be_put_in(tiny_pipeline, tmp_path):
    pipeline = tiny_pipeline(None)
    pipeline.save_pretrained(tmp_path)
    scheduler = DPMSolverMultistepScheduler.from_config(pipeline.motion_scheduler.config)
    swapped = CMDPipeline.from_pretrained(tmp_path, motion_scheduler=scheduler)
    swapped.set_progress_bar_config(disable=True)
    assert swapped.motion_scheduler is scheduler
    before, after = (p(seeds=[1], **FEW, output_type="np") for p in (pipeline, swapped))
    torch.testing.assert_close(before.content, after.content, atol=1e-3, rtol=0)
    assert abs(before.frames - after.frames).max() > 1e-4


THIRD_PARTY = """
from pathlib import Path

Path(__file__).with_name("imported").touch()

from torch import nn

from cmd_lightning.networks import MotionModel


class Drift(MotionModel):
    def __init__(self, latent_spec, condition_dim, width=4):
        super().__init__()
        self.layer = nn.Conv2d(latent_spec.motion[0], latent_spec.motion[0], 1)

    def forward(self, motion, timestep, content, condition):
        return self.layer(motion)
"""


@pytest.mark.parametrize("module", ["drift_model", "drift_model.parts", "drift_model.dit.parts"])
def test_a_third_party_motion_model_opens_once_it_is_imported(tiny_pipeline, tmp_path, monkeypatch, module):
    """Also one of a package that is called like a pipeline of diffusers."""
    file = tmp_path / f"{module.replace('.', '/')}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(THIRD_PARTY)
    imported = file.with_name("imported")
    monkeypatch.syspath_prepend(tmp_path)
    drift_model = importlib.import_module(module)

    try:
        spec = tiny_pipeline(None).autoencoder.latent_spec((3, 5, 8, 12))
        pipeline = tiny_pipeline(None, motion_model=drift_model.Drift(spec, 0))
        pipeline.save_pretrained(tmp_path / "model")
        del sys.modules[module]
        imported.unlink()
        with pytest.raises(InputError, match=rf"{re.escape(module)}\.Drift.*import {re.escape(module)}`") as error:
            CMDPipeline.from_pretrained(tmp_path / "model")
        assert "\n" not in str(error.value)
        assert not imported.exists()

        drift_model = importlib.import_module(module)
        again = CMDPipeline.from_pretrained(tmp_path / "model")
        assert type(again.motion_model) is drift_model.Drift
        again.set_progress_bar_config(disable=True)
        assert torch.equal(
            again(seeds=[5], **FEW, output_type="pt").frames, pipeline(seeds=[5], **FEW, output_type="pt").frames
        )
        again.save_pretrained(tmp_path / "again")
        assert json.loads((tmp_path / "again/model_index.json").read_text())["motion_model"] == [module, "Drift"]
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "drift_model"]:
            del sys.modules[name]


def test_folders_that_are_no_model_are_reported(tmp_path):
    with pytest.raises(InputError, match=r"no model_index\.json"):
        CMDPipeline.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(InputError, match="this is a StableDiffusionPipeline, not a CMDPipeline"):
        CMDPipeline.from_pretrained(Path(tmp_path))


def tiny_image_autoencoder(seed, kind=AutoencoderTiny, channels=3):
    """A stand-in for a VAE with 8 pixels per point, or for the tiny one made for its latents."""
    if kind is AutoencoderKL:
        return vae_of(seed, latent_channels=channels).eval()
    torch.manual_seed(seed)
    return AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
        latent_channels=channels,
    ).eval()


def test_texts_are_encoded_and_content_is_prepared_once(tiny_pipeline):
    pipeline = tiny_pipeline()
    encodings = {name: count_calls(getattr(pipeline, name)) for name in ("text_encoder", "motion_text_encoder")}
    prepare, prepared = pipeline.motion_model.prepare, []
    pipeline.motion_model.prepare = lambda content: prepared.append(len(content)) or prepare(content)
    for guidance, expected in (({"content": 2.0, "motion": 3.0}, ([2, 1], [2, 1], [4])), (1.0, ([2], [2], [2]))):
        pipeline(CAPTIONS[:2], seeds=[5, 6], num_inference_steps=4, guidance_scale=guidance)
        assert (*encodings.values(), prepared) == expected  # captions, and the empty one only for guidance
        for calls in (*encodings.values(), prepared):
            calls.clear()


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc"])
def test_a_solver_by_its_name(tiny_pipeline, name):
    pipeline, by_hand = tiny_pipeline(), tiny_pipeline()
    for part in WEIGHTED:
        getattr(by_hand, part).load_state_dict(getattr(pipeline, part).state_dict())
    pipeline.use_solver(name)
    by_hand.scheduler = SOLVERS[name].from_config(
        pipeline.scheduler.config, **{} if name == "ddim" else {"thresholding": True}
    )
    by_hand.motion_scheduler = SOLVERS[name].from_config(pipeline.motion_scheduler.config)
    assert type(pipeline.motion_scheduler) is SOLVERS[name]
    expected = by_hand(CAPTIONS[:2], seeds=[5, 6], **FEW, output_type="pt").frames
    assert torch.equal(pipeline(CAPTIONS[:2], seeds=[5, 6], **FEW, output_type="pt").frames, expected)


def test_a_solver_for_one_stage(tiny_pipeline):
    pipeline = tiny_pipeline()
    motion = pipeline.motion_scheduler
    pipeline.use_solver({"content": "lcm"})
    assert type(pipeline.scheduler) is LCMScheduler and pipeline.motion_scheduler is motion
    before = pipeline.scheduler
    with pytest.raises(InputError, match="no stage 'unet'; the stages are content, motion"):
        pipeline.use_solver({"unet": "lcm"})
    with pytest.raises(InputError, match="solver heun: choose"):
        pipeline.use_solver({"content": "ddim", "motion": "heun"})
    assert pipeline.scheduler is before  # nothing is half done


def test_a_solver_for_a_pipeline_without_content_parts(tiny_pipeline):
    pipeline = tiny_pipeline(None, unet=None, scheduler=None)
    pipeline.use_solver("dpm++")
    assert pipeline.scheduler is None
    assert len(pipeline(image=torch.zeros(1, 3, 8, 12), seeds=[3], **FEW).frames) == 1


@pytest.mark.parametrize(("model", "solver"), [("shapes32", None), ("shapes32paper", "dpm++")])
def test_half_precision_makes_nearly_the_same_videos(model, solver):
    """Shipped models; the state of the solver stays in float32."""
    videos = {}
    for dtype in (torch.float32, torch.bfloat16):
        pipeline = CMDPipeline.from_pretrained(model, dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        if solver:
            pipeline.use_solver(solver)
        dtypes = {part.dtype for part in pipeline.components.values() if isinstance(part, torch.nn.Module)}
        assert dtypes == {dtype}
        prompts = ["a red circle moves left", "a blue square moves up"]
        output = pipeline(prompts, seeds=[3, 4], num_inference_steps=6, output_type="pt")
        videos[dtype] = output.frames
        assert output.content.dtype == torch.float32
    error = (videos[torch.bfloat16] - videos[torch.float32]).square().mean()
    assert -10 * torch.log10(error) > 40  # 46 here


@pytest.mark.slow
def test_compiled_networks_make_the_same_video_and_are_compiled_once(tiny_pipeline, wake):
    """In one graph each, which a GPU replays at every step: timesteps, solvers' states and seeds are no constants."""
    pipeline = tiny_pipeline("caption", vae=tiny_image_autoencoder(3))
    spec = pipeline.autoencoder.latent_spec(tuple(pipeline.config.video_shape))
    pipeline.unet = wake(ContentDiT(spec, 16, width=16, depth=1, heads=2))  # which traces faster than a U-Net
    pipeline.use_solver("dpm++")
    expected = [pipeline(CAPTIONS[:2], seeds=seeds, **FEW, output_type="pt").frames for seeds in ([5, 6], [7, 8])]
    calls = []

    def backend(graph, _):
        calls.append(graph)
        return graph.forward

    pipeline.compile_networks(backend=backend, fullgraph=True)
    first = pipeline(CAPTIONS[:2], seeds=[5, 6], **FEW, output_type="pt").frames
    compiled = len(calls)
    assert compiled >= 4  # both denoisers, the autoencoder's blocks, the frame decoder
    with torch._dynamo.config.patch(error_on_recompile=True):
        second = pipeline(CAPTIONS[:2], seeds=[7, 8], **FEW, output_type="pt").frames
    assert len(calls) == compiled
    for video, wanted in zip((first, second), expected, strict=True):
        torch.testing.assert_close(video, wanted, atol=1 / 255, rtol=0)


def test_predictions_that_are_overwritten_do_no_harm(tiny_pipeline):
    """As CUDA graphs do, which write the output of each step to one place."""
    pipeline = tiny_pipeline(
        scheduler=Diffusion("sample").scheduler(), motion_scheduler=Diffusion("sample").scheduler()
    )
    pipeline.use_solver("unipc")
    few = {"num_inference_steps": 5, "guidance_scale": 1.0}
    expected = pipeline(CAPTIONS[0], seeds=[5], **few, output_type="pt").frames
    for network in (pipeline.unet, pipeline.motion_model):
        places, forward = [], network.forward

        def replay(*given, places=places, forward=forward, **named):
            out = forward(*given, **named)
            new = out[0] if isinstance(out, tuple) else out
            places[:] = places or [torch.empty_like(new)]
            places[0].copy_(new)
            return (places[0],) if isinstance(out, tuple) else places[0]

        network.forward = replay
    assert torch.equal(pipeline(CAPTIONS[0], seeds=[5], **few, output_type="pt").frames, expected)


def test_another_frame_decoder_decodes_but_does_not_encode(tiny_pipeline):
    pipeline = tiny_pipeline(vae=tiny_image_autoencoder(3, AutoencoderKL))
    arrays = torch.rand(1, 3, 64, 96)
    own = pipeline(CAPTIONS[0], image=arrays, seeds=[5], **FEW, output_type="pt")
    assert own.frames.shape == (1, 5, 3, 64, 96)
    tiny = tiny_image_autoencoder(4)
    pipeline.use_frame_decoder(tiny)
    other = pipeline(CAPTIONS[0], image=arrays, seeds=[5], **FEW, output_type="pt")
    assert torch.equal(other.content, own.content)
    motion = pipeline.generate_motion(own.content, CAPTIONS[:1], [5], 4, 1.5)
    latent = pipeline.autoencoder.decode(own.content, motion) / tiny.config.scaling_factor
    frames = torch.stack([tiny.decode(frame).sample for frame in latent.unbind(2)], 1).clamp(-1, 1)
    torch.testing.assert_close((frames + 1) / 2, other.frames, atol=1e-4, rtol=0)
    pipeline.use_frame_decoder(None)
    assert torch.equal(pipeline(CAPTIONS[0], image=arrays, seeds=[5], **FEW, output_type="pt").frames, own.frames)


def test_a_replaced_vae_both_encodes_and_decodes(tiny_pipeline, tmp_path):
    """The way of other pipelines."""
    tiny_pipeline(vae=tiny_image_autoencoder(3, AutoencoderKL)).save_pretrained(tmp_path)
    pipeline = CMDPipeline.from_pretrained(tmp_path, vae=tiny_image_autoencoder(4))
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.latent_space.vae is pipeline.vae
    output = pipeline(CAPTIONS[0], image=torch.zeros(1, 3, 64, 96), seeds=[5], **FEW)
    expected = pipeline.vae.encode(torch.full((5, 3, 64, 96), -1.0)).latents
    still = pipeline.autoencoder.encode(expected.permute(1, 0, 2, 3)[None])[0]
    torch.testing.assert_close(output.content, still, atol=1e-4, rtol=1e-3)


def test_frame_decoders_that_do_not_fit_are_reported(tiny_pipeline):
    with pytest.raises(InputError, match="works in pixels"):
        tiny_pipeline().use_frame_decoder(tiny_image_autoencoder(4))
    pipeline = tiny_pipeline(vae=tiny_image_autoencoder(3, AutoencoderKL))
    with pytest.raises(InputError, match="latents of 4 channels and 8 pixels per point, the model has 3 and 8"):
        pipeline.use_frame_decoder(tiny_image_autoencoder(4, channels=4))
