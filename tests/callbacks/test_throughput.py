from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from cmd_lightning.callbacks import Throughput, throughput
from cmd_lightning.callbacks.throughput import batch_size, peak_memory


class Clocked(LightningModule):
    """Moves a fake clock: the sixth batch takes 4 seconds, every other 2, and a validation 100."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)
        self.now = 0.0
        self.batches = 0

    def training_step(self, batch, batch_idx):
        self.batches += 1
        self.now += 4 if self.batches == 6 else 2
        return self.net(batch["video"]).mean()

    def validation_step(self, batch, batch_idx):
        self.now += 100

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_rates_match_the_clock_without_validation(tmp_path, monkeypatch, accumulate):
    model = Clocked()
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: model.now))
    clips = [{"caption": "a red circle", "video": torch.ones(3)} for _ in range(24)]
    trainer = Trainer(
        accelerator="cpu", logger=CSVLogger(tmp_path, name="", version=""), callbacks=[Throughput()],
        max_epochs=2, log_every_n_steps=4 // accumulate, val_check_interval=4, num_sanity_val_steps=0,
        accumulate_grad_batches=accumulate, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(clips, batch_size=3), DataLoader(clips[:3], batch_size=3))

    rows = _read(tmp_path / "metrics.csv")
    # Windows of four batches of three clips; the long batch is in the second.
    rates = [row["throughput/clips_per_second"] for row in rows]
    assert rates == pytest.approx([12 / 8, 12 / 10, 12 / 8, 12 / 8])
    medians = {1: [2, 2, 2, 2], 2: [4, 5, 4, 4]}[accumulate]
    assert [row["throughput/step_seconds"] for row in rows] == medians
    assert all(0.05 < row["throughput/peak_process_gb"] < 20 for row in rows)


def _read(path):
    header, *lines = [line.split(",") for line in path.read_text().splitlines()]
    return [{name: float(value) for name, value in zip(header, line, strict=True)} for line in lines]


def test_batch_size_is_that_of_the_first_tensor():
    assert batch_size(torch.zeros(5, 2)) == 5
    assert batch_size({"caption": ["a", "bc"], "video": torch.zeros(2, 3)}) == 2
    assert batch_size([torch.tensor(1.0), (torch.zeros(7),)]) == 7
    assert batch_size("text") == batch_size({}) == 0


@pytest.mark.gpu
def test_peak_cuda_memory_is_what_tensors_took():
    torch.cuda.reset_peak_memory_stats()
    before = peak_memory(torch.device("cuda"))["throughput/peak_cuda_gb"]
    torch.empty(10**8, dtype=torch.uint8, device="cuda")
    after = peak_memory(torch.device("cuda"))["throughput/peak_cuda_gb"]
    assert after - before == pytest.approx(0.1, rel=0.05)
