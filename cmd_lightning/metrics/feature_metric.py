"""FeatureMetric and FeatureDistance: metrics over what a network makes of clips."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from cmd_lightning import compat
from cmd_lightning.errors import InputError, reason
from cmd_lightning.metrics.feature_networks import open_feature
from cmd_lightning.metrics.inputs import unit_range
from cmd_lightning.metrics.precision import KeepsPrecision
from cmd_lightning.metrics.preparation import Preparation
from cmd_lightning.metrics.sample_size import bootstrap_interval, distance_curve
from cmd_lightning.provenance import state_sha256

NO_SHAPE = 2**62  # above any shape: of a process that has seen no clip

ONE_SHAPE = (
    "video of (C, T, H, W) {} after {}: bring all clips to one number of frames and one size first, or the distance "
    "measures these"
)


class FeatureMetric(KeepsPrecision, Metric):
    """A metric over the features of clips.

    Args:
        feature: Network from clips `(B, C, T, H, W)`, float in [0, 1], to features `(B, d)`, which is used as it is,
            see `Frozen`; or what `open_feature` opens: "i3d", a weights file, ...
        preset: How clips are prepared for the network: see `Preparation.parse`.
        num_features: d; if None, the network's attribute `num_features`, else the width of what it makes of a black
            clip of 16 frames of 64x64.

    Raises:
        InputError: The network cannot be opened, or d is unknown and it does not take such a black clip.
    """

    is_differentiable = False
    full_state_update = False
    feature_network = "feature"  # where torchmetrics' FeatureShare looks
    plot = compat.plot  # torchmetrics asks each metric for it

    def __init__(
        self,
        feature: nn.Module | str | Path = "i3d",
        preset: str | Preparation | None = None,
        num_features: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.feature = open_feature(feature, preset)
        self.num_features = num_features or getattr(self.feature, "num_features", None) or self._measured()

    def _measured(self) -> int:
        device = next(self.feature.parameters(), torch.empty(0)).device
        try:
            return self.feature(torch.zeros(1, 3, 16, 64, 64, device=device)).shape[1]
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"num_features None: give it, the feature network does not tell ({reason(error)})"
            ) from error

    def features(self, video: Tensor) -> Tensor:
        """Features `(B, d)`, of single precision at least, of clips `(B, C, T, H, W)`, uint8 or float in [0, 1].

        Raises:
            InputError: The clips or the features have another shape or range, or are not finite.
        """
        features = self.feature(unit_range(video))
        if features.shape != (len(video), self.num_features):
            raise InputError(f"feature: gave {tuple(features.shape)}, not {(len(video), self.num_features)}")
        if not features.isfinite().all():
            raise InputError("feature: gave values that are not finite")
        return features if features.dtype == torch.float64 else features.float()

    @property
    def origin(self) -> dict[str, Any]:
        """What the network is, as plain data: what it says itself, and the sha256 of its weights in any case."""
        network = type(self.feature.network)
        own = getattr(self.feature, "origin", {})
        if "sha256" in own:
            return own
        return {"network": f"{network.__module__}.{network.__qualname__}", "sha256": state_sha256(self.feature)} | own

    def _none(self) -> Tensor:
        return torch.empty(0, self.num_features, dtype=torch.float64, device=self.device)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gathers the states of all processes, also of those that have seen no clip."""
        if torch.distributed.is_initialized():
            for name in self.metric_state:
                state = getattr(self, name)
                if isinstance(state, list):  # one shape and type on all, which torchmetrics' stand-in for none lacks
                    setattr(self, name, [torch.cat([self._none(), *state])])
        super().sync(*args, **kwargs)


