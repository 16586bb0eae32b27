"""Pipelines from and to folders, the hub and other pipelines, and the settings that parts are opened with."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.quantizers import PipelineQuantizationConfig
from diffusers.quantizers.quantization_config import QuantoConfig
from stable_diffusion_folders import write_stable_diffusion

from cmd_lightning.errors import InputError
from cmd_lightning.networks import Network
from cmd_lightning.pipeline import CMDPipeline

FIRST = Path(__file__).with_name("first_version")
OWN = ("autoencoder", "motion_model", "motion_text_encoder")


def modules(pipeline):
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def opened(*given, **settings):
    pipeline = CMDPipeline.from_pretrained(*given, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_folder_of_the_first_version_gives_the_same_frames():
    """Written, with the frames (B, C, T, H, W), by the code of 22 November 2026 (commit be4bf50)."""
    output = opened(FIRST)(class_labels=[0, 3], seeds=[5, 6], output_type="np")
    expected = np.load(FIRST / "frames.npy").transpose(0, 2, 3, 4, 1)
    assert np.abs(output.frames * 255 - expected).max() <= 1  # rounded; the last bit of a sum may differ


def test_saved_and_opened(stable_pipeline, few, tmp_path):
    stable_pipeline.save_pretrained(tmp_path / "model")
    again = opened(tmp_path / "model")
    assert again.config.video_shape == [4, 3, 4, 6]
    call = {"prompt": ["a red circle", "left"], "seeds": [5, 6], **few, "output_type": "np"}
    np.testing.assert_allclose(again(**call).frames, stable_pipeline(**call).frames, atol=1e-5)
    without = opened(tmp_path / "model", unet=None, text_encoder=None, vae=None)
    assert (without.unet, without.text_encoder, without.vae) == (None, None, None)


def test_a_pipeline_of_the_same_parts(stable_pipeline, few):
    again = CMDPipeline(**stable_pipeline.components, **stable_pipeline.parameters)
    again.set_progress_bar_config(disable=True)
    call = {"prompt": "a red circle", "seeds": [5], **few, "output_type": "np"}
    np.testing.assert_array_equal(again(**call).frames, stable_pipeline(**call).frames)


def test_parts_are_opened_in_types_of_their_own(stable_pipeline, tmp_path):
    stable_pipeline.save_pretrained(tmp_path / "model")
    dtypes = {"unet": torch.float16, "motion_model": torch.bfloat16, "default": torch.float64}
    for name, part in modules(opened(tmp_path / "model", torch_dtype=dtypes)).items():
        assert {p.dtype for p in part.parameters()} == {dtypes.get(name, torch.float64)}, name
    half = modules(opened(tmp_path / "model", torch_dtype=torch.float16))
    assert {p.dtype for part in half.values() for p in part.parameters()} == {torch.float16}


def test_settings_reach_every_part(stable_pipeline, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    stable_pipeline.save_pretrained(folder)
    seen, original = {}, Network.from_pretrained.__func__

    def record(cls, *args, **kwargs):
        seen[kwargs["subfolder"]] = kwargs
        return original(cls, *args, **{k: v for k, v in kwargs.items() if k != "quantization_config"})

    monkeypatch.setattr(Network, "from_pretrained", classmethod(record))
    assert opened(folder, device_map="cpu", use_safetensors=True).device.type == "cpu"
    assert {name: (given["device_map"], given["use_safetensors"]) for name, given in seen.items()} == dict.fromkeys(
        OWN, ("cpu", True)
    )
    config = PipelineQuantizationConfig(quant_mapping={"motion_model": QuantoConfig("int8")})
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(lambda cls, *args, **kwargs: stable_pipeline))
    CMDPipeline.from_pretrained(folder, quantization_config=config)
    assert [name for name in OWN if "quantization_config" in seen[name]] == ["motion_model"]


def test_weights_that_may_not_be_read_are_not(tiny_pipeline, tmp_path):
    tiny_pipeline("label").save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(OSError, match="safetensors"):
        opened(tmp_path, use_safetensors=True)
    assert opened(tmp_path, use_safetensors=False).unet is not None


def test_variants_of_the_weights(tiny_pipeline, few, tmp_path):
    pipeline = tiny_pipeline("label")
    pipeline.save_pretrained(tmp_path, variant="ema")
    call = {"class_labels": 1, "seeds": [5], **few, "output_type": "np"}
    np.testing.assert_allclose(opened(tmp_path, variant="ema")(**call).frames, pipeline(**call).frames, atol=1e-5)
    with pytest.raises(InputError, match=r"variant fp16: .* has no such weights"):
        opened(tmp_path, variant="fp16")


def test_parts_on_several_devices_are_rejected():
    with pytest.raises(InputError, match=r"device_map balanced: .*give 'cuda' or 'cpu'"):
        CMDPipeline.from_pretrained(FIRST, device_map="balanced")


def test_from_a_pipeline_of_stable_diffusion_and_back(stable_pipeline, few, tmp_path):
    theirs = StableDiffusionPipeline.from_pretrained(write_stable_diffusion(tmp_path / "sd"))
    own = {name: getattr(stable_pipeline, name) for name in (*OWN, "motion_scheduler")}
    ours = CMDPipeline.from_pipe(theirs, **own, video_shape=stable_pipeline.config.video_shape)
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        assert getattr(ours, name) is getattr(theirs, name)
    ours.set_progress_bar_config(disable=True)
    assert len(ours("a red circle", seeds=[5], **few).frames[0]) == 3
    back = StableDiffusionPipeline.from_pipe(ours, safety_checker=None, feature_extractor=None)
    assert back.unet is theirs.unet
    assert ours.config.video_shape == stable_pipeline.config.video_shape


def test_a_model_of_the_hub(tmp_path, few, monkeypatch):
    """From the hub's cache, where there is no network."""
    calls = []

    def snapshot(name, **options):
        calls.append((name, options))
        return str(FIRST)

    monkeypatch.setattr("cmd_lightning.pipeline.folder.snapshot_download", snapshot)
    pipeline = opened("someone/model", revision="v1", cache_dir=tmp_path, local_files_only=True)
    assert pipeline(class_labels=0, seeds=[5], **few).frames
    [(name, options)] = calls
    assert (name, options["revision"], options["cache_dir"]) == ("someone/model", "v1", tmp_path)
    assert "*.bin" not in options["allow_patterns"]


