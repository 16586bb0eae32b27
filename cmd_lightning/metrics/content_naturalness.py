"""ContentNaturalness: how close content frames are to real frames, before any image model is trained on them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.inputs import unit_range

PATCH = 8
"""Side in pixels of the patches that the denoiser sees."""
MEASURES = ("high_frequency", "local_correlation", "total_variation", "denoising_error")
REAL = "_of_real_frames"
"""Suffix of a measure of the real frames."""


class ContentNaturalness(Metric):
    """Four statistics of content frames and of real frames; similar values mean that an image model can learn them.

    `compute` returns, for the content frames and with the suffix `_of_real_frames` for the real ones:

    - `high_frequency`: share of the energy of all frames, without their means, at spatial frequencies above half the
      Nyquist frequency (0.25 cycles per pixel); 0.80 for white noise.
    - `local_correlation`: correlation of neighbouring pixels, right and below; 0 for white noise.
    - `total_variation`: mean absolute difference of neighbouring pixels, in the value range [0, 1].
    - `denoising_error`: expected mean squared error of the best linear denoiser of 8 × 8 patches of the *real* frames
      (a Wiener filter, in closed form) under Gaussian noise, over the variance of that noise. The error is
      larger for patches that do not occur in real frames.

    A halftone, in which neighbouring pixels come from different frames, raises all but the correlation.

    Args:
        noise: Standard deviation of the denoiser's noise, in the value range [0, 1].
        **kwargs: As for `torchmetrics.Metric`.

    Raises:
        InputError: The noise is not positive.

    Examples:
        Noise has more energy at high frequencies than smooth frames have.

        >>> import torch
        >>> from cmd_lightning.metrics import ContentNaturalness
        >>> smooth = torch.linspace(0, 1, 32).expand(4, 3, 32, 32)
        >>> naturalness = ContentNaturalness()
        >>> naturalness.update(torch.rand(4, 3, 32, 32), real=False)
        >>> naturalness.update(smooth, real=True)
        >>> values = naturalness.compute()
        >>> values["high_frequency"] > 0.7, values["high_frequency_of_real_frames"] < 0.1
        (tensor(True), tensor(True))
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    real_patches: Tensor
    real_patch_sum: Tensor

    def __init__(self, noise: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if noise <= 0:
            raise InputError(f"noise {noise}: give a standard deviation above 0, in the value range [0, 1]")
        self.noise = noise
        for side in ("content", "real"):
            for name, size in (
                ("energies", (2,)),  # above half the Nyquist frequency, and in all
                ("products", (2,)),  # of neighbours, and the mean square of both
                ("variation", (2,)),  # sum, and number of pairs
                ("patches", (1,)),
                ("patch_sum", (PATCH**2,)),
                ("patch_products", (PATCH**2, PATCH**2)),
            ):
                zero = torch.zeros(size, dtype=torch.float64)
                self.add_state(f"{side}_{name}", default=zero, dist_reduce_fx="sum")

    def update(self, images: Tensor, real: bool) -> None:
        """Add frames.

        Args:
            images: `(N, C, H, W)`, uint8 or float in [0, 1], height and width at least 8.
            real: Whether they are frames of real videos; else they are content frames.

        Raises:
            InputError: The shape or the range is wrong.
        """
        if not isinstance(images, Tensor) or images.ndim != 4 or min(images.shape[2:]) < PATCH:
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise InputError(f"images {shape}: give (N, C, H, W), height and width at least {PATCH}")
        images = unit_range(images[:, :, None])[:, :, 0].double()
        side = "real" if real else "content"
        for name, value in frame_sums(images).items():
            state = f"{side}_{name}"
            setattr(self, state, getattr(self, state) + value)

    def compute(self) -> dict[str, Tensor]:
        """The measures by name, scalars.

        Raises:
            InputError: There are no content frames, or no real ones.
        """
        for side in ("content", "real"):
            if not getattr(self, f"{side}_patches"):
                raise InputError(
                    f"ContentNaturalness: no {side} frames yet; call update(images, real={side == 'real'})"
                )
        mean = self.real_patch_sum / self.real_patches
        covariance = self._moment("real", mean)
        identity = torch.eye(PATCH**2, dtype=covariance.dtype, device=covariance.device)
        denoiser = torch.linalg.solve(covariance + self.noise**2 * identity, covariance)
        values: dict[str, Tensor] = {}
        for side, suffix in (("content", ""), ("real", REAL)):
            sums = (getattr(self, f"{side}_{name}") for name in ("energies", "products", "variation"))
            for name, (part, whole) in zip(MEASURES[:3], sums, strict=True):
                values[name + suffix] = torch.where(whole > 0, part / whole, torch.zeros_like(part)).float()
            kept = denoiser - identity
            error = torch.trace(kept @ self._moment(side, mean) @ kept.mT) / self.noise**2
            spread = denoiser.square().sum()
            values["denoising_error" + suffix] = ((error + spread) / PATCH**2).float()
        return values

    def _moment(self, side: str, mean: Tensor) -> Tensor:
        """Mean of the products of the patches of a side about `mean`, `(64, 64)`."""
        count, total = getattr(self, f"{side}_patches"), getattr(self, f"{side}_patch_sum")
        own = total / count
        about = getattr(self, f"{side}_patch_products") / count - torch.outer(own, own)
        return about + torch.outer(own - mean, own - mean)


def frame_sums(images: Tensor) -> dict[str, Tensor]:
    """The sums over images `(N, C, H, W)`, float64, that `ContentNaturalness` adds up, by name of its states."""
    height, width = images.shape[2:]
    centred = images - images.mean(dim=(2, 3), keepdim=True)
    frequency = torch.fft.fftfreq(height, device=images.device)[:, None].square()
    frequency = (frequency + torch.fft.fftfreq(width, device=images.device).square()).sqrt()
    energy = torch.fft.fft2(centred, norm="ortho").abs().square().sum(dim=(0, 1))
    one = torch.cat([centred[..., :-1].flatten(), centred[..., :-1, :].flatten()])
    other = torch.cat([centred[..., 1:].flatten(), centred[..., 1:, :].flatten()])  # to the right, and below
    patches = F.unfold(images.flatten(0, 1)[:, None], PATCH, stride=PATCH // 2).mT.flatten(0, 1)  # (patches, 64)
    return {
        "energies": torch.stack([energy[frequency > 0.25].sum(), energy.sum()]),
        "products": torch.stack([(one * other).sum(), (one.square() + other.square()).sum() / 2]),
        "variation": torch.stack([(one - other).abs().sum(), images.new_tensor(float(len(one)))]),
        "patches": images.new_tensor([float(len(patches))]),
        "patch_sum": patches.sum(dim=0),
        "patch_products": patches.mT @ patches,
    }
