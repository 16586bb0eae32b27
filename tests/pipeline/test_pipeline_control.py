"""ControlNet and IP-Adapter guide the content frame as in diffusers' pipelines, and leave the motion stage alone."""

import pytest
import torch
from diffusers import (
    ControlNetModel,
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from stable_diffusion_folders import unet_of, write_controlnet, write_ip_adapter

from cmd_lightning.errors import InputError, InputWarning
from cmd_lightning.pipeline import CMDPipeline

CAPTIONS = ["a red circle", "left"]
SIZE = (32, 48)


@pytest.fixture
def controlled(stable_pipeline, tmp_path):
    """A pipeline with a ControlNet."""
    folder = write_controlnet(tmp_path / "controlnet", stable_pipeline.unet)
    stable_pipeline.register_modules(controlnet=ControlNetModel.from_pretrained(folder))
    return stable_pipeline


@pytest.fixture
def adapted(stable_pipeline, tmp_path):
    """A pipeline with an IP-Adapter."""
    load(stable_pipeline, write_ip_adapter(tmp_path / "adapter", stable_pipeline.unet))
    return stable_pipeline


def load(pipeline, *folders):
    pipeline.load_ip_adapter(
        [str(folder) for folder in folders], subfolder="models", weight_name=["adapter.safetensors"] * len(folders)
    )


def images(count=2, size=SIZE, seed=7):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def latents(pipeline, few, **given):
    """Content frames and motion latents."""
    call = {"prompt": CAPTIONS, "seeds": [5, 6], "output_type": "latent", **few} | given
    output = pipeline(**call)
    return output.content, output.frames


def reference(pipeline, kind, few, **given):
    """Content frames by a pipeline of diffusers, of the same parts, from the same noise."""
    names = ["vae", "text_encoder", "tokenizer", "unet", "scheduler", "image_encoder", "feature_extractor"]
    names += ["controlnet"] if kind is StableDiffusionControlNetPipeline else []
    parts = {name: getattr(pipeline, name) for name in names}
    theirs = kind(**parts, safety_checker=None, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": few["num_inference_steps"]["content"]}
    settings |= {"guidance_scale": few["guidance_scale"]["content"], "output_type": "latent"}
    noise = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(9))
    found = latents(pipeline, few, latents={"content": noise}, **given.pop("ours", given))[0]
    expected = theirs(CAPTIONS, latents=noise, height=SIZE[0], width=SIZE[1], **settings, **given).images
    return found, expected


def assert_near(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def differ(a, b):
    return ((a - b).abs().mean() / b.std()).item() > 0.01


@pytest.fixture(params=[2.0, 1.0], ids=["guided", "not guided"])
def scales(few, request):
    return {**few, "guidance_scale": {"content": request.param, "motion": 1.0}}


def test_a_controlnet_guides_as_in_diffusers(controlled, scales):
    settings = {"controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.5}
    given = images()
    found, expected = reference(
        controlled,
        StableDiffusionControlNetPipeline,
        scales,
        image=given,
        **settings,
        ours={"control_image": given, **settings},
    )
    assert_near(found, expected)
    assert differ(found, latents(controlled, scales, control_image=given)[0])


def test_several_controlnets_guide_as_in_diffusers(controlled, few, tmp_path):
    second = ControlNetModel.from_pretrained(write_controlnet(tmp_path / "second", controlled.unet, seed=8))
    controlled.controlnet = MultiControlNetModel([controlled.controlnet, second])
    given = [images(seed=1), images(seed=2)]
    settings = {
        "controlnet_conditioning_scale": [0.7, 0.4],
        "control_guidance_start": [0.0, 0.5],
        "control_guidance_end": [0.5, 1.0],
    }
    found, expected = reference(
        controlled,
        StableDiffusionControlNetPipeline,
        few,
        image=given,
        **settings,
        ours={"control_image": given, **settings},
    )
    assert_near(found, expected)


def test_a_controlnet_of_scale_0_is_none(controlled, few):
    plain = latents(controlled, few)
    off = latents(controlled, few, control_image=images(), controlnet_conditioning_scale=0.0)
    assert all(torch.equal(a, b) for a, b in zip(off, plain, strict=True))


def test_only_the_content_stage_is_controlled(controlled, few):
    """The motion is that which its content frame gets without a ControlNet."""
    plain = latents(controlled, few)
    content, motion = latents(controlled, few, control_image=images())
    assert differ(content, plain[0])
    controlled.controlnet = None
    assert torch.equal(latents(controlled, few, content=content)[1], motion)


def test_control_images_of_prompts(controlled, few):
    """One for all or one each, resized with a notice; a video of a batch is that of a single call."""
    both = images()
    content = latents(controlled, few, control_image=both)[0]
    single = latents(controlled, few, prompt=CAPTIONS[1], seeds=[6], control_image=both[1])[0]
    assert_near(single[0], content[1])
    one = latents(controlled, few, control_image=both[:1])[0]
    assert_near(one[0], content[0])
    assert differ(one[1], content[1])
    copies = latents(controlled, few, control_image=both, num_videos_per_prompt=2, seeds=[5, 1, 2, 6])[0]
    assert_near(copies[::3], content)
    with pytest.warns(InputWarning, match="control image of 20x10 pixels: resized and cropped to the model's 48x32"):
        output = controlled("a circle", seeds=[5], **few, control_image=Image.new("RGB", (20, 10)))
    assert "control image of 20x10" in output.warnings[0][0]


def test_a_controlnet_in_pixels(tiny_pipeline, few, tmp_path):
    """A model without a VAE, whose ControlNet does not shrink its images."""
    pipeline = tiny_pipeline("label")
    small = {"conditioning_embedding_out_channels": (8,)}
    folder = write_controlnet(tmp_path / "small", pipeline.unet, **small)
    pipeline.register_modules(controlnet=ControlNetModel.from_pretrained(folder))
    call = {"class_labels": [0, 1], "seeds": [5, 6], "output_type": "latent", **few}
    plain, controlled = pipeline(**call), pipeline(**call, control_image=images(size=(8, 12)))
    assert differ(controlled.content, plain.content)


def test_a_saved_controlnet(controlled, few, tmp_path):
    expected = latents(controlled, few, control_image=images())
    controlled.save_pretrained(tmp_path / "saved")
    opened = CMDPipeline.from_pretrained(tmp_path / "saved")
    opened.set_progress_bar_config(disable=True)
    found = latents(opened, few, control_image=images())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_ip_adapter_guides_as_in_diffusers(adapted, scales):
    adapted.set_ip_adapter_scale(0.6)
    image = Image.fromarray((images(1)[0].permute(1, 2, 0) * 255).byte().numpy())
    found, expected = reference(adapted, StableDiffusionPipeline, scales, ip_adapter_image=image)
    assert_near(found, expected)
    other = latents(adapted, scales, ip_adapter_image=images(1, seed=1)[0])[0]
    assert differ(other, latents(adapted, scales, ip_adapter_image=image)[0])


def test_several_ip_adapters_and_encoded_images(adapted, few, tmp_path):
    """The second has two images; encoded, they give the same."""
    folders = [tmp_path / "adapter", write_ip_adapter(tmp_path / "second", unet_of("1.5"), seed=5)]
    adapted.unload_ip_adapter()
    load(adapted, *folders)
    given = list((images(3) * 255).byte())
    pillow = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in given]
    found, expected = reference(
        adapted,
        StableDiffusionPipeline,
        few,
        ip_adapter_image=[pillow[0], pillow[1:]],
        ours={"ip_adapter_image": [given[0], given[1:]]},
    )
    assert_near(found, expected)
    embeds = adapted.prepare_ip_adapter_image_embeds([pillow[0], pillow[1:]], None, "cpu", 1, True)
    assert_near(
        *(
            latents(adapted, few, **own)[0]
            for own in ({"ip_adapter_image_embeds": embeds}, {"ip_adapter_image": [given[0], given[1:]]})
        )
    )


def test_an_ip_adapter_of_scale_0_or_unloaded_is_none(stable_pipeline, few, tmp_path):
    plain = latents(stable_pipeline, few)
    load(stable_pipeline, write_ip_adapter(tmp_path / "adapter", stable_pipeline.unet))
    assert differ(latents(stable_pipeline, few, ip_adapter_image=images(1)[0])[0], plain[0])
    stable_pipeline.set_ip_adapter_scale(0.0)
    off = latents(stable_pipeline, few, ip_adapter_image=images(1)[0])
    stable_pipeline.unload_ip_adapter()
    for found in (off, latents(stable_pipeline, few)):
        assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_only_the_content_stage_sees_an_image_prompt(adapted, few):
    content, motion = latents(adapted, few, ip_adapter_image=images(1)[0])
    adapted.unload_ip_adapter()
    assert torch.equal(latents(adapted, few, content=content)[1], motion)


def test_a_controlnet_and_an_ip_adapter_together(adapted, few, tmp_path):
    folder = write_controlnet(tmp_path / "controlnet", unet_of("1.5"))
    adapted.register_modules(controlnet=ControlNetModel.from_pretrained(folder))
    given, image = images(), Image.new("RGB", (9, 9), "red")
    found, expected = reference(
        adapted,
        StableDiffusionControlNetPipeline,
        few,
        image=given,
        ip_adapter_image=image,
        ours={"control_image": given, "ip_adapter_image": image},
    )
    assert_near(found, expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"control_image": images(3)}, "`control_image`: 3 given for 2 prompts; give one"),
        ({"control_image": images()[:, :1]}, r"`control_image`: shape \(1, 32, 48\); give RGB"),
        ({"control_image": images() * 3}, "`control_image`: float32 from"),
        ({"control_image": []}, "`control_image`: an empty list"),
        (
            {"control_image": images(), "content": torch.zeros(2, 4, 4, 6)},
            "`control_image`: the content frame is given",
        ),
        ({"control_image": images(), "control_guidance_start": 1.0}, "`control_guidance_start` 1.0, .*less than"),
        ({"control_image": images(), "controlnet_conditioning_scale": [1.0, 1.0]}, "2 given for 1 ControlNets"),
        ({"ip_adapter_image": images(1)}, "`ip_adapter_image`: no IP-Adapter is loaded; call `load_ip_adapter`"),
    ],
)
def test_wrong_images_are_named(controlled, few, given, said):
    with pytest.raises(InputError, match=said) as error:
        latents(controlled, few, **given)
    assert "\n" not in str(error.value)


