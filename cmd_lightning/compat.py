"""Every private use and every patch of another library, with its reason and the versions that need it.

Each has a test in `tests/test_compat.py` that shows the fault, or the missing public method, in the library itself. The
test fails once the workaround is no longer needed. Version numbers are those installed when the entry was last checked.

The libraries are imported within the functions: `metrics` uses this file, and needs neither Lightning nor diffusers.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin
    from lightning import Trainer
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torch import UntypedStorage
    from torch.optim import Optimizer
    from torchmetrics import Metric

# Lightning


def is_fused(optimizer: Optimizer) -> bool:
    """Whether an optimiser unscales its gradients within its step, as fused ones do.

    torch (2.14) marks these for its gradient scaler by a private attribute, and offers no public one.
    """
    return getattr(optimizer, "_step_supports_amp_scaling", False)


def allow_clipping(optimizer: Optimizer) -> None:
    """Let Lightning clip the gradients of a fused optimiser where no gradient scaler is used.

    Lightning (2.6) refuses to clip them under any mixed precision, as bf16-mixed, although without a scaler there is
    nothing to unscale. It reads torch's private mark, which nothing else needs without a scaler.
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # torch sets it in some optimisers only


def count_resumed_epoch(trainer: Trainer) -> None:
    """Count the epoch that is under way, if Lightning has not; to be called at the start of each training batch.

    Resumed at the end of an epoch, Lightning (2.6) begins the next one without counting it as begun. A checkpoint of
    that epoch would record it as complete, and training resumed from there would skip its rest.
    """
    epochs = trainer.fit_loop.epoch_progress
    if epochs.current.ready == epochs.current.completed:
        epochs.increment_ready()
        epochs.increment_started()


def begin_resumed_epoch(trainer: Trainer) -> None:
    """Count the batches of an epoch from 0, if Lightning has not; to be called as the first batch is fetched.

    Resumed with `max_steps` at the end of an epoch that no validation follows, Lightning (2.6) takes the first batch of
    the next epoch for one more of the last one, and then begins another epoch.
    """
    batches, fetcher = trainer.fit_loop.epoch_loop.batch_progress, trainer.fit_loop._data_fetcher
    if fetcher is not None and batches.current.ready >= trainer.num_training_batches:
        batches.reset_on_run()
        fetcher.fetched = 0


def cluster_environment(trainer: Trainer) -> object:
    """The cluster environment that Lightning found, such as `SLURMEnvironment`.

    In Lightning (2.6) strategies of a single process do not offer it, though SLURM starts these as well.
    """
    return trainer._accelerator_connector.cluster_environment


def shard_over(strategy: ModelParallelStrategy, processes: int) -> None:
    """Set the number of shards of a strategy whose `data_parallel_size` is "auto"; before its `setup_environment`.

    Lightning (2.6) takes "auto" for the number of nodes, and the number of processes is not known when a strategy is
    made by its name.
    """
    strategy._data_parallel_size = processes


def writes_pieces(strategy: ModelParallelStrategy) -> bool:
    """Whether a strategy writes checkpoints in pieces: Lightning (2.6) keeps the argument in a private attribute."""
    return strategy._save_distributed_checkpoint


class NoOptionsFromCheckpoint:
    """A base for a LightningCLI that takes no options from a checkpoint; comes before `LightningCLI`.

    Lightning (2.6) merges the `hyper_parameters` of the file given as `ckpt_path` into the config, and so instantiates
    any class the file names; no option disables this.
    """

    def _parse_ckpt_path(self) -> None:
        pass


@contextmanager
def optional_save_dir() -> Iterator[None]:
    """Within the context, `save_dir` of the loggers that write to a folder is None by default.

    Lightning (2.6) requires it of CSVLogger and TensorBoardLogger, and has WandbLogger write to the working directory,
    so that a config would have to name the folder of a run once more for its logger. There is no public way to change
    the default of an argument of a class that a config may name.
    """
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

    before = {logger: logger.__init__.__defaults__ or () for logger in (CSVLogger, TensorBoardLogger, WandbLogger)}
    for logger, values in before.items():
        names = [*inspect.signature(logger).parameters][: logger.__init__.__code__.co_argcount - 1]
        defaults = dict(zip(reversed(names), reversed(values), strict=False)) | {"save_dir": None}
        logger.__init__.__defaults__ = tuple(defaults[name] for name in names if name in defaults)
    try:
        yield
    finally:
        for logger, values in before.items():
            logger.__init__.__defaults__ = values


