"""LoRA adapters: weighted, fused, scaled by a call, and on the text encoder."""

import copy

import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from missing import needed
from safetensors.torch import save_file

CAPTIONS = ["a red circle", "left"]


@pytest.fixture
def lora(stable_pipeline, tmp_path):
    """Writes adapters for the U-Net in the public layout."""
    peft = needed("peft")

    def write(name):
        torch.manual_seed(len(name))
        adapted = copy.deepcopy(stable_pipeline.unet)
        adapted.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
        StableDiffusionPipeline.save_lora_weights(tmp_path / name, peft.get_peft_model_state_dict(adapted))
        return tmp_path / name

    return write


@pytest.fixture
def adapted_text(stable_pipeline):
    """Adds adapters to the text encoder, as `load_lora_weights` does where peft is as new as transformers wants it."""
    peft = needed("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return lambda: peft.inject_adapter_in_model(config, stable_pipeline.text_encoder)


def content(pipeline, few, **given):
    return pipeline(CAPTIONS, seeds=[5, 6], **few, **given, output_type="latent").content


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def distance(a, b):
    return ((a - b) / b.std()).abs().max()


def test_several_weighted_adapters(stable_pipeline, few, lora):
    """A weight of 0 is no adapter, and one alone is as if the other were not there."""
    plain = content(stable_pipeline, few)
    for name in ("one", "second"):
        stable_pipeline.load_lora_weights(lora(name), adapter_name=name)
    found = {}
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.5, 0.5)):
        stable_pipeline.set_adapters(["one", "second"], list(weights))
        found[weights] = content(stable_pipeline, few)
    assert_same(found[0.0, 0.0], plain)
    alone = found[1.0, 0.0], found[0.0, 1.0], found[0.5, 0.5], plain
    assert all(distance(a, b) > 0.01 for i, a in enumerate(alone) for b in alone[:i])
    stable_pipeline.set_adapters("one")
    assert_same(content(stable_pipeline, few), found[1.0, 0.0])
    stable_pipeline.unload_lora_weights()
    assert_same(content(stable_pipeline, few), plain)


def test_fused_adapters_are_the_same_and_can_be_unfused(stable_pipeline, few, lora):
    plain = content(stable_pipeline, few)
    stable_pipeline.load_lora_weights(lora("one"))
    adapted = content(stable_pipeline, few)
    assert distance(adapted, plain) > 0.01
    stable_pipeline.fuse_lora(components=["unet"])
    assert_same(content(stable_pipeline, few), adapted)
    stable_pipeline.unfuse_lora(components=["unet"])
    stable_pipeline.unload_lora_weights()
    assert_same(content(stable_pipeline, few), plain)


def test_a_call_scales_its_adapters(stable_pipeline, few, lora, adapted_text):
    """Those of the U-Net and of the text encoder."""
    plain = content(stable_pipeline, few)
    stable_pipeline.load_lora_weights(lora("one"))
    without_text = content(stable_pipeline, few)
    adapted_text()
    whole = content(stable_pipeline, few)
    assert min(distance(whole, without_text), distance(whole, plain)) > 0.01
    assert_same(content(stable_pipeline, few, attention_kwargs={"scale": 0.0}), plain)
    half = content(stable_pipeline, few, attention_kwargs={"scale": 0.5})
    assert min(distance(half, plain), distance(half, whole)) > 0.005
    assert_same(content(stable_pipeline, few), whole)  # the scale was that of one call


def test_adapters_of_the_text_encoder_change_the_empty_caption_too(stable_pipeline, few, adapted_text):
    """The null condition is that of the encoder as it is: with adapters, and without them again."""
    plain = content(stable_pipeline, few)
    adapted_text()
    adapted = content(stable_pipeline, few)
    assert distance(adapted, plain) > 0.01
    assert_same(adapted, content(stable_pipeline, few, negative_prompt=""))
    stable_pipeline.unload_lora_weights()
    assert_same(content(stable_pipeline, few), plain)


LCM_LORA = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
LCM_LORA += ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj")
"""What public LCM-LoRAs change: the ends of the names of the layers, linear and convolutional."""


@pytest.fixture
def lcm_lora(stable_pipeline, tmp_path):
    """A file in the layout of latent-consistency/lcm-lora-sdv1-5, and what it adds to each weight of the U-Net."""
    generator = torch.Generator().manual_seed(3)
    rank, alpha = 3, 1.5
    file, changes = {}, {}
    for name, layer in stable_pipeline.unet.named_modules():
        if not name.endswith(LCM_LORA) or not hasattr(layer, "weight"):
            continue
        outputs, inputs, *kernel = layer.weight.shape
        down = 0.1 * torch.randn(rank, inputs, *kernel, generator=generator)
        up = 0.1 * torch.randn(outputs, rank, *[1] * len(kernel), generator=generator)
        stem = "lora_unet_" + name.replace(".", "_")
        file |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(alpha)}
        changes[f"{name}.weight"] = alpha / rank * (up.flatten(1) @ down.flatten(1)).view_as(layer.weight)
    save_file(file, tmp_path / "pytorch_lora_weights.safetensors")
    return tmp_path / "pytorch_lora_weights.safetensors", changes


def test_a_public_lcm_lora_makes_few_steps_of_the_content_stage(stable_pipeline, lcm_lora):
    """Each of its changes arrives, also those of convolutions; the motion model samples as before."""
    needed("peft")
    path, changes = lcm_lora
    assert {len(change.shape) for change in changes.values()} == {2, 4} and len(changes) > 30
    motion = stable_pipeline.motion_scheduler
    by_hand = copy.deepcopy(stable_pipeline.unet)
    with torch.no_grad():
        for name, change in changes.items():
            by_hand.get_parameter(name).add_(change)
    stable_pipeline.use_solver({"content": "lcm"})
    assert type(stable_pipeline.scheduler) is LCMScheduler and stable_pipeline.motion_scheduler is motion
    call = {"num_inference_steps": {"content": 4, "motion": 2}, "guidance_scale": 1.0}
    plain = content(stable_pipeline, call)
    stable_pipeline.load_lora_weights(path.parent, weight_name=path.name)
    adapted = content(stable_pipeline, call)
    alone = stable_pipeline(CAPTIONS[1], seeds=[6], **call, output_type="latent").content
    assert_same(alone[0], adapted[1])  # its noise between steps is that of its seed
    stable_pipeline.unload_lora_weights()
    stable_pipeline.unet = by_hand
    assert distance(adapted, plain) > 0.1
    assert_same(content(stable_pipeline, call), adapted)