def test_wrong_controlnets_are_named(controlled, tiny_pipeline, few, tmp_path):
    def said(pipeline, net, size=SIZE):
        pipeline.controlnet = net
        with pytest.raises(InputError) as error:
            pipeline("a circle", control_image=images(1, size), **few)
        return str(error.value)

    assert said(controlled, None).startswith("`controlnet`: it is missing; set")
    assert "it is a UNet2DConditionModel; set" in said(controlled, controlled.unet)
    other = ControlNetModel.from_unet(unet_of("2.1"))
    assert "its cross_attention_dim is 24, that of the content model 16; give a ControlNet" in said(controlled, other)
    small = ControlNetModel.from_unet(controlled.unet, conditioning_embedding_out_channels=(8, 8))
    assert "images of 3 channels, 2 times the size of the content frame; this model needs 3" in said(controlled, small)
    grey = ControlNetModel.from_unet(controlled.unet, conditioning_channels=1)
    assert "it takes images of 1 channels" in said(controlled, grey)


def test_other_content_models_are_named(few):
    """The shipped model has a content model of our own."""
    pipeline = CMDPipeline.from_pretrained("shapes32")
    with pytest.raises(InputError, match="`control_image`: the content model must be a UNet2DConditionModel"):
        pipeline("a red circle moves left", control_image=images(1, (32, 32)))
    for method in (pipeline.load_ip_adapter, pipeline.set_ip_adapter_scale):
        with pytest.raises(InputError, match=f"`{method.__name__}`: the content model must be"):
            method("folder")


