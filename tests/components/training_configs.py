"""Configs of small training runs on the command line, shared by the tests that stop, kill and resume them."""

import yaml


def config(folder, model, shards, workers) -> str:
    """Writes the config of a small training run that keeps a checkpoint of every step, and returns its path."""
    path = folder / "config.yaml"
    data = {"train_shards": str(shards), "num_frames": 6, "size": 16, "batch_size": 2, "num_workers": workers}
    content = {
        "seed_everything": 3,
        "model": model,
        "data": {"class_path": "WebVidDataModule", "init_args": data},
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "default_root_dir": str(folder),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {"class_path": "EMA"},
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {
                        "dirpath": str(folder),
                        "filename": "{step}",
                        "every_n_train_steps": 1,
                        "save_top_k": -1,
                    },
                },
                {"class_path": "LastCheckpoint", "init_args": {"folder": str(folder), "every_n_steps": 1000}},
            ],
        },
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


AUTOENCODER = {
    "class_path": "VideoAutoencoder",
    "init_args": {
        "network": {
            "class_path": "CMDAutoencoder",
            "init_args": {"patch_size": 4, "width": 16, "depth": 1, "heads": 2, "head_dim": 8},
        },
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}},
        "schedule": {"class_path": "WarmupSchedule", "init_args": {"warmup_steps": 3}},
    },
}


def motion(autoencoder) -> dict:
    """A small motion stage on captions, with random draws of everything."""
    return {
        "class_path": "MotionDiffusion",
        "init_args": {
            "autoencoder": str(autoencoder),
            "network": {"class_path": "MotionDiT", "init_args": {"width": 16, "depth": 1, "heads": 2}},
            "condition": {
                "class_path": "OpenCLIPTextEncoder",
                "init_args": {"text_cfg": {"context_length": 8, "width": 16, "heads": 2, "layers": 1}},
            },
            "condition_dropout": 0.5,
        },
    }


def motion_student(teacher) -> dict:
    """A student of a motion stage, with guidance inside."""
    schedule = {"class_path": "WarmupSchedule", "init_args": {"warmup_steps": 3}}
    given = {"teacher": str(teacher), "guidance": 2.0, "schedule": schedule}
    return {"class_path": "MotionDistillation", "init_args": given}
