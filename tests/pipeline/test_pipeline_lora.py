"""LoRA adapters: weighted, fused, scaled by a call, and on the text encoder."""

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline
from missing import needed

CAPTION = ["a red circle", "left"]


@pytest.fixture
def lora(stable_pipeline, tmp_path):
    """Writes adapters in the public layout: for the U-Net, or also for the text encoder."""
    peft = needed("peft")

    def write(name, text=False):
        torch.manual_seed(len(name))
        parts = {"unet": (stable_pipeline.unet, ["to_q", "to_v"])}
        if text:
            parts["text_encoder"] = (stable_pipeline.text_encoder, ["q_proj", "v_proj"])
        layers = {}
        for part, (network, targets) in parts.items():
            adapted = copy.deepcopy(network)
            adapted.add_adapter(peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
            layers[f"{part}_lora_layers"] = peft.get_peft_model_state_dict(adapted, adapter_name="default")
        StableDiffusionPipeline.save_lora_weights(tmp_path / name, **layers)
        return tmp_path / name

    return write


def content(pipeline, few, **given):
    return pipeline(CAPTION, seeds=[5, 6], **few, **given, output_type="latent").content


def test_several_weighted_adapters(stable_pipeline, few, lora):
    """Linear in its weights at the level of a layer: 0 is none, and one alone is itself."""
    plain = content(stable_pipeline, few)
    for name in ("one", "second"):
        stable_pipeline.load_lora_weights(lora(name), adapter_name=name)
    found = {}
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.5, 0.5)):
        stable_pipeline.set_adapters(["one", "second"], list(weights))
        found[weights] = content(stable_pipeline, few)
    torch.testing.assert_close(found[0.0, 0.0], plain, atol=1e-4, rtol=0)
    alone = found[1.0, 0.0], found[0.0, 1.0], found[0.5, 0.5], plain
    assert all((a - b).abs().max() > 1e-4 for i, a in enumerate(alone) for b in alone[:i])
    stable_pipeline.set_adapters("one")
    torch.testing.assert_close(content(stable_pipeline, few), found[1.0, 0.0], atol=1e-4, rtol=0)
    stable_pipeline.unload_lora_weights()
    torch.testing.assert_close(content(stable_pipeline, few), plain, atol=1e-4, rtol=0)


def test_fused_adapters_are_the_same_and_can_be_unfused(stable_pipeline, few, lora):
    plain = content(stable_pipeline, few)
    stable_pipeline.load_lora_weights(lora("one"))
    adapted = content(stable_pipeline, few)
    assert (adapted - plain).abs().max() > 1e-4
    stable_pipeline.fuse_lora()
    torch.testing.assert_close(content(stable_pipeline, few), adapted, atol=1e-4, rtol=0)
    stable_pipeline.unfuse_lora()
    stable_pipeline.unload_lora_weights()
    torch.testing.assert_close(content(stable_pipeline, few), plain, atol=1e-4, rtol=0)


def test_a_call_scales_its_adapters(stable_pipeline, few, lora):
    plain = content(stable_pipeline, few)
    stable_pipeline.load_lora_weights(lora("both", text=True))
    whole = content(stable_pipeline, few)
    torch.testing.assert_close(content(stable_pipeline, few, attention_kwargs={"scale": 0.0}), plain, atol=1e-4, rtol=0)
    half = content(stable_pipeline, few, attention_kwargs={"scale": 0.5})
    assert min((half - plain).abs().max(), (half - whole).abs().max()) > 1e-4
    torch.testing.assert_close(content(stable_pipeline, few), whole, atol=1e-4, rtol=0)  # of that call alone


def test_adapters_of_the_text_encoder_change_the_empty_caption_too(stable_pipeline, few, lora):
    """The null condition is that of the encoder as it is: with adapters, and without them again."""
    plain = content(stable_pipeline, few)
    assert torch.equal(plain, content(stable_pipeline, few))
    stable_pipeline.load_lora_weights(lora("both", text=True))
    adapted = content(stable_pipeline, few)
    explicit = content(stable_pipeline, few, negative_prompt="")
    torch.testing.assert_close(adapted, explicit, atol=1e-5, rtol=0)
    stable_pipeline.unload_lora_weights()
    torch.testing.assert_close(content(stable_pipeline, few), plain, atol=1e-4, rtol=0)
