"""Inputs of condition encoders from the data: number of classes, captions, and captions stored encoded in shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from cmd_lightning.conditioning import ConditionEncoder
from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition


def count_classes(datamodule: Any, stage: str) -> int:
    """The number of classes of a DataModule; `InputError` if it has none."""
    count = getattr(datamodule, "num_classes", None)
    if count is None:
        raise InputError("model.condition.num_classes: the data do not provide the number of classes; give it")
    if not (number := count()):
        raise InputError(
            f"data: the index of the shards has no classes, which the {stage} stage is conditioned on; run "
            "`shards check` on them, or pack clips with class folders or a column label; or give model.condition "
            "null, or a text encoder"
        )
    return number


def warn_of_captions(captions: Sequence[str], of: str, encoder: ConditionEncoder, stage: str) -> None:
    """Warns of empty captions and of captions that the text encoder truncates."""
    empty, cut = sum(not caption for caption in captions), sum(bool(encoder.cut(caption)) for caption in captions)
    if empty:
        rank_zero_warn(f"{empty} of {len(captions)} {of} have no caption.")
    if cut:
        rank_zero_warn(
            f"{cut} of {len(captions)} {of} have a caption longer than the {encoder.context_length} tokens that "
            f"the {stage} stage's text encoder reads; their ends are not used."
        )


def stored_condition(text: Mapping[str, Mapping[str, Tensor]], encoder: Any, stage: str) -> Condition:
    """The condition by a frozen encoder that latent shards contain; `InputError` if it is by other encoders."""
    if (stored := text.get(encoder.fingerprint)) is None:
        raise InputError(
            f"data: these latents come with text of other encoders ({', '.join(text)}) than the "
            f"{stage} stage's ({encoder.fingerprint}); encode them again with its `text`, or with none"
        )
    return Condition(stored["pooled"], stored["tokens"], stored["mask"])