def test_wrong_ip_adapters_are_named(adapted, few, tmp_path):
    """And leave what was loaded as it was."""
    expected = latents(adapted, few, ip_adapter_image=images(1)[0])
    other = UNet2DConditionModel.from_config(adapted.unet.config, cross_attention_dim=24)
    for folder in (tmp_path / "missing", write_ip_adapter(tmp_path / "other", other)):
        with pytest.raises(InputError, match="`load_ip_adapter`: it cannot be used with this content model") as error:
            load(adapted, folder)
        assert "\n" not in str(error.value)
    found = latents(adapted, few, ip_adapter_image=images(1)[0])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for given, said in (
        ({}, "`ip_adapter_image`: an IP-Adapter is loaded; give an image, or `unload_ip_adapter"),
        ({"ip_adapter_image": [images(1)[0]] * 2}, "`ip_adapter_image`: 2 given for 1 IP-Adapters"),
        ({"ip_adapter_image_embeds": [torch.zeros(2, 1, 13)]}, "`ip_adapter_image_embeds`: they do not fit"),
    ):
        with pytest.raises(InputError, match=said) as error:
            latents(adapted, few, **given)
        assert "\n" not in str(error.value)
    adapted.image_encoder = None
    with pytest.raises(InputError, match="no image encoder is loaded; give `ip_adapter_image_embeds`"):
        latents(adapted, few, ip_adapter_image=images(1)[0])
