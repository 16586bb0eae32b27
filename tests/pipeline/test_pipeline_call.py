"""The arguments and outputs of a call, as users of diffusers' video pipelines know them."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback
from diffusers.utils import load_image
from missing import needed
from PIL import Image

from cmd_lightning.errors import InputError, InputWarning
from cmd_lightning.networks import Condition
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.video_io import read_video

README = Path(__file__).resolve().parents[2] / "README.md"
CAPTIONS = ["a red circle moves left", "a blue square"]
NUMPY = {"output_type": "np"}


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_call_has_the_arguments_of_diffusers_video_pipelines():
    names = {
        *("prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale"),
        *("guidance_rescale", "num_videos_per_prompt", "generator", "latents", "prompt_embeds", "image"),
        *("negative_prompt_embeds", "output_type", "return_dict", "attention_kwargs", "callback_on_step_end"),
        "callback_on_step_end_tensor_inputs",
    }
    parameters = inspect.signature(CMDPipeline.__call__).parameters
    assert names <= set(parameters)
    assert parameters["output_type"].default == "pil"


def test_output_types_show_the_same_video(tiny_pipeline, few):
    pipeline = tiny_pipeline(None)
    call = {"num_videos_per_prompt": 2, "seeds": [1, 2], **few}
    images, array, tensor, latent = (pipeline(**call, output_type=kind) for kind in ("pil", "np", "pt", "latent"))
    assert [[image.size for image in video] for video in images.frames] == [[(12, 8)] * 5] * 2
    assert (array.frames.shape, tensor.frames.shape) == ((2, 5, 8, 12, 3), (2, 5, 3, 8, 12))
    assert array.frames.dtype == np.float32
    assert 0 <= array.frames.min() < array.frames.max() <= 1
    np.testing.assert_array_equal(tensor.frames.permute(0, 1, 3, 4, 2), array.frames)
    np.testing.assert_allclose(np.stack(images.frames[1]), array.frames[1] * 255, atol=0.501)
    assert latent.frames.shape == (2, *pipeline.latent_spec.motion)
    decoded = pipeline.decode(latent.content, latent.frames)
    np.testing.assert_allclose((decoded.permute(0, 2, 3, 4, 1) + 1) / 2, array.frames, atol=1e-6)
    assert pipeline(**call).frames[0][0] == images.frames[0][0]
    frames, content, seeds, notes = pipeline(**call, **NUMPY, return_dict=False)
    np.testing.assert_array_equal(frames, array.frames)
    assert (content.shape, seeds, notes) == ((2, 3, 8, 12), [1, 2], [[], []])


def test_the_readmes_example(tmp_path, monkeypatch):
    """The block itself, with the shipped model, whose frames are 32 pixels wide; but for the number of steps."""
    needed("imageio_ffmpeg")
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    [example] = [block for block in blocks if 'export_to_video(pipeline("a red circle moves left").frames[0]' in block]
    monkeypatch.chdir(tmp_path)
    exec(example.replace('moves left")', 'moves left", num_inference_steps=2)'), {})
    assert read_video(tmp_path / "out.mp4").shape == (3, 16, 32, 32)


def test_a_video_of_a_batch_is_that_of_a_single_call(captioned, few):
    pipeline = captioned()
    both = pipeline(CAPTIONS, generator=[generator(5), generator(6)], **few, **NUMPY).frames
    for i, seed in enumerate((5, 6)):
        alone = pipeline(CAPTIONS[i], generator=generator(seed), **few, **NUMPY).frames
        np.testing.assert_allclose(alone[0], both[i], atol=1e-3)
    several = pipeline(CAPTIONS, num_videos_per_prompt=2, generator=generator(5), **few, **NUMPY)
    assert several.frames.shape[0] == len(set(several.seeds)) == 4
    again = pipeline([CAPTIONS[0], *CAPTIONS[:1]], seeds=several.seeds[:2], **few, **NUMPY).frames
    np.testing.assert_allclose(again, several.frames[:2], atol=1e-3)


@pytest.mark.gpu
def test_a_generator_may_be_on_the_gpu(tiny_pipeline, few):
    on_gpu = torch.Generator("cuda").manual_seed(5)
    first, again = (tiny_pipeline(None)(generator=g, **few).seeds for g in (on_gpu, on_gpu.manual_seed(5)))
    assert first == again


def test_a_negative_prompt_takes_the_place_of_the_empty_caption(captioned, few):
    pipeline = captioned()
    plain = pipeline(CAPTIONS, seeds=[5, 6], **few, **NUMPY).frames
    empty = pipeline(CAPTIONS, negative_prompt="", seeds=[5, 6], **few, **NUMPY).frames
    np.testing.assert_allclose(empty, plain, atol=1e-4)
    found = pipeline(CAPTIONS, negative_prompt=["a green star", "left"], seeds=[5, 6], **few, **NUMPY).frames
    assert abs(found - plain).max() > 1e-3
    for encoder in (pipeline.text_encoder, pipeline.motion_text_encoder):
        encoder.null = lambda count, encoder=encoder: encoder(["a green star", "left"])
    np.testing.assert_allclose(pipeline(CAPTIONS, seeds=[5, 6], **few, **NUMPY).frames, found, atol=1e-4)


@pytest.mark.parametrize("scale", [1, 0, 0.0, -1.0])
def test_a_scale_of_one_or_less_disables_guidance(captioned, scale):
    """The prompt counts, the negative prompt does not."""
    pipeline = captioned()
    call = {"seeds": [5], "num_inference_steps": 2, **NUMPY}
    with pytest.warns(InputWarning, match="guidance is disabled"):
        found = pipeline(CAPTIONS[0], negative_prompt="left", guidance_scale=scale, **call).frames
    np.testing.assert_array_equal(found, pipeline(CAPTIONS[0], guidance_scale=1.0, **call).frames)
    assert abs(found - pipeline(CAPTIONS[1], guidance_scale=scale, **call).frames).max() > 1e-3
    assert not pipeline.do_classifier_free_guidance


def test_guidance_is_rescaled_in_both_stages(captioned, few):
    pipeline = captioned()
    plain, rescaled = (pipeline(CAPTIONS[0], seeds=[5], guidance_rescale=r, **few) for r in (0.0, 0.7))
    assert (plain.content - rescaled.content).abs().max() > 1e-4
    assert pipeline.guidance_rescale == 0.7


def test_callbacks_see_the_tensors_that_they_ask_for(captioned, few):
    pipeline, seen = captioned(), []

    def callback(given, step, timestep, tensors):
        assert given is pipeline
        assert int(given.current_timestep) == int(timestep)
        seen.append((given.stage, step, given.num_timesteps, given.guidance_scale, sorted(tensors)))
        assert tensors["latents"].shape == (1, *getattr(pipeline.latent_spec, given.stage))
        assert isinstance(tensors["prompt_embeds"], Condition)
        return {}

    names = pipeline._callback_tensor_inputs
    plain = pipeline(CAPTIONS[0], seeds=[5], **few, **NUMPY).frames
    found = pipeline(
        CAPTIONS[0], seeds=[5], callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names, **few, **NUMPY
    ).frames
    np.testing.assert_array_equal(found, plain)
    assert [entry[:4] for entry in seen] == [
        *(("content", step, 2, 2.0) for step in range(2)),
        *(("motion", step, 3, 1.5) for step in range(3)),
    ]
    assert {tuple(entry[4]) for entry in seen} == {tuple(sorted(names))}
    pipeline(CAPTIONS[0], seeds=[5], callback_on_step_end=lambda *given: seen.append(given[3]) or {}, **few)
    assert list(seen[-1]) == ["latents"]
    assert pipeline.current_timestep is None


def test_callbacks_change_latents_conditions_and_scale(captioned, few):
    pipeline = captioned()

    def zero_at_the_end(given, step, timestep, tensors):
        return {"latents": tensors["latents"] * 0} if step == given.num_timesteps - 1 else tensors

    output = pipeline(CAPTIONS[0], callback_on_step_end=zero_at_the_end, **few, output_type="latent")
    assert not output.content.any()
    mean = pipeline.autoencoder.motion_mean.view(1, -1, 1, 1)
    torch.testing.assert_close(output.frames, mean.expand_as(output.frames))

    def stronger(given, step, timestep, tensors):
        given._guidance_scale += 1
        return tensors

    pipeline(CAPTIONS[0], callback_on_step_end=stronger, num_inference_steps=3, guidance_scale=2.0)
    assert pipeline.guidance_scale == 2.0 + pipeline.num_timesteps

    def no_prompt(given, step, timestep, tensors):
        return {"prompt_embeds": tensors["prompt_embeds"].map(torch.zeros_like)}

    names = {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    first, second = (
        pipeline(caption, seeds=[5], callback_on_step_end=no_prompt, **names, num_inference_steps=1, guidance_scale=1.0)
        for caption in CAPTIONS
    )
    assert (first.content - second.content).abs().max() > 1e-4  # the only step came before


def test_diffusers_own_callback_switches_guidance_off(captioned):
    pipeline, sizes = captioned(), []
    pipeline.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    for callback in (cutoff, MultiPipelineCallbacks([cutoff])):
        sizes.clear()
        pipeline(CAPTIONS[0], callback_on_step_end=callback, num_inference_steps=4, guidance_scale=3.0)
        assert sizes == [2, 2, 1, 1]


@pytest.mark.parametrize("stage", ["content", "motion"])
def test_an_interrupted_call_ends_after_its_step(captioned, few, stage):
    pipeline, seen = captioned(), []

    def stop(given, step, timestep, tensors):
        seen.append((given.stage, tensors["latents"]))
        given._interrupt = given.stage == stage and step == 1
        return tensors

    output = pipeline(CAPTIONS[0], seeds=[5], callback_on_step_end=stop, **few, output_type="latent")
    assert pipeline.interrupt
    assert [name for name, _ in seen] == ["content", "content"] + ["motion"] * (2 if stage == "motion" else 0)
    mean, std = (x.view(1, -1, 1, 1) for x in (pipeline.autoencoder.motion_mean, pipeline.autoencoder.motion_std))
    latent = seen[-1][1] * std + mean if stage == "motion" else mean.expand_as(output.frames)
    torch.testing.assert_close(output.frames, latent)
    assert pipeline(CAPTIONS[0], seeds=[5], **few).frames  # the next call runs to its end
    assert not pipeline.interrupt


def test_given_latents_take_the_place_of_the_seeds_noise(tiny_pipeline, few):
    pipeline = tiny_pipeline(None)
    plain = pipeline(seeds=[5], **few, **NUMPY)
    noise = {
        stage: torch.randn(1, *getattr(pipeline.latent_spec, stage), generator=generator(2 * 5 + i))
        for i, stage in enumerate(("content", "motion"))
    }
    for latents in (noise, noise["content"], {"motion": noise["motion"]}):
        np.testing.assert_allclose(pipeline(seeds=[5], latents=latents, **few, **NUMPY).frames, plain.frames, atol=1e-5)
    np.testing.assert_allclose(pipeline(seeds=[6], latents=noise, **few, **NUMPY).frames, plain.frames, atol=1e-5)
    other = pipeline(seeds=[5], latents=-noise["content"], **few, **NUMPY)
    assert (other.content - plain.content).abs().max() > 1e-2


def test_given_content_is_set_in_motion(captioned, few):
    pipeline = captioned()
    plain = pipeline(CAPTIONS, seeds=[5, 6], **few, **NUMPY)
    pipeline.unet = None
    found = pipeline(CAPTIONS, content=plain.content, seeds=[5, 6], **few, **NUMPY)
    np.testing.assert_allclose(found.frames, plain.frames, atol=1e-4)


def test_prompts_are_encoded_apart(captioned, few):
    """Encoded by a pipeline of the encoders alone, and given to one without any."""
    pipeline = captioned()
    plain = pipeline(CAPTIONS, num_videos_per_prompt=2, seeds=[5, 6, 7, 8], negative_prompt="left", **few, **NUMPY)
    texts = {name: getattr(pipeline, name) for name in ("text_encoder", "motion_text_encoder")}
    own, negative = CMDPipeline(None, **texts).encode_prompt(CAPTIONS, "left")
    rest = {name: part for name, part in pipeline.components.items() if name not in texts}
    without = CMDPipeline(**rest, **pipeline.parameters)
    without.set_progress_bar_config(disable=True)
    call = {"prompt_embeds": own, "negative_prompt_embeds": negative, "num_videos_per_prompt": 2, **few}
    found = without(**call, seeds=[5, 6, 7, 8], **NUMPY).frames
    np.testing.assert_allclose(found, plain.frames, atol=1e-4)
    with pytest.raises(InputError, match="`negative_prompt_embeds`: guidance of the content model needs them"):
        without(prompt_embeds=own, **few)
    # For one stage alone, and in the place of the captions it gets.
    mixed = pipeline(CAPTIONS, prompt_embeds={"motion": own["motion"]}, seeds=[5, 6], **few, **NUMPY).frames
    np.testing.assert_allclose(mixed, pipeline(CAPTIONS, seeds=[5, 6], **few, **NUMPY).frames, atol=1e-4)


def test_tokens_alone_are_encoded_prompts(stable_pipeline, few):
    """As tools for Stable Diffusion weight them."""
    ids = stable_pipeline.tokenizer(CAPTIONS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    tokens = stable_pipeline.text_encoder(ids).last_hidden_state.detach()
    plain = stable_pipeline(CAPTIONS, seeds=[5, 6], **few)
    found = stable_pipeline(CAPTIONS, prompt_embeds={"content": tokens}, seeds=[5, 6], **few)
    torch.testing.assert_close(found.content, plain.content, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="20 channels, the content model takes 16; give each stage its own"):
        stable_pipeline(prompt_embeds=torch.zeros(2, 12, 20), **few)


def test_images_of_all_kinds_are_the_same(captioned, few, tmp_path, monkeypatch):
    pipeline = captioned()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    image, path = Image.fromarray(pixels), tmp_path / "image.png"
    image.save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    monkeypatch.setattr("diffusers.utils.load_image", lambda url: load_image(url.replace("https:/", str(tmp_path))))
    kinds = [image, path, str(path), "https://image.png", pixels, pixels / 255, tensor, tensor / 255]
    expected = tensor[None].float() / 127.5 - 1
    for given in (*kinds, [image], pixels[None], tensor[None]):
        found = pipeline(CAPTIONS[0], image=given, seeds=[5], **few).content
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    several = pipeline(CAPTIONS[:1] * 8, image=kinds, seeds=[5] * 8, **few).content
    torch.testing.assert_close(several, expected.expand(8, -1, -1, -1), atol=1e-5, rtol=0)


def test_images_are_as_they_are_shown(captioned, few):
    """Turned as their EXIF data say, and on white where they are transparent."""
    turned = Image.fromarray(np.tile(np.uint8([[[255, 0, 0]], [[0, 0, 255]]]), (6, 8, 1)).reshape(12, 8, 3))
    turned.getexif()[0x0112] = 6  # to be shown a quarter turn clockwise
    clear = Image.new("RGBA", (12, 8), (0, 0, 0, 0))
    output = captioned()(CAPTIONS, image=[turned, clear], seeds=[5, 6], **few)
    assert not any(output.warnings)
    shown = np.asarray(turned.rotate(-90, expand=True)) / 127.5 - 1
    torch.testing.assert_close(output.content[0].permute(1, 2, 0).double(), torch.tensor(shown), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.content[1], torch.ones(3, 8, 12), atol=1e-5, rtol=0)


def test_progress_bars_name_their_stage_and_count_steps(tiny_pipeline, few, capsys):
    from diffusers import HeunDiscreteScheduler

    pipeline = tiny_pipeline(None)
    pipeline.set_progress_bar_config(disable=False)
    pipeline.motion_scheduler = HeunDiscreteScheduler.from_config(pipeline.motion_scheduler.config)
    pipeline(**few)
    text = capsys.readouterr().err
    assert "content: 100%" in text
    assert "2/2" in text
    assert "3/3" in text  # of second order: two timesteps to a step
    assert "5/3" not in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": []}, "the list of prompts, classes or images is empty"),
        ({"prompt": "a", "num_videos_per_prompt": 0}, "0 videos"),
        ({"prompt": "a", "image": []}, "`image`: an empty list"),
        ({"prompt": "a", "image": 7}, "`image`: a int; give PIL images"),
        ({"prompt": "a", "image": np.zeros((8, 12))}, r"`image`: an array of shape \(8, 12\)"),
        ({"prompt": "a", "content": torch.zeros(1, 8, 12)}, r"`content`: .* of shape \(count, 3, 8, 12\)"),
        ({"prompt": "a", "height": 16}, "`height` 16: this model generates 8; leave it out"),
        ({"prompt": "a", "width": 16}, "`width` 16: this model generates 12"),
        ({"prompt": "a", "num_frames": 16}, "`num_frames` 16: this model generates 5"),
        ({"prompt": "a", "seeds": [1], "generator": generator(0)}, "`seeds` and `generator`: give one of the two"),
        ({"prompt": "a", "generator": [generator(0)] * 2}, "`generator`: 2 given for 1 videos"),
        ({"prompt": "a", "negative_prompt": ["b", "c"]}, "`negative_prompt`: 2 given for 1 prompts"),
        ({"prompt": "a", "latents": torch.zeros(1, 3, 8, 8)}, r"`latents`: \(1, 3, 8, 8\) for content; give .*8, 12"),
        ({"prompt": "a", "latents": {"sound": torch.zeros(1)}}, "`latents`: no stage 'sound' runs"),
        ({"prompt": "a", "prompt_embeds": torch.zeros(1, 16)}, "`prompt` and `prompt_embeds`: give one of the two"),
        ({"prompt_embeds": {"sound": torch.zeros(1, 16)}}, "`prompt_embeds`: no stage 'sound'"),
        ({"prompt_embeds": torch.zeros(16)}, r"`prompt_embeds`: shape \(16,\); give tokens"),
        (
            {"prompt": "a", "attention_kwargs": {"scale": 1}, "content": torch.zeros(1, 3, 8, 12)},
            "`attention_kwargs`: no",
        ),
        ({"prompt": "a", "callback_on_step_end_tensor_inputs": ["noise"]}, "no tensor 'noise'; there are latents"),
    ],
)
def test_wrong_arguments_are_named(captioned, few, given, message):
    with pytest.raises(InputError, match=message) as error:
        captioned()(**few | given)
    assert "\n" not in str(error.value)


def test_a_model_of_classes_takes_no_negative_prompt(tiny_pipeline, few):
    with pytest.raises(InputError, match="`negative_prompt`: the content model is conditioned on labels"):
        tiny_pipeline("label")(class_labels=[0], negative_prompt="left", **few)


def test_a_size_that_is_the_models_is_no_error(tiny_pipeline, few):
    tiny_pipeline(None)(height=8, width=12, num_frames=5, **few)


def test_a_negative_prompt_without_guidance_is_reported(captioned):
    with pytest.warns(InputWarning, match="negative prompt: guidance is disabled"):
        output = captioned()(CAPTIONS[0], negative_prompt="left", num_inference_steps=1, guidance_scale=1.0)
    assert output.warnings == [["negative prompt: guidance is disabled, so it has no effect"]]
