"""`generate` with a ControlNet or an IP-Adapter: equal to the pipeline, recorded, and one-line errors."""

import json

import numpy as np
import pytest
from diffusers import ControlNetModel
from PIL import Image
from stable_diffusion_folders import write_controlnet, write_ip_adapter

from cmd_lightning.cli import main
from cmd_lightning.commands.records import frames_sha256

STEPS = ("--steps", "content=2,motion=3", "--guidance", "content=2,motion=1.5")
CALL = {"num_inference_steps": {"content": 2, "motion": 3}, "guidance_scale": {"content": 2.0, "motion": 1.5}}


@pytest.fixture
def pipeline(tiny_pipeline, tmp_path):
    """A small model of classes in a folder, with a ControlNet, an IP-Adapter and images."""
    pipeline = tiny_pipeline("label")
    pipeline.save_pretrained(tmp_path / "model")
    write_controlnet(tmp_path / "controlnet", pipeline.unet, conditioning_embedding_out_channels=(8,))
    write_ip_adapter(tmp_path / "adapter", pipeline.unet)
    for seed, (name, size) in enumerate({"a": (8, 12), "b": (8, 12), "wide": (8, 20)}.items()):
        pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return pipeline


@pytest.fixture
def run(pipeline, tmp_path, monkeypatch, capsys):
    """Runs `generate` in the folder of the model: the records of its videos by name, and what it says."""
    monkeypatch.chdir(tmp_path)

    def run(*words, out="out", code=0):
        capsys.readouterr()
        assert main(["generate", "model", "--seed", "5", "--out", out, *STEPS, *words]) == code
        records = {path.name: json.loads(path.read_text()) for path in (tmp_path / out).glob("*.json")}
        return records, capsys.readouterr().err

    return run


CONTROL = ("--controlnet", "controlnet", "--control-image")
ADAPTER = ("--ip-adapter", "adapter/models/adapter.safetensors", "--ip-adapter-image", "a.png")


def digests(output):
    return [frames_sha256((frames * 255).round().byte().transpose(0, 1)) for frames in output.frames]


def test_control_images(pipeline, run, tmp_path, capsys):
    """One for each class; the record gives the same frames again, also where its images were sent with it."""
    words = ("--class", "0", "1", *CONTROL, "a.png", "wide.png", "--controlnet-scale", "0.7")
    records, message = run(*words)
    assert "--control-image wide.png: image of 20x8 pixels: resized and cropped" in message
    pipeline.register_modules(controlnet=ControlNetModel.from_pretrained(tmp_path / "controlnet"))
    images = [str(tmp_path / name) for name in ("a.png", "wide.png")]
    with pytest.warns(match="resized"):
        output = pipeline(
            class_labels=[0, 1],
            seeds=[5, 5],
            control_image=images,
            controlnet_conditioning_scale=0.7,
            output_type="pt",
            **CALL,
        )
    own = [records[f"class-{label}-5.json"] for label in (0, 1)]
    assert [record["frames_sha256"] for record in own] == digests(output)
    assert own[0]["control_image"] == "a.png"
    assert "controlnet/diffusion_pytorch_model.safetensors" in own[0]["weights"]
    assert "2 of 2 videos exist already" in run(*words, "--resume")[1]
    run(*words[:-1], "0.6", "--resume", code=2)
    (tmp_path / "a.png").rename(tmp_path / "out" / "a.png")
    assert main(["generate", "--again", "out/class-0-5.json", "--out", "again"]) == 0
    assert "bit for bit" in capsys.readouterr().err


def test_an_image_prompt(pipeline, run, tmp_path, capsys):
    words = ("--class", "1", *ADAPTER, "--ip-adapter-scale", "0.6")
    [record] = run(*words)[0].values()
    pipeline.load_ip_adapter(str(tmp_path / "adapter"), subfolder="models", weight_name="adapter.safetensors")
    pipeline.set_ip_adapter_scale(0.6)
    image = str(tmp_path / "a.png")
    output = pipeline(class_labels=1, seeds=[5], ip_adapter_image=image, output_type="pt", **CALL)
    assert [record["frames_sha256"]] == digests(output)
    (tmp_path / "a.png").rename(tmp_path / "out" / "a.png")
    assert main(["generate", "--again", "out/class-1-5.json", "--out", "again"]) == 0
    assert "bit for bit" in capsys.readouterr().err


def test_a_scale_of_0_is_as_without(run):
    [plain] = run("--class", "1")[0].values()
    for number, words in enumerate(((*CONTROL, "a.png", "--controlnet-scale"), (*ADAPTER, "--ip-adapter-scale"))):
        [off] = run("--class", "1", *words, "0", out=f"off{number}")[0].values()
        assert off["frames_sha256"] == plain["frames_sha256"]
        [on] = run("--class", "1", *words, "1", out=f"on{number}")[0].values()
        assert on["frames_sha256"] != plain["frames_sha256"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*CONTROL, "missing.png"), "--control-image missing.png: there is no such file"),
        (("--controlnet", "controlnet"), "--controlnet controlnet: it needs an image; give --control-image"),
        (("--control-image", "a.png"), "--control-image: model has no ControlNet; give --controlnet"),
        (("--controlnet", "model/unet", "--control-image", "a.png"), "--controlnet model/unet: it holds a UNet2DCond"),
        (("--controlnet", "nothing", "--control-image", "a.png"), "--controlnet nothing: there is no such folder"),
        ((*CONTROL, "a.png", "--image", "b.png"), "--control-image and --image: give one of the two"),
        ((*CONTROL, "a.png", "b.png", "a.png", "--class", "2", "3"), "--control-image: 3 for 2 prompts"),
        ((*ADAPTER, "--frames", "8"), "--ip-adapter and --frames: give one of the two"),
        (ADAPTER[:2], "--ip-adapter adapter/models/adapter.safetensors, --ip-adapter-image None: give both"),
        (("--ip-adapter", "a", *ADAPTER[2:]), "--ip-adapter a: there is no such file; give a .safetensors"),
        (
            ("--ip-adapter", "controlnet/diffusion_pytorch_model.safetensors", *ADAPTER[2:]),
            "--ip-adapter: it cannot be",
        ),
    ],
)
def test_wrong_guides_are_named(run, words, said):
    given = words if "--class" in words else ("--class", "1", *words)
    records, message = run(*given, code=2)
    assert said in message
    assert not records
    assert len(message.strip().splitlines()) == 1 or "loading" in message
