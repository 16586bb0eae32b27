import os
import signal

import pytest
from training_configs import AUTOENCODER, config

from cmd_lightning.cli import main
from cmd_lightning.data.clips import ClipLoader
from cmd_lightning.shapes.synth import write_shapes


@pytest.mark.parametrize("death", ["signal", "exit"])
def test_a_worker_that_dies_ends_the_fit_on_one_line(tmp_path, monkeypatch, capsys, death):
    write_shapes(tmp_path / "shards", num=13, size=16, frames=8, shard_size=5)
    parent = os.getpid()

    def die(self, sample, draw, epoch):
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL) if death == "signal" else os._exit(1)

    monkeypatch.setattr(ClipLoader, "__call__", die)
    assert main(["fit", "-c", config(tmp_path, AUTOENCODER, tmp_path / "shards", 1)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("cmd-lightning: data.num_workers: DataLoader worker")
    assert "--ckpt_path last" in last
