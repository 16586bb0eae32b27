"""What a video is generated from: class labels or captions to a `Condition`, and the null condition."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.networks import Condition, Network

Values = Sequence[str] | Sequence[int] | int
"""What videos are generated from: captions, class ids, or for an unconditional model their number."""

MAX_CLASSES = 1_000_000
"""A larger label is taken for an identifier, not for a class."""


class ConditionEncoder(Network):
    """Encodes the captions or class labels of a batch.

    Attributes:
        dim: Channels K of the condition.
        field: The entry of a batch that it reads.
        frozen: Whether it is pretrained and not trained further; `open` reads its weights, and checkpoints leave them
            out.
        context_length: Largest number of tokens that it reads of a caption, start and end included; None: no limit.
    """

    dim: int
    field: Literal["caption", "label"]
    frozen: bool = False
    context_length: int | None = None
    entry_points = ("null",)

    @abstractmethod
    def forward(self, values: Any) -> Condition:
        """The condition of each value: of captions or, as `field` says, of class labels."""

    def null(self, count: int) -> Condition:
        """The null condition, `count` times, in the same shapes: by default that of the empty caption."""
        return self([""]).map(lambda x: x.expand(count, *x.shape[1:]))

    def cut(self, caption: str) -> str:
        """The end of a caption that does not fit into the encoder's context and is not read; "" if all of it fits."""
        return ""

    def unseen(self, caption: str) -> list[str]:
        """The words of a caption that the encoder never saw in training; [] if the weights do not show this."""
        return []

    def similar(self, word: str) -> list[str]:
        """Known words that are spelled like an unseen one, the most similar first; [] if the encoder has no list."""
        return []


class ClassEncoder(ConditionEncoder):
    """A learned vector for each class, and one more for the null condition.

    Args:
        num_classes: Number of classes; labels run from 0. None: the number in the training data.
        dim: Channels K of the vectors.
    """

    field = "label"
    table: nn.Embedding

    def __init__(self, num_classes: int | None = None, dim: int = 128) -> None:
        super().__init__()
        self.num_classes, self.dim = num_classes, dim
        if num_classes is not None:
            self.set_classes(num_classes)

    def set_classes(self, num_classes: int) -> None:
        """Create the vectors, with random weights, and record the number of classes.

        Args:
            num_classes: Number of classes.

        Raises:
            InputError: The number is less than 1, or far too large.
        """
        if not 1 <= num_classes <= MAX_CLASSES:
            raise InputError(
                f"model.condition.num_classes {num_classes}: give 1 to {MAX_CLASSES}, above the largest label; number "
                "the classes of the data from 0"
            )
        self.num_classes = num_classes
        self.register_to_config(num_classes=num_classes)
        self.table = nn.Embedding(num_classes + 1, self.dim)

    def forward(self, values: Sequence[int] | Tensor) -> Condition:
        known = self._known()
        labels = torch.as_tensor(values, device=self.execution_device)
        wrong = labels[(labels < 0) | (labels >= known)]
        if len(wrong):
            raise InputError(
                f"class {int(wrong[0])}: the model knows classes 0 to {known - 1}; "
                "give one of these (training: data with labels, and condition.num_classes above the largest)"
            )
        return self._look_up(labels)

    def null(self, count: int) -> Condition:
        return self._look_up(torch.full((count,), self._known(), device=self.execution_device))

    def _known(self) -> int:
        if self.num_classes is None:
            raise InputError("model.condition.num_classes: not known yet; give the number of classes")
        return self.num_classes

    def _look_up(self, rows: Tensor) -> Condition:
        pooled = self.table(rows)
        return Condition(pooled, pooled[:, None], torch.ones_like(rows, dtype=torch.bool)[:, None])


