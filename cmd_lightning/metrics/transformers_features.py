"""TransformersFeatures: what self-supervised video transformers see in a clip, its motion too."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmd_lightning.errors import InputError, reason
from cmd_lightning.metrics.inputs import check_rgb
from cmd_lightning.provenance import sha256
from cmd_lightning.resizing import covering

# transformers takes seconds to import, so it is imported where it is needed.

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


class TransformersFeatures(nn.Module):
    """Features of a clip by a VideoMAE (arXiv 2203.12602) or a V-JEPA 2 (arXiv 2506.09985) of transformers.

    The features are the mean over all tokens of the encoder's last layer. Its final norm comes before the mean, or
    after it in a VideoMAE that was fine-tuned with mean pooling, as in VideoMAE's own code. Distances over such
    features see motion that those over the I3D overlook: arXiv 2404.12391 measures Fréchet distances over VideoMAE,
    arXiv 2410.05203 kernel distances over V-JEPA. Those papers took other checkpoints, so name values after yours.

    Clips are resized (bilinear, antialiased) until they just cover the encoder's input, cut to its centre, and
    normalised as the checkpoint's preprocessor says. Frames are taken as they come: choose their number and rate when
    reading clips.

    Args:
        checkpoint: Id on the Hugging Face Hub, looked up in the local cache or downloaded, or a folder, as
            "MCG-NJU/videomae-base" or "facebook/vjepa2-vitl-fpc64-256".

    Attributes:
        num_features: Width of the encoder.
        name: The id, or the folder's name.
        published: False; the distances of the literature are over the I3D.
        origin: Plain data for a result's record: "checkpoint", "sha256" of its weights (of shards one after the other),
            "transformers" (version), "preparation", "features".

    Raises:
        InputError: The checkpoint cannot be had, is of another architecture, or lacks weights.

    Examples:
        A small encoder with random weights; an id, such as "MCG-NJU/videomae-base", loads published ones.

        >>> import tempfile, torch
        >>> from transformers import VideoMAEConfig, VideoMAEModel
        >>> from cmd_lightning.metrics import TransformersFeatures
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        >>> folder = tempfile.TemporaryDirectory()
        >>> VideoMAEModel(VideoMAEConfig(image_size=32, num_frames=4, **sizes)).save_pretrained(folder.name)
        >>> TransformersFeatures(folder.name)(torch.rand(2, 3, 4, 48, 64)).shape
        torch.Size([2, 8])
    """

    published = False
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        folder = _folder(checkpoint)
        self.model, self.norm = _load(checkpoint, folder)
        self.config = config = self.model.config
        self.name = folder.resolve().name if Path(checkpoint).is_dir() else checkpoint
        self.num_features: int = config.hidden_size
        self.is_vjepa = config.model_type == "vjepa2"
        size = config.crop_size if self.is_vjepa else config.image_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        processor, values = _normalisation(folder)
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)
        self.origin: dict[str, Any] = {
            "checkpoint": self.name,
            "sha256": sha256(*_weights(folder)),
            "transformers": version("transformers"),
            "preparation": {
                "resize": "crop", "size": list(self.size), "filter": "bilinear", "antialias": True,
                "normalisation": processor, **values,
            },
            "features": "mean of last hidden states" if self.norm is None else "norm of the mean of last hidden states",
        }  # fmt: skip
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """Features `(B, num_features)`, in single precision, of clips `(B, 3, T, H, W)`, float in [0, 1].

        Raises:
            InputError: Another number of channels, or of frames than the encoder takes.
        """
        check_rgb(video)
        config, frames = self.config, video.shape[2]
        given = f"video of {frames} frames: {self.name} takes"
        if self.is_vjepa and (frames < 1 or frames % config.tubelet_size):
            raise InputError(f"{given} multiples of {config.tubelet_size}; read such")
        if not self.is_vjepa and frames != config.num_frames:
            raise InputError(f"{given} exactly {config.num_frames}; read clips of that many")
        images = covering(video.float().transpose(1, 2).flatten(0, 1), self.size, "bilinear")
        clips = ((images - self.image_mean) / self.image_std).unflatten(0, (len(video), -1))  # (B, T, 3, h, w)
        if self.is_vjepa:
            states = self.model(pixel_values_videos=clips, skip_predictor=True).last_hidden_state
        else:
            states = self.model(pixel_values=clips).last_hidden_state
        features = states.mean(1)
        return features if self.norm is None else self.norm(features)


def _folder(checkpoint: str) -> Path:
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(checkpoint, allow_patterns=["*.json", "*.safetensors"]))
        if not _weights(folder):
            folder = Path(snapshot_download(checkpoint, allow_patterns=["*.json", "pytorch_model*.bin"]))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"checkpoint {checkpoint}: no folder, neither in the local cache nor to be downloaded "
            f"({reason(error)}); check the id, or give the folder of a VideoMAE or V-JEPA 2"
        ) from error
    return folder


def _weights(folder: Path) -> list[Path]:
    """The files that transformers would load, by name."""
    for pattern in ("model.safetensors", "model-*.safetensors", "pytorch_model*.bin"):
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def _load(checkpoint: str, folder: Path) -> tuple[Any, nn.Module | None]:
    """The encoder, and the norm that follows the mean if it has one there."""
    from transformers import AutoConfig, AutoModel, VideoMAEForVideoClassification
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    wanted = "give the id or the folder of a VideoMAE or V-JEPA 2 checkpoint of transformers"
    try:
        config = AutoConfig.from_pretrained(folder)
        if config.model_type not in ("videomae", "vjepa2"):
            raise InputError(f"checkpoint {checkpoint}: a model of type {config.model_type}; {wanted}")
        classifier = config.architectures == ["VideoMAEForVideoClassification"] and config.use_mean_pooling
        kind: Any = VideoMAEForVideoClassification if classifier else AutoModel
        logging.set_verbosity_error()  # else it reports weights that have no place in the encoder: heads and decoders
        model, report = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(f"checkpoint {checkpoint}: cannot be opened ({reason(error)}); {wanted}") from error
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(report["missing_keys"]):  # transformers fills them at random and continues
        raise InputError(
            f"checkpoint {checkpoint}: transformers {version('transformers')} finds no weights for {len(missing)} "
            f"parameters ({missing[0]}, ...); complete the checkpoint, or update transformers"
        )
    return (model.videomae, model.fc_norm) if classifier else (model, None)


def _normalisation(folder: Path) -> tuple[str, dict[str, list[float]]]:
    """Which file tells mean and standard deviation of pixels in [0, 1], and these."""
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            told = json.loads((folder / name).read_text())
            if not told.get("do_normalize", True):
                return name, {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
            if all(key in told for key in IMAGENET):
                return name, {key: told[key] for key in IMAGENET}
    return "ImageNet", IMAGENET
