"""Offloaded weights, other types of data, sliced and tiled frames: the same video with less memory."""

import copy

import accelerate
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

from cmd_lightning.errors import InputError

CAPTIONS = ["a red circle moves left", "a blue square"]


def frames(pipeline, few, **given):
    return pipeline(CAPTIONS, negative_prompt="left", seeds=[5, 6], **few, **given, output_type="np").frames


@pytest.fixture
def cpu_as_gpu(monkeypatch):
    """Lets layers run on the CPU: diffusers names the device "cpu:0", which torch never calls a tensor's."""
    original = accelerate.cpu_offload
    monkeypatch.setattr(accelerate, "cpu_offload", lambda part, device, **kw: original(part, torch.device("cpu"), **kw))


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 48)


def on_meta(part):
    return {tensor.device.type for tensor in part.parameters()} == {"meta"}


@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offloaded_parts_make_the_same_videos_twice(stable_pipeline, cpu_as_gpu, few, image, way):
    """The CPU stands for the GPU: weights are moved, or read when a layer runs, by the same hooks."""
    plain, animated = frames(stable_pipeline, few), frames(stable_pipeline, few, image=image)
    getattr(stable_pipeline, way)(device="cpu")
    if way == "enable_sequential_cpu_offload":
        assert on_meta(stable_pipeline.unet)
        assert on_meta(stable_pipeline.autoencoder)
    for _ in range(2):
        np.testing.assert_allclose(frames(stable_pipeline, few), plain, atol=1e-4)
        np.testing.assert_allclose(frames(stable_pipeline, few, image=image), animated, atol=1e-4)


def test_text_towers_are_offloaded_layer_by_layer(tiny_pipeline, cpu_as_gpu, few):
    """open_clip's, in which torch's attention reads the weights of a layer that it does not call."""
    pipeline = tiny_pipeline("caption")
    plain = frames(pipeline, few)
    pipeline.enable_sequential_cpu_offload(device="cpu")
    assert on_meta(pipeline.text_encoder)
    np.testing.assert_allclose(frames(pipeline, few), plain, atol=1e-4)


def test_classes_are_offloaded_layer_by_layer(tiny_pipeline, cpu_as_gpu, few):
    pipeline = tiny_pipeline("label")
    call = {"class_labels": [0, 3], "seeds": [5, 6], **few, "output_type": "np"}
    plain = pipeline(**call).frames
    pipeline.enable_sequential_cpu_offload(device="cpu")
    np.testing.assert_allclose(pipeline(**call).frames, plain, atol=1e-4)


def test_every_way_into_a_part_loads_its_weights(stable_pipeline, few, image):
    """Model offload moves a part when it is entered: no part runs before its hook did."""
    stable_pipeline.enable_model_cpu_offload(device="cpu")
    ready, entered = set(), []

    def watch(name, part):
        load = part._hf_hook.pre_forward
        part._hf_hook.pre_forward = lambda *args, **kwargs: (ready.add(name), load(*args, **kwargs))[1]
        for layer in part.modules():
            if layer is not part:
                layer.register_forward_pre_hook(lambda *_: entered.append((name, name in ready)))

    for name, part in stable_pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            watch(name, part)
    stable_pipeline.maybe_free_model_hooks = lambda: None
    frames(stable_pipeline, few, image=image)
    assert {name for name, _ in entered} >= {"vae", "autoencoder", "motion_model", "motion_text_encoder"}
    assert all(loaded for _, loaded in entered)


def test_groups_of_layers_are_offloaded(tiny_pipeline, few):
    pipeline = tiny_pipeline("label")
    call = {"class_labels": [0, 3], "seeds": [5, 6], **few, "output_type": "np"}
    plain = pipeline(**call).frames
    pipeline.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    np.testing.assert_allclose(pipeline(**call).frames, plain, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload", "to"])
def test_on_a_gpu(stable_pipeline, few, image, way):
    plain, animated = frames(stable_pipeline, few), frames(stable_pipeline, few, image=image)
    getattr(stable_pipeline, way)(device="cuda")
    for _ in range(2):
        np.testing.assert_allclose(frames(stable_pipeline, few), plain, atol=1e-2)
        np.testing.assert_allclose(frames(stable_pipeline, few, image=image), animated, atol=1e-2)


def test_parts_of_their_own_types(stable_pipeline, few):
    """Each stage computes in the type of its part; latents stay in float32."""
    plain = frames(stable_pipeline, few)
    half = copy.deepcopy(stable_pipeline)
    half.unet.to(torch.bfloat16)
    half.autoencoder.to(torch.bfloat16)
    assert 0 < abs(frames(half, few) - plain).max() < 0.1
    half.to(torch.bfloat16)
    assert {part.dtype for part in half.components.values() if isinstance(part, torch.nn.Module)} == {torch.bfloat16}
    output = half(CAPTIONS, seeds=[5, 6], **few, output_type="latent")
    assert output.content.dtype == torch.float32
    half.to(torch.float32)
    assert half.dtype == torch.float32


def test_weights_in_a_smaller_type_than_they_compute_in(stable_pipeline, few):
    plain = frames(stable_pipeline, few)
    for part in (stable_pipeline.unet, stable_pipeline.motion_model):
        part.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert 0 < abs(frames(stable_pipeline, few) - plain).max() < 0.1


def test_frames_are_decoded_in_slices_and_tiles(stable_pipeline, few):
    plain, sizes = frames(stable_pipeline, few), []
    stable_pipeline.vae.decoder.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape))
    stable_pipeline.enable_vae_slicing()
    np.testing.assert_allclose(frames(stable_pipeline, few), plain, atol=1e-4)
    assert {len(shape) and shape[0] for shape in sizes} == {1}
    stable_pipeline.disable_vae_slicing()
    stable_pipeline.vae.tile_latent_min_size = 4
    stable_pipeline.enable_vae_tiling()
    sizes.clear()
    frames(stable_pipeline, few)
    assert max(shape[-1] for shape in sizes) <= 4
    stable_pipeline.disable_vae_tiling()
    np.testing.assert_allclose(frames(stable_pipeline, few), plain, atol=1e-4)


def test_the_frame_decoder_is_sliced_and_moved_too(stable_pipeline):
    sizes = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    tiny = AutoencoderTiny(**sizes, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4, latent_channels=4)
    stable_pipeline.use_frame_decoder(tiny)
    stable_pipeline.enable_vae_slicing()
    assert tiny.use_slicing
    assert stable_pipeline.to(torch.bfloat16) is stable_pipeline
    assert tiny.dtype == torch.bfloat16


def test_a_model_of_pixels_has_no_vae(tiny_pipeline):
    with pytest.raises(InputError, match="vae: this model works in pixels"):
        tiny_pipeline(None).enable_vae_slicing()


def test_attention_in_slices(stable_pipeline, few):
    plain = frames(stable_pipeline, few)
    stable_pipeline.enable_attention_slicing()
    np.testing.assert_allclose(frames(stable_pipeline, few), plain, atol=1e-3)


def test_a_call_leaves_parts_as_they_are(stable_pipeline, few):
    """Trainable where the user trains them."""
    stable_pipeline.text_encoder.train().requires_grad_(True)
    stable_pipeline.vae.train().requires_grad_(True)
    frames(stable_pipeline, few)
    for part in (stable_pipeline.text_encoder, stable_pipeline.vae):
        assert part.training
        assert all(parameter.requires_grad for parameter in part.parameters())
