"""Lightning callbacks: weight averaging, checkpoints, numerical faults, preview videos, throughput and memory."""

from cmd_lightning.callbacks.ema import EMA
from cmd_lightning.callbacks.last_checkpoint import LastCheckpoint
from cmd_lightning.callbacks.skip_non_finite import SkipNonFinite
from cmd_lightning.callbacks.stage_progress import StageProgress
from cmd_lightning.callbacks.throughput import Throughput
from cmd_lightning.callbacks.video_logger import VideoLogger
from cmd_lightning.callbacks.video_writer import VideoWriter

__all__ = ["EMA", "LastCheckpoint", "SkipNonFinite", "StageProgress", "Throughput", "VideoLogger", "VideoWriter"]
