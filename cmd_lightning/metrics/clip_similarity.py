"""How well videos show what their captions say, by a CLIP model: the mean cosine that papers call CLIPSIM."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn

from cmd_lightning import compat
from cmd_lightning.errors import InputError, reason
from cmd_lightning.metrics.inputs import check_rgb, unit_range
from cmd_lightning.metrics.precision import Frozen, KeepsPrecision, float32_weights, single_precision
from cmd_lightning.metrics.torchscript import UNTRUSTED, is_torchscript, load_torchscript
from cmd_lightning.provenance import sha256
from cmd_lightning.resizing import covering

# open_clip takes seconds to import, so it is imported where it is needed.

Resize = Literal["crop", "stretch"]
Tokenizer = Callable[[list[str]], Tensor]

NOT_AT_HAND = (
    "weights of {} are not in the local cache and cannot be downloaded ({}); load them once with network access, "
    "or give pretrained= a file"
)

OTHER_ACTIVATION = "model {model}: weights {pretrained} were trained with QuickGELU; use {model}-quickgelu"

IMAGES = 256  # that go through the network at once


class CLIPSimilarity(KeepsPrecision, Metric):
    """Cosine of each frame with the caption, averaged over the frames of a video and then over the videos.

    The cosine is raw, in [-1, 1]: not times 100 and not cut at 0. (torchmetrics' `CLIPScore` is both; with the same
    weights and images it is `100 * max(value, 0)`.) Values of different models cannot be compared, so report
    the model, and the numbers of videos and frames, with a value. OpenAI's ViT-B/32 is the one of the
    literature (GODIVA, arXiv 2104.14806).

    Args:
        model: An open_clip model, or the name of one. OpenAI's weights need a name that ends in "-quickgelu".
        tokenizer: Captions to tokens `(B, L)`; of a model by name, its own if None.
        pretrained: Which weights of a model by name: a tag of open_clip's, looked up in the local cache or downloaded,
            or a file.
        resize: How frames get the model's size: "crop", as CLIP's own preparation does it, brings the shorter side to
            it and cuts out the centre; "stretch" squeezes the whole frame into it. Square frames are the same by both.
            Both filters are bicubic and antialiased.
        trust_torchscript: Whether to open a file of TorchScript: see `open_clip_model`.

    Attributes:
        name: Of the model and its weights, as in "ViT-B-32-quickgelu/openai", or "ViT-B-32/mine.pt" of a file.
        origin: Plain data for a result's record: "model", "pretrained", "resize", of a weights file its "sha256", and
            "warning" if there is something to warn about.

    Raises:
        InputError: A model without a tokenizer, or a name or weights that cannot be opened: see `open_clip_model`.

    Examples:
        A small model with random weights; `CLIPSimilarity()` has the published ones.

        >>> import open_clip, torch
        >>> from cmd_lightning.metrics import CLIPSimilarity
        >>> vision = open_clip.CLIPVisionCfg(layers=1, width=64, patch_size=16, image_size=32)
        >>> text = open_clip.CLIPTextCfg(layers=1, width=64, heads=1)
        >>> metric = CLIPSimilarity(open_clip.CLIP(8, vision, text), open_clip.SimpleTokenizer())
        >>> metric.update(torch.rand(2, 3, 4, 32, 32), ["a dog", "a cat"])
        >>> -1 < metric.compute() < 1
        tensor(True)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = -1.0
    plot_upper_bound = 1.0

    plot = compat.plot  # torchmetrics asks each metric for it

    total: Tensor
    count: Tensor

    def __init__(
        self,
        model: nn.Module | str = "ViT-B-32-quickgelu",
        tokenizer: Tokenizer | None = None,
        pretrained: str | Path = "openai",
        resize: Resize = "crop",
        trust_torchscript: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if resize not in ("crop", "stretch"):
            raise InputError(f"resize {resize}: give crop or stretch")
        if isinstance(model, str):
            model, own, self.origin = open_clip_model(model, pretrained, trust_torchscript)
            tokenizer = tokenizer or own
            self.name = f"{self.origin['model']}/{self.origin['pretrained']}"
        elif tokenizer is None:
            raise InputError("tokenizer None: a model given as a module needs its tokenizer too")
        else:
            self.name = type(model).__name__
            self.origin = {"model": self.name, "pretrained": None}
        self.origin["resize"] = self.resize = resize
        self.model, self.tokenizer = Frozen(model), tokenizer
        self.warned = False
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def images(self, video: Tensor) -> Tensor:
        """The N images `(B, N, C, h, w)` in [0, 1] that the model sees of each clip: here every frame.

        Args:
            video: `(B, C, T, H, W)`, float in [0, 1].
        """
        return video.transpose(1, 2)

    @torch.no_grad()
    def similarities(self, video: Tensor, captions: Sequence[str] | None) -> Tensor:
        """Mean cosine of each video's images with its caption, `(B,)` in double precision.

        Arguments and errors as for `update`.
        """
        if captions is None or isinstance(captions, str) or len(video) != len(captions):
            raise InputError(f"captions {captions!r:.60}: give a list with one for each of {len(video)} videos")
        for place, caption in enumerate(captions, start=1):
            if not (isinstance(caption, str) and caption.strip()):  # a cosine with nothing means nothing
                raise InputError(
                    f"captions: number {place} of {len(captions)} is {caption!r}; give each video a caption"
                )
        video = unit_range(video)
        check_rgb(video)
        weight = next(self.model.parameters(), video)
        with single_precision(video.device):
            texts = self.model.encode_text(self.tokens(captions).to(video.device))
            images = self.images(video)
            number = images.shape[1]
            parts = (normalised(self.model.visual, p, self.resize) for p in images.flatten(0, 1).split(IMAGES))
            images = torch.cat([self.model.encode_image(part.to(weight.dtype)) for part in parts])
        cosines = cosine_similarity(images.double(), texts.double().repeat_interleave(number, dim=0))
        return cosines.view(-1, number).mean(1)

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Captions as tokens `(B, L)`; warns the first time that some do not fit."""
        tokens = self.tokenizer(list(captions))
        if not self.warned and hasattr(self.tokenizer, "encode"):  # as of open_clip's own tokenizer of CLIP
            length = tokens.shape[1]
            cut = sum(len(self.tokenizer.encode(caption)) + 2 > length for caption in captions)  # with start and end
            if cut:
                self.warned = True
                rank_zero_warn(f"captions: {cut} of {len(captions)} are cut, the model reads {length} tokens at most")
        return tokens

    def update(self, video: Tensor, captions: Sequence[str] | None) -> None:
        """Take in videos with their captions.

        Args:
            video: `(B, C, T, H, W)`, uint8 or float in [0, 1].
            captions: One of each video. What is beyond the model's context, 77 tokens in OpenAI's, is cut with a
                warning.

        Raises:
            InputError: Another shape, range or number of channels, or another number of captions, or an empty one.
        """
        values = self.similarities(video, captions)
        self.total += values.sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        """The mean over all videos so far, a scalar."""
        if not self.count:
            raise RuntimeError("CLIPSimilarity has seen no video: call update first")
        return self.total / self.count


def normalised(visual: Any, images: Tensor, resize: Resize = "crop") -> Tensor:
    """Images `(N, C, h, w)` in [0, 1] at the size and in the value range of an open_clip model's visual part."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    size = visual.image_size if isinstance(visual.image_size, tuple) else (visual.image_size,) * 2
    if resize == "crop":
        images = covering(images, size, "bicubic")
    elif images.shape[-2:] != size:
        images = interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (
        torch.tensor(getattr(visual, name, None) or default, dtype=torch.float32, device=images.device).view(3, 1, 1)
        for name, default in (("image_mean", OPENAI_DATASET_MEAN), ("image_std", OPENAI_DATASET_STD))
    )
    return (images - mean) / std


@float32_weights()
def open_clip_model(
    model: str, pretrained: str | Path, trust_torchscript: bool = False
) -> tuple[nn.Module, Tokenizer, dict[str, Any]]:
    """A CLIP model, its tokenizer, and what was opened.

    Weights that were trained with the activation QuickGELU, OpenAI's above all, give plausible but wrong values in a
    model without it. Of published tags this is known, and so it is of OpenAI's own archives (TorchScript); of other
    files the path tells it at best.

    Args:
        model: A name out of `open_clip.list_models()`.
        pretrained: A tag of published weights, which are looked up in the local cache or downloaded; or a file.
        trust_torchscript: Whether to open a file of TorchScript, as OpenAI's own are. It is a program: trust its
            author.

    Returns:
        Model, tokenizer, and plain data for a result's record: "model", "pretrained", of a file "sha256", and perhaps
        "warning".
    """
    import open_clip

    if model not in open_clip.list_models():
        raise InputError(f"model {model}: open_clip has no such model, see open_clip.list_models()")
    file, tag = Path(pretrained), open_clip.get_pretrained_cfg(model, str(pretrained))
    if not tag and not file.is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise InputError(f"pretrained {pretrained}: no file, nor a tag of {model}; give a file or one of: {tags}")
    record = {"model": model, "pretrained": str(pretrained) if tag else file.name}
    scripted = not tag and is_torchscript(file)
    quick = f"{model}-quickgelu"
    if quick in open_clip.list_models():
        if scripted or tag.get("quick_gelu"):
            raise InputError(OTHER_ACTIVATION.format(model=model, pretrained=pretrained))
        if not tag and "openai" in str(file.resolve()).lower():
            record["warning"] = f"model {model}: {file.name} seems to be OpenAI's, and those weights need {quick}"
            rank_zero_warn(record["warning"])
    if scripted and not trust_torchscript:
        raise InputError(f"pretrained {pretrained}: {UNTRUSTED.format(call='CLIPSimilarity')}")
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # open_clip logs what it is about to raise
    try:
        if scripted:
            network = open_clip.create_model(model, pretrained_text=False)
            network.load_state_dict(_scripted_weights(file))
        else:
            if tag:
                expect_weights(model, str(pretrained))
            network = open_clip.create_model(model, pretrained=str(pretrained), weights_only=True)
        tokenizer = open_clip.get_tokenizer(model)
    except InputError:
        raise
    except Exception as error:  # of pickle, zipfile, safetensors, the Hub, the interpreter of TorchScript
        problem = NOT_AT_HAND if tag else "no weights of {} ({}); check the file"
        raise InputError(f"pretrained {pretrained}: {problem.format(model, reason(error))}") from error
    finally:
        logging.disable(before)
    if not tag:
        record["sha256"] = sha256(file)
    return network, tokenizer, record


def expect_weights(model: str, tag: str) -> None:
    """Check that the hub can be reached for published weights that are not in the local cache.

    It is asked once: open_clip would try for a minute, and only after it has built the model.

    Raises:
        InputError: It cannot be reached, or has no such repository; or the model has another activation function.
    """
    import open_clip
    from huggingface_hub import HfApi, try_to_load_from_cache
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    config = open_clip.get_pretrained_cfg(model, tag) or {}
    if config.get("quick_gelu") and f"{model}-quickgelu" in open_clip.list_models():
        raise InputError(OTHER_ACTIVATION.format(model=model, pretrained=tag))
    repository, _, file = config.get("hf_hub", "").rpartition("/")
    names = {file or HF_WEIGHTS_NAME, HF_SAFE_WEIGHTS_NAME, f"{Path(file).stem}.safetensors"}
    if not repository or any(isinstance(try_to_load_from_cache(repository, name), str) for name in names):
        return
    try:
        HfApi().model_info(repository, timeout=10)
    except Exception as error:  # of many kinds, of the hub and of the network
        raise InputError(f"pretrained {tag}: {NOT_AT_HAND.format(model, reason(error))}") from error


def _scripted_weights(file: Path) -> dict[str, Tensor]:
    """The weights in an archive like OpenAI's, without its settings."""
    settings = ("input_resolution", "context_length", "vocab_size")
    return {name: value for name, value in load_torchscript(file).state_dict().items() if name not in settings}
