import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cmd_lightning.cli import main
from cmd_lightning.commands.export import export
from cmd_lightning.commands.files import new_folder
from cmd_lightning.components import VideoAutoencoder
from cmd_lightning.components.checkpoints import load_stage
from cmd_lightning.errors import InputError
from cmd_lightning.pipeline import CMDPipeline

FEW = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np"}


@pytest.mark.parametrize("condition", ["caption", "label", None])
def test_exported_folder_has_the_weights_of_the_checkpoints(tiny_stages, tmp_path, condition, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths, components = tiny_stages(condition)
    shuffled = [str(paths[name]) for name in ("motion", "autoencoder", "content")]
    assert main(["export", *shuffled, str(tmp_path / "model"), "--steps", "2"]) == 0
    program, *words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert program == "cmd-lightning"
    assert main(words) == 0  # what it says to try
    assert len(list((tmp_path / "outputs/generate").glob("*.mp4"))) == 4
    pipeline = CMDPipeline.from_pretrained(tmp_path / "model")
    assert (pipeline.config.video_shape, pipeline.config.fps) == ([3, 5, 8, 12], 7.0)
    content, motion = components["content"], components["motion"]
    pairs = [
        (pipeline.autoencoder, components["autoencoder"].network),
        (pipeline.unet, content.network),
        (pipeline.motion_model, motion.network),
    ]
    if condition:
        pairs += [
            (pipeline.text_encoder, content.condition_encoder),
            (pipeline.motion_text_encoder, motion.condition_encoder),
        ]
    else:
        assert pipeline.text_encoder is None
        assert pipeline.motion_text_encoder is None
    for saved, trained in pairs:
        for name, value in trained.state_dict().items():
            assert torch.equal(saved.state_dict()[name], value), name
    assert not torch.equal(pipeline.autoencoder.motion_std, torch.ones(3))  # the statistics came along


def test_averaged_weights_are_exported(tiny_stages, tmp_path, save_checkpoint):
    paths, components = tiny_stages(None)
    name = "network.head.weight"
    averaged = {name: torch.randn_like(components["motion"].state_dict()[name])}
    save_checkpoint(components["motion"], paths["motion"], ema=averaged)
    export([str(path) for path in paths.values()], str(tmp_path / "model"))
    assert torch.equal(CMDPipeline.from_pretrained(tmp_path / "model").motion_model.head.weight, averaged[name])


def test_stages_of_another_autoencoder_are_rejected(tiny_stages, tiny_autoencoder, tmp_path, save_checkpoint):
    paths, _ = tiny_stages(None)
    other = VideoAutoencoder(tiny_autoencoder)
    other.video_shape, other.fps = (3, 5, 8, 12), 7.0
    paths["autoencoder"] = save_checkpoint(other, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"content\.ckpt: it was trained on the latents of another autoencoder"):
        export([str(path) for path in paths.values()], str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_a_folder_with_something_in_it_is_left_alone(tiny_stages, tmp_path):
    paths, _ = tiny_stages(None)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="it exists and is not empty"):
        export([str(path) for path in paths.values()], str(tmp_path / "model"))
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["precious.txt"]


def test_an_empty_folder_is_filled(tiny_stages, tmp_path):
    paths, _ = tiny_stages(None)
    (tmp_path / "model").mkdir()
    export([str(path) for path in paths.values()], str(tmp_path / "model"))
    assert json.loads((tmp_path / "model" / "model_index.json").read_text())["_class_name"] == "CMDPipeline"


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out", "out") as draft:
        (draft / "half").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "deep" / "out", "out") as draft:
        (draft / "file").write_text("x")
    assert (tmp_path / "deep" / "out" / "file").read_text() == "x"
    assert (tmp_path / "deep" / "out").stat().st_mode & 0o777 == 0o755