def test_a_model_that_the_hub_does_not_have_is_named(tmp_path):
    with pytest.raises(InputError, match="model someone/model: there is no such folder, and the hub") as error:
        CMDPipeline.from_pretrained("someone/model", cache_dir=tmp_path, local_files_only=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("by", ["push_to_hub", "save_pretrained"])
def test_pushed_with_a_card(tmp_path, monkeypatch, by):
    """The card is Markdown with metadata that the hub reads; one that is there stays."""
    from huggingface_hub import ModelCard

    pipeline = opened(FIRST)
    uploads, exists = [], by == "save_pretrained"

    def upload(repo_id, folder_path, **options):
        shutil.copytree(folder_path, tmp_path / "hub", dirs_exist_ok=True)
        uploads.append((repo_id, options["commit_message"], options["create_pr"], options["token"]))
        return "https://huggingface.co/someone/model/commit/0"

    monkeypatch.setattr(
        "cmd_lightning.pipeline.folder.create_repo", lambda name, **options: SimpleNamespace(repo_id=name)
    )
    monkeypatch.setattr("cmd_lightning.pipeline.folder.file_exists", lambda *given, **options: exists)
    monkeypatch.setattr("cmd_lightning.pipeline.folder.upload_folder", upload)
    if by == "push_to_hub":
        assert pipeline.push_to_hub("someone/model", commit_message="First", token="t").endswith("/0")
        assert uploads == [("someone/model", "First", False, "t")]
        card = ModelCard.load(tmp_path / "hub/README.md")
        assert (card.data.library_name, card.data.pipeline_tag) == ("diffusers", "other")
        for words in ("class_labels=0", "5 frames of 12x8 pixels", "content 3 steps, guidance 2", "`motion_model`"):
            assert " ".join(words.split()) in " ".join(card.text.split())
    else:
        pipeline.save_pretrained(tmp_path / "out", push_to_hub=True, repo_id="someone/model", create_pr=True)
        assert uploads == [("someone/model", "Upload CMDPipeline", True, None)]
        assert not (tmp_path / "hub/README.md").exists()
    assert json.loads((tmp_path / "hub/model_index.json").read_text())["_class_name"] == "CMDPipeline"
