"""Pictures of detections, of label assignment and of a classifier's results."""

from .assignment import draw_assignment, save_figure
from .cam import ActivationMaps, choose_classes, class_activation_maps
from .cam_picture import draw_activation_maps
from .comparison import draw_label_comparison
from .confidence import draw_confidence, draw_confidences
from .confusion import draw_confusion
from .coverage import BoxCoverage
from .curves import draw_curves
from .detections import draw_detections
from .image_grid import draw_image_grid
from .level_labels import ImageLabels, LevelLabels, label_levels, level_labels
from .network_input import NetworkInput, network_inputs, normalization_table
from .on_image import draw_on_image
from .precision_recall import draw_precision_recall
from .reproduction import draw_reproduction
from .score_quality import draw_score_quality
from .statistics import AssignmentStatistics

__all__ = [
    "ActivationMaps",
    "AssignmentStatistics",
    "BoxCoverage",
    "ImageLabels",
    "LevelLabels",
    "NetworkInput",
    "choose_classes",
    "class_activation_maps",
    "draw_activation_maps",
    "draw_assignment",
    "draw_confidence",
    "draw_confidences",
    "draw_confusion",
    "draw_curves",
    "draw_detections",
    "draw_image_grid",
    "draw_label_comparison",
    "draw_on_image",
    "draw_precision_recall",
    "draw_reproduction",
    "draw_score_quality",
    "label_levels",
    "level_labels",
    "network_inputs",
    "normalization_table",
    "save_figure",
]
