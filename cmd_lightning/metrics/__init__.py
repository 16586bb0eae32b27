"""Video metrics; this room imports neither lightning nor diffusers."""

from cmd_lightning.metrics.clip_similarity import CLIPSimilarity, SheetSimilarity
from cmd_lightning.metrics.frechet import FrechetVideoDistance, frechet_distance, frechet_distance_from_features
from cmd_lightning.metrics.kernel import KernelVideoDistance, kernel_distance
from cmd_lightning.metrics.neighbours import find_copies, nearest_neighbours, thumbnails
from cmd_lightning.metrics.shapes_features import ShapesFeatures
from cmd_lightning.metrics.shapes_reader import ShapesReader

__all__ = [
    "CLIPSimilarity",
    "FrechetVideoDistance",
    "KernelVideoDistance",
    "ShapesFeatures",
    "ShapesReader",
    "SheetSimilarity",
    "find_copies",
    "frechet_distance",
    "frechet_distance_from_features",
    "kernel_distance",
    "nearest_neighbours",
    "thumbnails",
]
