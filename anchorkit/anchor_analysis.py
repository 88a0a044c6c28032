"""What a detector's anchors and labels are on the boxes that a config trains on."""

import os
from collections.abc import Sequence

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import ANCHOR_GENERATOR_REGISTRY, META_ARCH_REGISTRY, build_model
from torch import Tensor, nn

from .anchor_fit import AnchorTable, GridAnchorTable, SSDAnchorTable
from .config import check_choice
from .data import check_classes
from .data.loader import TrainImages, load_train_dicts
from .data.mapper import BlankMapper
from .errors import UserError
from .modeling.meta_arch import PointDetector
from .visualization import AssignmentStatistics, BoxCoverage, label_levels

# Boxes that a fit looks at: more make it slower and hardly other.
MAX_FIT_BOXES = 10_000


def build_detector(cfg: CfgNode) -> nn.Module:
    """The detector of a config, without its weights, in evaluation mode.

    Raises:
        UserError: its labels are not known to :func:`label_levels`, the classes do not fit, or
            there is no such anchor generator.
    """
    generators = [name for name, _ in ANCHOR_GENERATOR_REGISTRY]
    check_choice("MODEL.ANCHOR_GENERATOR.NAME", cfg.MODEL.ANCHOR_GENERATOR.NAME, generators)
    unknown = label_levels.dispatch(object)
    known = [n for n, kind in META_ARCH_REGISTRY if label_levels.dispatch(kind) is not unknown]
    check_choice("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, known)
    check_classes(cfg)
    return build_model(cfg).eval()


def training_samples(cfg: CfgNode, num_images: int, seed: int) -> tuple[list[dict], int]:
    """Boxes of training images, resized as in training; nothing of the images is read.

    Crops, expansion and mirroring are left out. Where training draws a size, one is drawn here.

    Args:
        cfg: with ``DATASETS.TRAIN``.
        num_images: so many, drawn by ``seed``; 0: all.

    Returns:
        Samples as a training loader gives them, in the order of the set, and the number of images
        that there are.
    """
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty; name the data set whose boxes are looked at")
    dicts = load_train_dicts(cfg)
    chosen = range(len(dicts))
    if 0 < num_images < len(dicts):
        chosen = sorted(np.random.default_rng(seed).permutation(len(dicts))[:num_images].tolist())
    images = TrainImages(dicts, BlankMapper(cfg), seed)
    return [images[index, index] for index in chosen], len(dicts)


def analyze(
    cfg: CfgNode, model: nn.Module, samples: Sequence[dict]
) -> tuple[AssignmentStatistics, BoxCoverage]:
    """Label the samples as in training, and count."""
    statistics = AssignmentStatistics()
    coverage = BoxCoverage(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes"))
    for sample in samples:
        labels = label_levels(model, sample)
        statistics.add(labels)
        height, width = sample["instances"].image_size
        area = sample["instances"].gt_boxes.area().double().numpy()
        coverage.add(labels, area * (sample["height"] * sample["width"]) / (height * width))
    return statistics, coverage


def size_ranges(model: nn.Module) -> dict[str, str] | None:
    """By the name of a level which boxes it is for, if the detector has no anchors."""
    if not isinstance(model, PointDetector):
        return None
    ranges = model.assigner.size_ranges
    names = model.head_in_features
    return {n: f"{low:g} – {high:g}" for n, (low, high) in zip(names, ranges, strict=True)}


def anchor_table(cfg: CfgNode, model: nn.Module) -> AnchorTable | None:
    """The anchors of a config as a table that can be fitted; None if the detector has none.

    Raises:
        UserError: a generator whose table is not known.
    """
    if isinstance(model, PointDetector):
        return None
    keys, strides = cfg.MODEL.ANCHOR_GENERATOR, model.anchor_generator.strides
    name = check_choice(
        "MODEL.ANCHOR_GENERATOR.NAME", keys.NAME, ("DefaultAnchorGenerator", "SSDAnchorGenerator")
    )
    if name == "DefaultAnchorGenerator":
        return GridAnchorTable(keys.SIZES, keys.ASPECT_RATIOS, strides, keys.OFFSET)
    ssd = cfg.MODEL.SSD
    limit = {"largest": float(cfg.INPUT.FIXED_SIZE)} if ssd.CLIP_ANCHORS else {}
    return SSDAnchorTable(ssd.SIZES, ssd.ASPECT_RATIOS, strides, **limit)


def fit_boxes(samples: Sequence[dict], seed: int) -> tuple[Tensor, Tensor]:
    """Boxes (M, 4) of the samples, at most ``MAX_FIT_BOXES``, and their images' sizes (M, 2)."""
    boxes = torch.cat([sample["instances"].gt_boxes.tensor for sample in samples])
    sizes = torch.tensor(
        [sample["instances"].image_size[::-1] for sample in samples
         for _ in range(len(sample["instances"]))], dtype=torch.float32,
    )  # fmt: skip
    chosen = np.random.default_rng(seed).permutation(len(boxes))[:MAX_FIT_BOXES]
    return boxes[chosen], sizes[chosen]


def write_table(path: str, table: AnchorTable, base: str, note: str) -> None:
    """Write a config that is ``base`` with the table.

    Args:
        path: ends in .yaml.
        base: the config file that it begins with.
        note: its first line.

    Raises:
        UserError: the file cannot be written.
    """
    folder = os.path.dirname(os.path.abspath(path))
    content = {"_BASE_": os.path.relpath(base, folder), "MODEL": table.keys()}
    try:
        os.makedirs(folder, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"# {note}\n")
            yaml.safe_dump(content, file, default_flow_style=None, sort_keys=False, width=1000)
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written: {error}") from error