@contextmanager
def without_tips() -> Iterator[None]:
    """Within the context, Lightning (2.6) does not advertise other products, nor write into our progress bar.

    There is no option for either.
    """

    def keep(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(("💡 Tip:", "`Trainer.fit` stopped: "))

    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    log.addFilter(keep)
    try:
        yield
    finally:
        log.removeFilter(keep)


MID_EPOCH = "You're resuming from a checkpoint that ended before the epoch ended"
"""Lightning (2.6) warns of loaders without a `state_dict`; it does not see one of the DataModule."""

FEW_WORKERS = ".*does not have many workers"
"""Lightning (2.6) warns of loaders without worker processes, also of those that return data in memory."""

TREESPEC = ".*isinstance.treespec, LeafSpec"
"""Lightning (2.6) uses what torch (2.14) has deprecated."""

# torch


def worker_died(error: RuntimeError) -> bool:
    """Whether a worker process of a DataLoader died; in torch (2.14), only the message of the error identifies it."""
    return "DataLoader worker" in str(error)


def add_gif(writer: Any, tag: str, path: Path, height: int, width: int, step: int) -> None:
    """Add a GIF file to the log of a `SummaryWriter`.

    `SummaryWriter.add_video` of torch (2.14) needs moviepy < 2, and fails or does nothing without it (pytorch#147317).
    TensorBoard shows the bytes of an image summary as they are, and browsers play a GIF; but there is no public method
    to add a summary.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary

    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


class CreatedTensors(TorchDispatchMode):
    """A context that passes each tensor that an operator returns to `add`.

    Dispatch modes of torch (2.14) are private. The public `TorchFunctionMode` sees only calls from Python, and so
    nothing of a backward pass.
    """

    def add(self, tensor: Tensor) -> None:
        """Take a tensor, new or a view."""
        raise NotImplementedError

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        tree_map_only(Tensor, self.add, out)
        return out


def fake_tensors() -> AbstractContextManager:
    """A context in which tensors have a shape and a device, but no values; in torch (2.14) this mode is private."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def storage_key(storage: UntypedStorage) -> int:
    """A number that identifies a storage while it exists; torch (2.14) has only `data_ptr`, 0 for all fake tensors."""
    return storage._cdata


class KeepsPrecision(nn.Module):
    """A base of modules that move with the module that contains them, but keep their precision when it is cast.

    torch (2.14) has no public hook for it. torchmetrics (1.9) guards the states of a metric against `.half()` and the
    like, but not against `.to(torch.half)`, and not the networks within it.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        return super()._apply(own_precision(fn), *args, **kwargs)


def own_precision(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function given to a module's `_apply`, without the change of type: tensors only move."""

    def move(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

    return move


# torchmetrics


def note_update(metric: Metric) -> None:
    """Record that a metric was updated without its `update`, which torchmetrics (1.9) wraps to record it.

    Otherwise `compute` would warn that there was no update, and return its previous value.
    """
    metric._computed = None
    metric._update_count += 1


def plot(metric: Metric, val: Any = None, ax: Any = None) -> Any:
    """Figure and axes with `val` of a metric, or what it computes: torchmetrics (1.9) has only a private method."""
    return metric._plot(val, ax)


def torchmetrics_frechet(mean: Tensor, cov: Tensor, other_mean: Tensor, other_cov: Tensor) -> Tensor:
    """The Fréchet distance of moments as torchmetrics (1.9) computes it, which offers it in a private function only."""
    from torchmetrics.image.fid import _compute_fid

    return _compute_fid(mean, cov, other_mean, other_cov)


def take_any_quantile() -> None:
    """Have `BootStrapper` take a tensor of quantiles of any precision.

    torchmetrics (1.9) passes it to `torch.quantile`, which needs the precision of the values; ours are double.
    """
    from torchmetrics.wrappers import BootStrapper

    compute = BootStrapper.compute

    @functools.wraps(compute)
    def cast(self: Any) -> Any:
        value = self.metrics[0].compute()
        if isinstance(self.quantile, Tensor) and isinstance(value, Tensor):
            self.quantile = self.quantile.to(value)
        return compute(self)

    BootStrapper.compute = cast  # type: ignore[method-assign]  # that is the patch


# diffusers and transformers

REPEATED = "_repeated_blocks"
"""Attribute of networks of diffusers (0.42) with the names of the classes of blocks that can be compiled one by one.
Classes of networks set it; nothing public reads it."""

WHOLE = "_no_split_modules"
"""Attribute of networks of diffusers (0.42) and transformers (5.24) with the names of the classes of modules that must
be on one device as a whole. Classes of networks set it; nothing public reads it."""


def offers_checkpointing(network: nn.Module) -> bool:
    """Whether a network of diffusers (0.42) offers gradient checkpointing; no public attribute shows it."""
    return getattr(network, "_supports_gradient_checkpointing", False)


def run_checkpointed(network: ModelMixin, block: nn.Module, *inputs: Any) -> Tensor:
    """`block(*inputs)` with the function that the network's `enable_gradient_checkpointing` was called with.

    Networks of diffusers (0.42) keep it in a private attribute, for their own classes.
    """
    return network._gradient_checkpointing_func(block, *inputs)  # type: ignore[misc]  # None until it is enabled


def execution_device(module: nn.Module) -> torch.device:
    """The device that the inputs of a module have to be on; its weights are elsewhere where they are offloaded.

    accelerate (1.15) and diffusers (0.42, for groups of layers) keep their hooks private; diffusers has a function
    that reads both, but not before 0.42.
    """
    from diffusers.hooks.group_offloading import _get_group_onload_device

    with suppress(ValueError):  # no layer is offloaded in a group
        return _get_group_onload_device(module)
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for own in getattr(hook, "hooks", (hook,)):
            if (device := getattr(own, "execution_device", None)) is not None:
                return torch.device(device)
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def quantization_of(config: Any, part: str) -> Any:
    """The settings of a pipeline's quantization for one of its parts, a network of diffusers; None if it has none.

    `PipelineQuantizationConfig` of diffusers (0.42) offers them in a private method only.
    """
    return config._resolve_quant_config(is_diffusers=True, module_name=part)


def is_recorded(model: object) -> bool:
    """Whether the arguments of a model's constructor are in its config already.

    With `register_to_config` of diffusers (0.42) on the constructors of a class and of its base, the arguments that
    the subclass passes to its base replace its own. So only the outermost constructor may record.
    """
    return hasattr(model, "config")


# jsonargparse: its ArgumentError (4.53) has one message with nested complaints; only the message identifies them

UNKNOWN_CLASS = (
    r"import path string: ([\w.]+)",
    r"given class_path '((\w+)[\w.]*)': (?:No module named '\2|module '\2[\w.]*' has no attribute)",
    r"callable class: module '[\w.]+' has no attribute '\w+'\. Got value: (?:Namespace\(class_path=')?([\w.]+)",
    r"Expected a path but ([\w.]+)",
)
"""Patterns that capture the name of a class that is not found."""

UNKNOWN_OPTION = (
    r"Option '([\w.]+)' is not accepted",
    r"unrecognized arguments: -*([\w.]+)",
    r"accept option '([\w.]+)'",
)
"""Patterns that capture the name of an option that does not exist."""

MISSING_ARGUMENT = r"class_path '([\w.]+)': the following arguments are required: ([\w.]+)"
"""Pattern that captures a class, and an argument that it needs."""

NESTED_KEY = r'Parser key "([\w.]+)"'
"""Pattern that captures the option that an inner complaint is about."""

WRONG_VALUE = r"Parser key \"([\w.]+)\": Expected an? (.+?)\. Got value: (.+?)(?: - Expected|\. Got value|$)"
"""Pattern that captures an option, what it takes, and what was given."""

WRONG_CHOICE = (
    r"Subtypes: \[((?:(?!Subtypes: ).)+?)\] Errors: (?:(?!Subtypes: ).)+? Given value: (.+?)(?: - Expected|$)"
)
"""Pattern that captures the types of which an option takes one, and what was given."""

# PyAV

_PRINTING = Lock()  # the level is global to the process


def container_crop(container: Any, index: int) -> tuple[int, int, int, int]:
    """Pixels that a container cuts off a stream: left, right, top, bottom.

    FFmpeg reads them from MP4 (clap) and Matroska (PixelCrop) into the side data of the stream. PyAV (18)
    offers only the text that FFmpeg prints about it.
    """
    import av.logging

    with _PRINTING:
        level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            text = container.dumps_format()
        finally:
            av.logging.set_level(level)
    # Metadata of a file may be any text, but its lines begin differently.
    printed = re.split(r"^  Stream #\d+:(\d+)", text, flags=re.MULTILINE)
    own = dict(zip(printed[1::2], printed[2::2], strict=True)).get(str(index), "")
    found = re.search(r"^      Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)$", own, flags=re.MULTILINE)
    left, right, top, bottom = map(int, found.groups()) if found else (0, 0, 0, 0)
    return left, right, top, bottom
