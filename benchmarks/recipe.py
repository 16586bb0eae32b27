"""Memory and time of the three trainings of a folder of configs on one device, predicted from the configs.

    python -m benchmarks.recipe configs/openvid256 --tflops 50
    python -m benchmarks.recipe configs/openvid256 --tflops 50 -o content=configs/overrides/content_all_weights.yaml

Memory: a step of each stage, with the config's batch, checkpointing and adapters, is run with tensors that
have shapes but no values, under autocast to bf16, and every tensor's memory is counted while it lives: weights,
gradients, Adam's state, activations. The EMA comes on top; in validation there are no activations, but also a copy of
the weights and the gradients of the last step. Not counted: frozen parts (VAE, text encoder, the autoencoder of
the later stages), what the libraries take for themselves, and what the allocator leaves unused.

Hours: the multiply-adds of a sample, counted in the same way, attention included; a backward pass takes two forward
passes, or one if only adapters are trained, and checkpointing adds one. `--tflops` is the assumed rate in bf16; give a
third of the data sheet's rate for dense products. Waiting for data and validation are not included.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.calls import Call
from benchmarks.cells import command_line
from benchmarks.counting import asked, calls
from cmd_lightning.compat import CreatedTensors, fake_tensors, storage_key
from cmd_lightning.errors import InputError, program
from cmd_lightning.markdown import table
from cmd_lightning.networks.lora import LoRA


class PeakMemory(CreatedTensors):
    """Counts the bytes of the tensors that are created under it: `live` now, `peak` at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, weakref.ref] = {}

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, once."""
        storage = tensor.untyped_storage()
        key, size = storage_key(storage), storage.nbytes()
        if key in self._seen:
            return

        def gone(_: weakref.ref) -> None:
            self.live -= size
            self._seen.pop(key)

        self._seen[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


@dataclass(frozen=True)
class Prediction:
    """What a stage should take."""

    trained: int  # parameters that learn
    batch: int  # samples in memory at once
    samples: int  # in the whole training
    teraflop: float  # of the training on one sample
    step: int  # bytes of tensors in a step, without EMA
    ema: int  # bytes of the averaged weights
    validation: int  # bytes of tensors between two steps, the average in the place of the weights

    def hours(self, tflops: float) -> float:
        """Of computing at so many TFLOP/s."""
        return self.samples * self.teraflop / tflops / 3600


def predict(config: Mapping[str, Any], call: Call) -> Prediction:
    """The prediction for a stage, from its config and a call of its network, which is changed."""
    options, trainer = config["model"]["init_args"], config["trainer"]
    batch, checkpointing = config["data"]["init_args"]["batch_size"], options["gradient_checkpointing"]
    lora = options.get("lora")
    found = call.count()
    if lora:
        with torch.device("meta"):
            LoRA(**lora).add_to(call.network)
    passes = 3 - bool(lora) + bool(checkpointing)
    trained = sum(weight.numel() for weight in call.network.parameters() if weight.requires_grad)
    step, between = step_memory(call, batch, checkpointing)
    samples = trainer["max_steps"] * batch * (trainer["accumulate_grad_batches"] or 1)
    averaged = 4 * trained * any(callback["class_path"].endswith(".EMA") for callback in trainer["callbacks"])
    flop = 2 * found.macs * passes / 1e12
    return Prediction(trained, batch, samples, flop, step, averaged, between + 2 * averaged)


def step_memory(call: Call, batch: int, checkpointing: bool) -> tuple[int, int]:
    """Bytes at the peak of the second training step, and after it; `call` is on the meta device, for one sample."""
    network, function = call.network.train(), call.function
    memory = PeakMemory()
    with fake_tensors(), memory:
        for module in network.modules():
            for tensors in (module.named_parameters, module.named_buffers):
                for name, tensor in tensors(recurse=False, remove_duplicate=False):
                    setattr(module, name, _on_cpu(tensor))
        inputs = call.inputs_of(lambda tensor: _on_cpu(tensor.expand(batch, *tensor.shape[1:])))
        if checkpointing:
            network.enable_gradient_checkpointing()
        optimizer = torch.optim.AdamW([weight for weight in network.parameters() if weight.requires_grad], fused=True)
        for _ in range(2):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = function(network, *inputs).float().square().mean()
            loss.backward()
            optimizer.step()
            del loss
        return memory.peak, memory.live


def _on_cpu(tensor: Tensor) -> Tensor:
    """A tensor of the same kind without values, that passes for one in memory."""
    made = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--tflops", type=float, required=True, help="that are assumed to be sustained")
    options, configs = asked(parser)
    if not options.tflops > 0:
        raise InputError(f"--tflops {options.tflops}: give a number above 0")
    rows = []
    for stage, call in calls(configs).items():
        found = predict(configs[stage], call)
        sizes = (f"{size / 1e9:.1f}" for size in (found.step, found.step + found.ema, found.validation))
        work = f"{found.trained / 1e6:.1f}", f"{found.samples / 1e6:.2f}", f"{found.teraflop:.2f}"
        rows.append((stage, *work, f"{found.hours(options.tflops):.1f}", found.batch, *sizes))
    head = ("stage", "learns, M", "samples, M", "TFLOP a sample", "hours", "batch")
    print(table((*head, "step, GB", "with EMA", "validation"), rows))
    return 0


if __name__ == "__main__":
    program(main)