class FeatureDistance(FeatureMetric):
    """A distance between the features of two sets of clips, real ones and generated ones.

    States whose names begin with "real_" are those of the real clips.

    Arguments are those of `FeatureMetric`, and:

    Args:
        reset_real_features: Whether `reset` forgets the real clips too; False saves computing them each time.
        keep_features: Whether all features are kept, as `curve` and `interval` need them. A subclass that passes False
            keeps its own states.
    """

    higher_is_better = False

    real_features: list[Tensor]
    fake_features: list[Tensor]

    def __init__(
        self,
        feature: nn.Module | str | Path = "i3d",
        preset: str | Preparation | None = None,
        num_features: int | None = None,
        reset_real_features: bool = True,
        keep_features: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature, preset, num_features, **kwargs)
        self.reset_real_features, self.keep_features = reset_real_features, keep_features
        self.add_state("shape_least", torch.full((4,), NO_SHAPE), dist_reduce_fx="min")
        self.add_state("shape_most", torch.zeros(4, dtype=torch.long), dist_reduce_fx="max")
        if keep_features:
            self.add_state("real_features", [], dist_reduce_fx="cat")
            self.add_state("fake_features", [], dist_reduce_fx="cat")

    @property
    def full_state_update(self) -> bool:  # type: ignore[override]  # torchmetrics has a plain attribute
        """Of torchmetrics' `forward`: the quicker way resets in between, and would count kept clips once more."""
        return not self.reset_real_features

    @abstractmethod
    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance of features of real clips `(N, d)` and of generated ones `(M, d)`, a scalar."""

    def update(self, video: Tensor, real: bool) -> None:
        """Take in clips.

        Args:
            video: `(B, C, T, H, W)`, uint8 or float in [0, 1].
            real: Whether they are real, or generated.

        Raises:
            InputError: The clips or their features have another shape or range than those before.
        """
        self._take(self.features(video), real, tuple(video.shape[1:]))

    def update_features(self, features: Tensor, real: bool, clip_shape: tuple[int, ...] | None = None) -> None:
        """Take in features.

        Args:
            features: `(B, d)`, as `features` returned them.
            real: Whether they are of real clips, or of generated ones.
            clip_shape: `(C, T, H, W)` of the clips, which must be the same for all; None if not known.

        Raises:
            InputError: Features of another width or not finite, or clips that had another shape before.
        """
        if features.ndim != 2 or features.shape[1] != self.num_features or not features.isfinite().all():
            raise InputError(f"features {tuple(features.shape)}: give finite ones, (B, {self.num_features})")
        compat.note_update(self)
        self._take(features, real, clip_shape)

    def _take(self, features: Tensor, real: bool, clip_shape: tuple[int, ...] | None) -> None:
        if not isinstance(real, bool):
            raise InputError(f"real {real!r}: give True for real clips, False for generated ones")
        if clip_shape is not None:
            self.expect_shape(clip_shape)
        self._add(features, real)

    def _add(self, features: Tensor, real: bool) -> None:
        # As they came: in double precision only where they are used, which takes half the room.
        (self.real_features if real else self.fake_features).append(features)

    @property
    def clip_shape(self) -> tuple[int, ...] | None:
        """(C, T, H, W) of the clips so far; None if not known."""
        return tuple(self.shape_most.tolist()) if self.shape_most.any() else None

    def expect_shape(self, shape: tuple[int, ...]) -> None:
        """Note the shape (C, T, H, W) of clips.

        Raises:
            InputError: Earlier clips had another one: the distance would measure length or resolution.
        """
        if self.clip_shape not in (None, shape):
            raise InputError(ONE_SHAPE.format(shape, self.clip_shape))
        self.shape_least = self.shape_most = torch.tensor(shape, device=self.device)

    def reset(self) -> None:
        """Forget all clips; of the real ones only if `reset_real_features`."""
        kept = {}
        if not self.reset_real_features:
            # A list is emptied in place by a reset.
            kept = {name: list(x) if isinstance(x, list) else x for name, x in self.real_states().items()}
            kept |= {"shape_least": self.shape_least, "shape_most": self.shape_most}
        super().reset()
        for name, value in kept.items():
            setattr(self, name, value)

    def real_states(self) -> dict[str, Any]:
        """The states of the real clips by name."""
        return {name: state for name, state in self.metric_state.items() if name.startswith("real_")}

    def counts(self) -> tuple[int, int]:
        """How many real and how many generated clips there are so far."""
        real, fake = self.kept_features()
        return len(real), len(fake)

    def compute(self) -> Tensor:
        """The distance, a scalar in double precision.

        Raises:
            InputError: Fewer than two clips of either kind, or clips of several shapes.
        """
        real, fake = self.counts()
        if min(real, fake) < 2:
            name = type(self).__name__
            raise InputError(f"{name} needs at least 2 real and 2 generated clips, not {real} and {fake}; give more")
        if self.clip_shape and (self.shape_least != self.shape_most).any():  # on two processes
            raise InputError(ONE_SHAPE.format(self.clip_shape, tuple(self.shape_least.tolist())))
        return self._value()

    def _value(self) -> Tensor:
        return self.distance(*self.kept_features())

    def kept_features(self) -> tuple[Tensor, Tensor]:
        """Features of the real clips `(N, d)` and of the generated ones `(M, d)`, of this process or synchronised.

        Raises:
            InputError: They were not kept.
        """
        if not self.keep_features:
            raise InputError("keep_features False: only sums of features were kept; set it to True")
        states = (self.real_features, self.fake_features)  # tensors while they are synchronised
        real, fake = (torch.cat([self._none(), *x]) if isinstance(x, list) else x for x in states)
        return real, fake

    def curve(self, seed: int = 0) -> dict[int, float]:
        """The distance at a quarter, half and all of the clips, by number: `distance_curve`.

        To be called on every process. `extrapolated` tells where it leads.
        """
        with self.sync_context(should_sync=self.sync_on_compute):
            return distance_curve(*self.kept_features(), self.distance, seed)

    def interval(self, resamples: int = 100, confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Within which the distance scatters by the choice of clips: `bootstrap_interval`. On every process."""
        with self.sync_context(should_sync=self.sync_on_compute):
            return bootstrap_interval(*self.kept_features(), self.distance, resamples, confidence, seed)
