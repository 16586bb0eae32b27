"""Video metrics as torchmetrics classes. They need neither lightning nor diffusers."""

from cmd_lightning.compat import take_any_quantile
from cmd_lightning.metrics.clip_similarity import CLIPSimilarity
from cmd_lightning.metrics.content_naturalness import ContentNaturalness
from cmd_lightning.metrics.feature_networks import open_feature
from cmd_lightning.metrics.frechet import FrechetVideoDistance, frechet_distance, frechet_distance_from_features
from cmd_lightning.metrics.i3d import I3D
from cmd_lightning.metrics.i3d_weights import open_i3d
from cmd_lightning.metrics.inception_score import VideoInceptionScore, inception_score
from cmd_lightning.metrics.kernel import KernelVideoDistance, kernel_distance
from cmd_lightning.metrics.per_frame import PerFrame
from cmd_lightning.metrics.preparation import PRESETS, Preparation
from cmd_lightning.metrics.statistics import load_statistics, save_statistics
from cmd_lightning.metrics.suite import MetricSuite
from cmd_lightning.metrics.transformers_features import TransformersFeatures

take_any_quantile()

__all__ = [
    "I3D",
    "PRESETS",
    "CLIPSimilarity",
    "ContentNaturalness",
    "FrechetVideoDistance",
    "KernelVideoDistance",
    "MetricSuite",
    "PerFrame",
    "Preparation",
    "TransformersFeatures",
    "VideoInceptionScore",
    "frechet_distance",
    "frechet_distance_from_features",
    "inception_score",
    "kernel_distance",
    "load_statistics",
    "open_feature",
    "open_i3d",
    "save_statistics",
]