class OpenCLIPTextEncoder(ConditionEncoder):
    """The text tower of an open_clip model: the hidden state of every token, and their mean.

    The null condition is the empty caption, as in Stable Diffusion; if the tower is trained, its encoding is too.

    Args:
        text_cfg: open_clip's own `text_cfg`: `context_length`, `width`, `heads`, `layers`, and optionally more.
        trainable: Whether the tower is trained with the model, or frozen.
    """

    field = "caption"

    def __init__(self, text_cfg: dict[str, Any], trainable: bool = True) -> None:
        super().__init__()
        from open_clip.tokenizer import SimpleTokenizer
        from open_clip.transformer import TextTransformer

        self.tower = TextTransformer(**text_cfg, output_dim=None, output_tokens=True)
        self.tower.requires_grad_(trainable)
        # Zero: the vector of a word that training never shows stays zero, instead of random. So the weights show which
        # words were seen; see `unseen`.
        nn.init.zeros_(self.tower.token_embedding.weight)
        self.context_length = self.tower.context_length
        self.tokenizer = SimpleTokenizer(context_length=self.context_length)
        self.dim = self.tower.width

    def forward(self, values: Sequence[str]) -> Condition:
        tokens = self.tokenizer(list(values)).to(self.execution_device)
        end = tokens.argmax(dim=1, keepdim=True)  # the end token has the largest id
        mask = torch.arange(tokens.shape[1], device=tokens.device) <= end
        _, hidden = self.tower(tokens)
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return Condition(pooled, hidden, mask)

    def cut(self, caption: str) -> str:
        tokens = self.tokenizer.encode(caption)
        return self.tokenizer.decode(tokens[self.tower.context_length - 2 :]).strip()  # besides start and end

    def unseen(self, caption: str) -> list[str]:
        if self.tower.token_embedding.weight.is_meta:  # sequential offload keeps the weights elsewhere
            return []
        seen = (self.tower.token_embedding.weight != 0).any(dim=1).tolist()
        words = self.tokenizer.pat.findall(self.tokenizer.clean_fn(caption))
        return [word for word in dict.fromkeys(words) if not all(seen[token] for token in self.tokenizer.encode(word))]


