"""Exponential moving average of the trainable weights.

Lightning's own `EMAWeightAveraging` deep-copies the whole module, frozen VAE and text encoder included, and
puts the average where the raw weights belong in the checkpoint. Here only what is trained is averaged.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cmd_lightning.callbacks.sharded_tensors import finite_everywhere, gathered, local, sharded_like
from cmd_lightning.callbacks.skip_non_finite import SkipNonFinite
from cmd_lightning.errors import InputError

CHECKPOINT_KEY = "ema"


class EMA(Callback):
    """Averages the trainable weights, and evaluates with the average.

    The average is fp32, is updated once an optimiser step, and takes the place of the raw weights during
    validation, test and predict. Afterwards, and when an exception ends the run, the raw weights are back bit
    for bit, so training never sees the average. Buffers are not averaged.

    A checkpoint keeps the raw weights in `state_dict` and the average in `checkpoint["ema"]`, a plain
    dictionary from parameter name to tensor: `checkpoint["state_dict"] | checkpoint["ema"]` is what to use
    for generation. Lightning leaves callbacks, hence the average, out with `save_weights_only=True`.

    Under `ModelParallelStrategy` the average is sharded as the weights are, and whole in checkpoints.

    Args:
        decay: Weight of the old average in an update. In update n it is at most `(1 + n) / (10 + n)`, so that
            a short run does not keep its random initialisation in the average.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            raise InputError(f"EMA decay={decay} is not in [0, 1); try 0.999, or remove the callback for no average")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.updates = 0
        self._last_step = 0
        self._raw: dict[str, Tensor] = {}  # the raw weights, while the average is in their place

    @property
    def swapped(self) -> bool:
        """Whether the module holds the average at the moment."""
        return bool(self._raw)

    @torch.no_grad()
    def update(self, module: LightningModule) -> bool:
        """Updates the average with the module's trainable weights; False, and no update, if one is not finite."""
        weights = _trainable(module)
        if not finite_everywhere(weights.values()):  # one synchronisation for all tensors
            return False
        self._complete(weights)
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if weights:
            averages = [local(self.average[name]) for name in weights]
            get_ema_multi_avg_fn(decay)(averages, [local(weight).float() for weight in weights.values()], None)
        return True

    @torch.no_grad()
    def swap_in(self, module: LightningModule) -> None:
        """Puts the average into the module; does nothing without an average, or if it is there already."""
        if self.swapped:
            return
        weights = dict(module.named_parameters())
        for name, average in self.average.items():
            # Copied in place, storages stay: CUDA graphs and compiled code hold the addresses.
            self._raw[name] = weights[name].detach().clone()
            weights[name].copy_(average)

    @torch.no_grad()
    def swap_out(self, module: LightningModule) -> None:
        """Puts the raw weights back into the module that was given to `swap_in`, if it holds the average."""
        weights = dict(module.named_parameters())
        for name, raw in self._raw.items():
            weights[name].copy_(raw)
        self._raw = {}

    def _complete(self, weights: dict[str, Tensor]) -> None:
        """Starts the average of weights that have none yet, and moves it to where the weights are."""
        for name, weight in weights.items():
            if name in self.average:
                self.average[name] = self.average[name].to(weight.device)
            else:
                self.average[name] = weight.to(torch.float32, copy=True)

    # Training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses strategies whose shards are not the weights' own."""
        if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy):
            raise InputError(
                f"EMA does not support the sharded weights of {type(trainer.strategy).__name__}; "
                "use trainer.strategy=ddp or sharded, or remove the EMA callback"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts from the raw weights where no average was loaded."""
        self._complete(_trainable(pl_module))
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Updates after an optimiser step: not after a batch that only accumulated gradients, nor a skipped one."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it from elsewhere
        if any(isinstance(callback, SkipNonFinite) and callback.skipping for callback in callbacks):
            return
        if not self.update(pl_module):
            rank_zero_warn(f"Step {trainer.global_step}: a weight is NaN or infinite, the EMA was not updated.")

    # Evaluation. The average leaves at `on_*_end`, not at `on_*_epoch_end`: there the module and other
    # callbacks still compute (metrics, preview videos), whatever their order.

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps the average in."""
        self.swap_in(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps the average out."""
        self.swap_out(pl_module)

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Swaps the average out when evaluation is cut short."""
        self.swap_out(pl_module)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The number of updates, for the warm-up; the average itself goes to `checkpoint["ema"]`."""
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the number of updates."""
        self.updates = state_dict["updates"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the average, and sees to it that `state_dict` has the raw weights even during evaluation."""
        checkpoint[CHECKPOINT_KEY] = gathered(self.average, keep=trainer.is_global_zero)
        raw = gathered(self._raw, keep=trainer.is_global_zero)
        names = {id(weight): name for name, weight in pl_module.named_parameters()}
        # `state_dict` has tied weights under each of their names.
        for alias, weight in pl_module.named_parameters(remove_duplicate=False):
            if alias in checkpoint["state_dict"] and names[id(weight)] in raw:
                checkpoint["state_dict"][alias] = raw[names[id(weight)]]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the average, or start it from the raw weights if the checkpoint has no average."""
        self.average, self.updates = {}, 0
        if CHECKPOINT_KEY not in checkpoint:
            rank_zero_info("The checkpoint has no EMA weights; averaging starts from its raw weights.")
            return
        weights = dict(pl_module.named_parameters())
        for name, average in checkpoint[CHECKPOINT_KEY].items():
            if name not in weights or weights[name].shape != average.shape:
                rank_zero_warn(f"The checkpoint's EMA weight {name} does not fit the model and is left out.")
                continue
            self.average[name] = sharded_like(average.to(weights[name].device, torch.float32, copy=True), weights[name])


def _trainable(module: LightningModule) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in module.named_parameters() if weight.requires_grad}
