"""A student of Stable Diffusion's content stage with adapters only, in the layout of public LCM-LoRAs."""

import pytest
import torch
from diffusers import LCMScheduler
from lightning import Trainer
from missing import needed
from torch.utils.data import DataLoader, default_collate

from cmd_lightning.callbacks import EMA
from cmd_lightning.cli import main
from cmd_lightning.components import ContentDistillation
from cmd_lightning.components.checkpoints import KEY
from cmd_lightning.errors import InputError
from cmd_lightning.networks.lora import LoRA
from cmd_lightning.pipeline import CMDPipeline


def clips():
    """A batch of clips of the size of `stable_pipeline`."""
    video = torch.randint(0, 256, (2, 3, 3, 32, 48), dtype=torch.uint8)
    return [{"video": clip, "caption": "a red circle", "key": f"clip{i}", "fps": 8.0} for i, clip in enumerate(video)]


def test_adapters_are_trained_saved_exported_and_loaded_into_the_teacher(stable_pipeline, tmp_path):
    needed("peft")
    teacher = tmp_path / "teacher"
    stable_pipeline.register_to_config(steps={"motion": 2}, guidance={"content": 2.0})
    stable_pipeline.save_pretrained(teacher)
    lora = LoRA(rank=2, alpha=6.0)
    made = ContentDistillation(str(teacher), lora=lora)
    assert made.guidance == 2.0
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        callbacks=[EMA()],
        **quiet,
    )
    trainer.fit(made, DataLoader(clips() * 2, batch_size=2, collate_fn=default_collate))
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    checkpoint = torch.load(tmp_path / "student.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == checkpoint["ema"].keys()
    assert all("lora_" in name for name in checkpoint["state_dict"])

    for other in (LoRA(rank=2, alpha=2.0), None):
        resumed = ContentDistillation(str(teacher), lora=other)
        with pytest.raises(InputError, match="`ckpt_path`: it was trained with"):
            resumed.on_load_checkpoint(checkpoint)
    resumed = ContentDistillation(str(teacher), lora=lora)
    resumed.on_load_checkpoint(checkpoint)
    missing, unexpected = resumed.load_state_dict(checkpoint["state_dict"], strict=resumed.strict_loading)
    assert not unexpected and not [name for name in missing if "lora_" in name]
    assert checkpoint[KEY]["lora"]["base"]["name"] == str(teacher)

    assert main(["export", str(teacher), str(tmp_path / "student.ckpt"), str(tmp_path / "model")]) == 0
    student, adapted = (CMDPipeline.from_pretrained(tmp_path / name) for name in ("model", "teacher"))
    assert type(student.scheduler) is LCMScheduler
    assert (student.sampling("content"), student.sampling("motion")[0]) == ((4, 1.0), 2)
    before = {name: weight.clone() for name, weight in adapted.unet.state_dict().items()}
    adapted.load_lora_weights(tmp_path / "model/lora", weight_name="pytorch_lora_weights.safetensors")
    adapted.fuse_lora(components=["unet"])
    adapted.unload_lora_weights()
    weights = student.unet.state_dict()
    for name, weight in adapted.unet.state_dict().items():
        torch.testing.assert_close(weights[name], weight, atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(weights[name], weight) for name, weight in before.items())
    assert student("a red circle", seeds=[3], output_type="latent").content.isfinite().all()