def test_stages_survive_the_way_through_the_folder(tiny_stages, tmp_path):
    """The video of the exported folder is that of the parts in the checkpoints."""
    paths, _ = tiny_stages("label")
    export([str(path) for path in paths.values()], str(tmp_path / "model"))
    stages = {name: load_stage(path, name, name).parts for name, path in paths.items()}
    by_hand = CMDPipeline(
        stages["autoencoder"]["network"],
        unet=stages["content"]["network"],
        scheduler=stages["content"]["scheduler"],
        text_encoder=stages["content"]["condition_encoder"],
        motion_model=stages["motion"]["network"],
        motion_scheduler=stages["motion"]["scheduler"],
        motion_text_encoder=stages["motion"]["condition_encoder"],
        video_shape=(3, 5, 8, 12),
    )
    opened = CMDPipeline.from_pretrained(tmp_path / "model")
    frames = [p(class_labels=[0, 3], seeds=[1, 2], **FEW).frames for p in (by_hand, opened)]
    assert abs(frames[0] - frames[1]).max() < 1e-3


def test_half_precision_halves_the_files_and_opens_in_float32(tiny_stages, tmp_path):
    paths, components = tiny_stages("caption")
    checkpoints = [str(path) for path in paths.values()]
    assert main(["export", *checkpoints, str(tmp_path / "whole")]) == 0
    assert main(["export", *checkpoints, str(tmp_path / "half"), "--half"]) == 0
    for file in (tmp_path / "half").rglob("*.safetensors"):
        name = file.relative_to(tmp_path / "half")
        assert {value.dtype for value in load_file(file).values() if value.is_floating_point()} == {torch.float16}, name
    large = Path("text_encoder", "diffusion_pytorch_model.safetensors")
    sizes = [(tmp_path / folder / large).stat().st_size for folder in ("half", "whole")]
    assert sizes[0] < 0.51 * sizes[1]

    pipeline = CMDPipeline.from_pretrained(tmp_path / "half")
    trained = {
        "autoencoder": components["autoencoder"].network,
        "unet": components["content"].network,
        "text_encoder": components["content"].condition_encoder,
        "motion_model": components["motion"].network,
    }
    for name, part in trained.items():
        for key, value in part.state_dict().items():
            opened = getattr(pipeline, name).state_dict()[key]
            assert opened.dtype == value.dtype == torch.float32, (name, key)
            assert torch.equal(opened, torch.from_numpy(value.numpy().astype(np.float16).astype(np.float32))), key
    assert pipeline("a red circle", seeds=[1], **FEW).frames.shape == (1, 5, 8, 12, 3)


def test_a_dtype_that_is_asked_for_holds_for_every_part(tiny_stages, tmp_path):
    paths, _ = tiny_stages("label")
    export([str(path) for path in paths.values()], str(tmp_path / "model"), half=True)
    pipeline = CMDPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float64)
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert len(parts) == 5
    assert {parameter.dtype for part in parts for parameter in part.parameters()} == {torch.float64}


def test_weights_beyond_half_precision_are_rejected(tiny_stages, tmp_path, save_checkpoint):
    paths, components = tiny_stages(None)
    huge = torch.full_like(components["motion"].network.head.weight, 7e4)  # float16 ends at 65504
    save_checkpoint(components["motion"], paths["motion"], ema={"network.head.weight": huge})
    checkpoints = [str(path) for path in paths.values()]
    with pytest.raises(InputError, match=r"--half: motion_model\.head\.weight .*without --half"):
        export(checkpoints, str(tmp_path / "model"), half=True)
    assert not (tmp_path / "model").exists()
    export(checkpoints, str(tmp_path / "model"))


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_that_the_model_does_not_take_are_rejected(tiny_stages, tmp_path, capsys, steps):
    paths, _ = tiny_stages(None)
    assert main(["export", *map(str, paths.values()), str(tmp_path / "model"), "--steps", str(steps)]) == 2
    assert f"--steps {steps}: " in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
