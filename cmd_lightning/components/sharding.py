"""Weights, gradients and optimiser states in shards, one per process (torch's `fully_shard`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning import LightningModule
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from cmd_lightning import compat
from cmd_lightning.callbacks.sharded_tensors import gathered, sharded_like
from cmd_lightning.callbacks.whole_checkpoint import WholeCheckpointIO
from cmd_lightning.compat import REPEATED, WHOLE
from cmd_lightning.errors import InputError
from cmd_lightning.networks.compiling import blocks


class ShardedStrategy(ModelParallelStrategy):
    """`--trainer.strategy sharded`: Lightning's `ModelParallelStrategy` over all processes, with whole checkpoints.

    The checkpoints are the same as without shards: training can resume with another strategy or number of processes,
    and later stages read them. (Lightning's own checkpoints are in pieces, or their weights are loaded before a
    component can check the stage; and it restores wrong states for an optimiser that leaves some weights out.)

    Args:
        process_group_backend: "nccl", "gloo" or another of torch.distributed; by default chosen for the devices.
        timeout: How long a process waits for the others.
    """

    lightning_restore_optimizer = True  # so that `load_optimizer_state_dict` is called

    def __init__(
        self, process_group_backend: str | None = None, timeout: timedelta | None = default_pg_timeout
    ) -> None:
        super().__init__("auto", 1, False, process_group_backend, timeout)

    def setup_environment(self) -> None:
        """Sets the number of shards to the number of processes on all nodes."""
        compat.shard_over(self, self.num_nodes * self.num_processes)
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole weights on the first process, {} on the others."""
        assert self.model is not None
        return gathered(self.model.state_dict(), keep=self.is_global_zero)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state of an optimiser on the first process, {} on the others."""
        return gathered(optimizer.state_dict(), keep=self.is_global_zero)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads it with `WholeCheckpointIO`; the processes of a machine share one copy of the tensors in memory."""
        return WholeCheckpointIO(mmap=True).load_checkpoint(checkpoint_path)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Loads this process's part of the weights."""
        assert self.model is not None
        own = self.model.state_dict()
        kept = checkpoint["state_dict"]
        parts = {name: sharded_like(kept[name], own[name]) if name in own else kept[name] for name in kept}
        self.model.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Loads this process's part of the optimisers' states."""
        for optimizer, kept in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            numbers = [number for group in kept["param_groups"] for number in group["params"]]
            parts = {
                number: {
                    name: sharded_like(value, weight) if getattr(value, "shape", None) == weight.shape else value
                    for name, value in kept["state"][number].items()
                }
                for number, weight in zip(numbers, weights, strict=True)
                if number in kept["state"]
            }
            optimizer.load_state_dict({"state": parts, "param_groups": kept["param_groups"]})


StrategyRegistry.register("sharded", ShardedStrategy, description="weights, gradients and optimiser states in shards")


def shard(component: LightningModule, mesh: DeviceMesh) -> None:
    """Shards the weights of a component over the processes, in `configure_model`.

    Each repeated block (`_repeated_blocks`, `_no_split_modules` of its networks) is gathered only while it runs, and
    the rest of the weights for a whole step or preview; otherwise they are in shards. The networks keep their classes.
    """
    strategy = component.trainer.strategy
    if (
        not isinstance(strategy, ModelParallelStrategy)
        or mesh["tensor_parallel"].size() > 1
        or compat.writes_pieces(strategy)
    ):
        raise InputError(
            f"trainer.strategy {type(strategy).__name__}: layers cannot be split, and checkpoints are one file here; "
            f"give trainer.strategy sharded, or data_parallel_size {mesh.size()}, tensor_parallel_size 1 and "
            "save_distributed_checkpoint false"
        )
    # In shards again after each use, also the weights of the root: averaging and checkpoints, which read weights
    # between steps, need all of them in shards.
    options: Any = {"mesh": mesh["data_parallel"], "reshard_after_forward": True}
    for block in reversed(blocks(component, REPEATED, WHOLE).values()):  # inner ones first
        if next(block.parameters(), None) is not None:
            fully_shard(block, **options)
    fully_shard(component, **options)
    for name in ("training_step", "validation_step", "preview"):
        register_fsdp_forward_method(component, name)
