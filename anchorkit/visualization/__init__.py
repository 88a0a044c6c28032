"""Pictures of detections and of label assignment."""

from .assignment import draw_assignment, save_figure
from .detections import draw_detections
from .level_labels import ImageLabels, LevelLabels, label_levels, level_labels
from .statistics import AssignmentStatistics

__all__ = [
    "AssignmentStatistics",
    "ImageLabels",
    "LevelLabels",
    "draw_assignment",
    "draw_detections",
    "label_levels",
    "level_labels",
    "save_figure",
]
