"""Pictures of detections and of label assignment."""

from .assignment import draw_assignment, save_figure
from .comparison import draw_label_comparison
from .detections import draw_detections
from .level_labels import ImageLabels, LevelLabels, label_levels, level_labels
from .score_quality import draw_score_quality
from .statistics import AssignmentStatistics

__all__ = [
    "AssignmentStatistics",
    "ImageLabels",
    "LevelLabels",
    "draw_assignment",
    "draw_detections",
    "draw_label_comparison",
    "draw_score_quality",
    "label_levels",
    "level_labels",
    "save_figure",
]
