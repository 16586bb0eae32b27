"""Models by the names of included folders."""

import json

import pytest
import torch

from cmd_lightning import zoo
from cmd_lightning.cli import main
from cmd_lightning.components import CMD
from cmd_lightning.errors import InputError
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.zoo import model_folder

FEW = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "pt"}


@pytest.fixture
def shipped(tiny_pipeline, tmp_path, monkeypatch):
    """A zoo with one model, `tiny`, next to a file of other weights."""
    pipeline = tiny_pipeline("caption")
    pipeline.save_pretrained(tmp_path / "weights" / "tiny")
    (tmp_path / "weights" / "reader.safetensors").write_bytes(b"")
    (tmp_path / "weights" / "unfinished").mkdir()
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    return pipeline


def test_a_shipped_model_opens_by_its_name(shipped, tmp_path):
    assert model_folder("tiny") == tmp_path / "weights" / "tiny"
    expected = shipped("a red circle", seeds=[3], **FEW).frames
    by_name = CMDPipeline.from_pretrained("tiny")
    by_name.set_progress_bar_config(disable=True)
    assert torch.equal(by_name("a red circle", seeds=[3], **FEW).frames, expected)
    video = CMD("tiny").sample(["a red circle"], seeds=[3], steps=2, guidance=2.0)
    assert torch.equal(video.transpose(1, 2), (expected * 255).round().to(torch.uint8))


def test_a_shipped_model_generates(shipped, tmp_path):
    assert main(["generate", "tiny", "--prompt", "a red circle", "--steps", "2", "--out", "out"]) == 0
    record = json.loads((tmp_path / "out" / "a-red-circle-0.json").read_text())
    assert record["model"] == "tiny"
    assert "motion_model/diffusion_pytorch_model.safetensors" in record["weights"]


def test_a_folder_goes_before_a_name(shipped, tmp_path):
    shipped.save_pretrained(tmp_path / "tiny")
    assert model_folder("tiny").resolve() == tmp_path / "tiny"


def test_videos_go_into_a_folder_called_like_the_model(shipped, tmp_path):
    assert main(["generate", "tiny", "--prompt", "a red circle", "--steps", "2", "--out", "tiny"]) == 0
    assert (tmp_path / "tiny" / "a-red-circle-0.mp4").is_file()


@pytest.mark.parametrize("name", ["tyny", "unfinished", "reader.safetensors", "tiny/unet"])
def test_what_is_neither_is_reported_with_both_remedies(shipped, name):
    with pytest.raises(InputError, match=f"{name}: there is no such folder.*cmd-lightning export.*: tiny$"):
        model_folder(name)
    with pytest.raises(InputError, match="there is no such folder"):
        CMDPipeline.from_pretrained(name)