def remarks(encoders: Iterable[ConditionEncoder | None], caption: str) -> list[str]:
    """A sentence for each part of a prompt that the encoders of a model's stages ignore; none for most prompts."""
    own = [encoder for encoder in encoders if encoder is not None]
    if own and not caption.strip():
        return ["the prompt is empty: generation is unconditional"]
    prompt = f"prompt {caption if len(caption) <= 60 else caption[:57] + '...'!r}"
    cut = {encoder.context_length: end for encoder in own if (end := encoder.cut(caption))}
    unseen = dict.fromkeys(word for encoder in own for word in encoder.unseen(caption))
    found = [f"{prompt}: longer than the {most} tokens that the model reads; cut: {end!r}" for most, end in cut.items()]
    if unseen:
        similar = {word: [near for encoder in own for near in encoder.similar(word)][:1] for word in unseen}
        words = [f"{word} (did you mean {near[0]}?)" if near else word for word, near in similar.items()]
        found.append(f"{prompt}: words that the model never saw in training: {', '.join(words)}")
    return found


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case and without punctuation."""
    return re.findall(r"[\w'-]+", text.lower())


class PhraseEncoder(ConditionEncoder):
    """A learned vector for each word of a small vocabulary in each phrase of a caption; their sum is the condition.

    For short captions without grammar, trained from scratch: different captions have different vectors from the first
    step on, which a text tower has to learn first. Commas separate phrases; a word has a different vector in each
    phrase, so "a red circle, a blue square" is not "a blue circle, a red square". Other words are ignored.

    Args:
        words: The vocabulary, in lower case.
        phrases: Phrases with their own vectors; later ones share the last one's.
        dim: Channels K of the vectors.
        ignored: Words of the captions that need no vector, such as articles; prompts may have them without a warning.

    Raises:
        InputError: A number is less than 1, or a word is given twice.
    """

    field = "caption"

    def __init__(
        self, words: list[str], phrases: int = 4, dim: int = 64, ignored: Sequence[str] = ("a", "an", "the")
    ) -> None:
        super().__init__()
        check_positive(phrases=phrases, dim=dim)
        if twice := [word for i, word in enumerate(words) if word in words[:i]]:
            raise InputError(f"words {twice[0]}: given more than once; give each word once")
        self.rows = {word: row for row, word in enumerate(words)}
        self.phrases, self.dim, self.ignored = phrases, dim, frozenset(ignored)
        self.table = nn.Embedding(phrases * len(words) + 1, dim, padding_idx=0)
        with torch.no_grad():
            self.table.weight[1:].normal_(std=0.3)

    def forward(self, values: Sequence[str]) -> Condition:
        found = [self.found(value) for value in values]
        length = max(map(len, found), default=0)
        index = torch.tensor([[*rows, *[0] * (length - len(rows))] for rows in found]).long()
        return Condition(self.table(index.to(self.execution_device)).sum(1))

    def unseen(self, caption: str) -> list[str]:
        return [word for word in dict.fromkeys(words_of(caption)) if word not in self.rows.keys() | self.ignored]

    def similar(self, word: str) -> list[str]:
        return get_close_matches(word, self.rows, n=1, cutoff=0.7)

    def found(self, caption: str) -> list[int]:
        """The rows of the known words of a caption; 0 is the row of no word."""
        phrases = enumerate(caption.split(","))
        words = [(min(i, self.phrases - 1), word) for i, phrase in phrases for word in words_of(phrase)]
        return [1 + i * len(self.rows) + self.rows[word] for i, word in words if word in self.rows]


def values_of(batch: Mapping[str, Any], encoder: ConditionEncoder | None) -> list[str] | list[int] | int:
    """What the samples of a batch are generated from: captions or labels, or without an encoder their number."""
    if encoder is None:
        return len(batch["key"])
    values = batch[encoder.field]
    return values.tolist() if isinstance(values, Tensor) else list(values)


def count_videos(values: Values, encoders: Iterable[object], seeds: Sequence[int] | None) -> int:
    """The number of videos that `values` ask for.

    Raises:
        InputError: There is no value, no part has an encoder for them, or the number of seeds differs.
    """
    count = values if isinstance(values, int) else len(values)
    if count < 1:
        raise InputError(
            f"{count} videos: the list of prompts, classes or images is empty, or 0 videos of each; give one"
        )
    if not isinstance(values, int) and not any(encoders):
        raise InputError(
            f"{values[0]!r}: this model is unconditional; give no prompt and no class, only the number of videos"
        )
    if seeds is not None and len(seeds) != count:
        raise InputError(f"seeds: {len(seeds)} given for {count} videos; give one for each")
    return count


def encode_condition(
    encoder: ConditionEncoder | None, values: Values, guidance: float, model: str, negative: Sequence[str] | None = None
) -> tuple[Condition | None, Condition | None]:
    """The condition and, if guidance is enabled, the null or negative condition; None without an encoder.

    Args:
        encoder: Reads the values.
        values: What videos are generated from.
        guidance: The guidance scale; 1 or less disables guidance.
        model: Name of the model in error messages.
        negative: A negative prompt for each video; None for the null condition.

    Raises:
        InputError: The model needs another kind of condition.
    """
    if encoder is None:
        return None, None
    kind = "number" if isinstance(values, int) else "caption" if isinstance(values[0], str) else "label"
    if kind != encoder.field:
        wanted = {"caption": "a prompt (`prompt`)", "label": "class ids (`class_labels`)"}[encoder.field]
        given = "" if kind == "number" else f", not a {kind}"
        raise InputError(f"the {model} model is conditioned on {encoder.field}s: give {wanted}{given}")
    assert not isinstance(values, int)  # no encoder reads a number
    if negative is not None and kind != "caption":
        raise InputError(
            f"`negative_prompt`: the {model} model is conditioned on {kind}s, not on captions; leave it out"
        )
    if guidance <= 1:
        return encoder(values), None
    return encoder(values), encoder.null(len(values)) if negative is None else encoder(negative)


def replace_condition(condition: Condition, null: Condition, dropped: Tensor) -> Condition:
    """Replaces the condition of the samples `dropped`, `(B,)` bool, by the null one (classifier-free guidance)."""

    def choose(own: Tensor, empty: Tensor) -> Tensor:
        return torch.where(dropped.view(-1, *[1] * (own.ndim - 1)), empty, own)

    return condition.combine(null, choose)
