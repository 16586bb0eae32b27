"""Training on several processes as clusters start it: torchrun on every node, and the options of one process."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from training_configs import AUTOENCODER, config

from cmd_lightning.shapes.synth import write_shapes


def torchrun(nodes, each, arguments):
    """Runs `cmd-lightning` on so many nodes, all of them this machine, and so many processes on each."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        meet = f"localhost:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={each}"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint={meet}", "--rdzv-id=test", "-m", "cmd_lightning", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(nodes)
    ]
    said = [process.communicate(timeout=400)[0] for process in started]
    assert [process.returncode for process in started] == [0] * nodes, "\n".join(said)
    assert f"Starting with {nodes * each} processes" in "\n".join(said)


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "each", "strategy"), [(1, 2, "ddp"), (1, 2, "sharded"), (2, 1, "sharded")])
def test_fit_and_resume(tmp_path, nodes, each, strategy):
    shards = tmp_path / "shards"
    write_shapes(shards, num=13, size=16, frames=8, fps=8.0, seed=0, split="train", shard_size=5)
    folder = tmp_path / "fit"
    folder.mkdir()
    arguments = ["fit", "-c", config(folder, AUTOENCODER, shards, 0), "--ckpt_path", "last"]
    arguments += [f"--trainer.num_nodes={nodes}", f"--trainer.devices={each}", f"--trainer.strategy={strategy}"]
    steps = []
    for end in (3, 6):
        torchrun(nodes, each, [*arguments, f"--trainer.max_steps={end}"])
        checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
        steps.append(checkpoint["global_step"])
        assert checkpoint["ema"].keys() <= checkpoint["state_dict"].keys()
        states = checkpoint["optimizer_states"][0]["state"]
        assert {int(state["step"]) for state in states.values()} == {end}  # Adam continued and did not start from zero
    assert steps == [3, 6]
