"""Evaluators, and one call that evaluates a model on all test sets."""

import os

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.utils import comm
from torch import nn

from ..data import build_test_loader, is_image_set
from ..data.views import build_view_mapper
from ..errors import UserError
from .classification import ClassificationEvaluator
from .coco import BoxEvaluator
from .multi_label import MultiLabelEvaluator
from .pictures import PictureWriter
from .score_quality import ScoreQuality
from .tables import write_tables
from .tta import DetectorWithTTA, check_test_augmentation
from .validation_loss import validation_losses

__all__ = [
    "BoxEvaluator",
    "ClassificationEvaluator",
    "DetectorWithTTA",
    "MultiLabelEvaluator",
    "PictureWriter",
    "ScoreQuality",
    "build_evaluator",
    "check_test_augmentation",
    "evaluate",
    "validation_losses",
    "write_tables",
]


def build_evaluator(
    cfg: CfgNode,
    dataset_name: str,
    output_folder: str,
    *,
    model: nn.Module | None = None,
    draws: bool = False,
) -> DatasetEvaluator:
    """The evaluator that belongs to a data set, by its metadata's ``evaluator_type``.

    Args:
        cfg: not looked at by the evaluators there are today; part of detectron2's interface.
        dataset_name: a registered data set.
        output_folder: where the evaluator leaves its predictions.
        model: the classifier, for a classification set; its method says how outputs are read.
        draws: whether confusion, curves or confidence are drawn, too.

    Raises:
        UserError: the data set says no evaluator that is known, or its package is not installed.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind == "coco":
        return BoxEvaluator(dataset_name, output_folder, draws=draws)
    if kind in ("classification", "multi_label"):
        if not hasattr(model, "method"):
            raise UserError(
                f"{dataset_name} is evaluated by the method of an ImageClassifier; got "
                f"{type(model).__name__}"
            )
        options = {"class_names": MetadataCatalog.get(dataset_name).thing_classes, "draws": draws}
        if kind == "multi_label":
            return MultiLabelEvaluator(dataset_name, output_folder, **options)
        return ClassificationEvaluator(dataset_name, model.method, output_folder, **options)
    if kind == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    if kind == "lvis":
        try:
            return LVISEvaluator(dataset_name, tasks=("bbox",), output_dir=output_folder)
        except ImportError as error:
            raise UserError(
                f"data set {dataset_name!r} is evaluated by the package lvis: pip install lvis"
            ) from error
    raise UserError(
        f"data set {dataset_name!r} has evaluator_type {kind!r}; known are 'coco', 'pascal_voc', "
        "'lvis', 'classification' and 'multi_label': set "
        f"MetadataCatalog.get({dataset_name!r}).evaluator_type"
    )


def evaluate(
    cfg: CfgNode, model: nn.Module, *, num_pictures: int = 0, is_last: bool = True
) -> dict[str, dict]:
    """Evaluate ``model`` on every data set of ``DATASETS.TEST``; all ranks must call it.

    Args:
        cfg: the run's config.
        model: a detector, or a classifier for classification sets.
        num_pictures: pictures of detections to draw per data set, under ``OUTPUT_DIR/pictures``;
            0 draws nothing else, either. In a training TensorBoard shows what is drawn.
        is_last: whether no other evaluation follows. Only then a detector is evaluated a second
            time with ``TEST.AUG``, if that is enabled (its tasks end in "_TTA"), and figures of a
            classifier are drawn: that takes longer than a small test set.

    Returns:
        On the main process ``{data set: {task: {metric: value}}}``, also written to
        ``OUTPUT_DIR`` by :func:`write_tables`; elsewhere empty results.
    """
    results = {}
    for name in cfg.DATASETS.TEST:
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", name)
        has_boxes = not is_image_set(name)
        draws = num_pictures > 0 and (is_last or has_boxes)
        evaluators = [build_evaluator(cfg, name, folder, model=model, draws=draws)]
        if draws and has_boxes:
            pictures = os.path.join(cfg.OUTPUT_DIR, "pictures", name)
            evaluators.append(PictureWriter(name, pictures, num_pictures))
        if cfg.TEST.SCORE_QUALITY and has_boxes:
            evaluators.append(ScoreQuality(name, model, folder))
        loader = build_test_loader(cfg, name)
        results[name] = inference_on_dataset(model, loader, DatasetEvaluators(evaluators))
        if is_last and cfg.TEST.AUG.ENABLED:
            results[name].update(_evaluate_with_tta(cfg, model, name))
        if cfg.TEST.VALIDATION_LOSS:
            losses = validation_losses(cfg, model, name)
            results[name].update({"validation": losses} if comm.is_main_process() else {})
        if comm.is_main_process():
            print_csv_format(results[name])
    if comm.is_main_process() and results:
        write_tables(results, cfg.OUTPUT_DIR)
    return results


def _evaluate_with_tta(cfg: CfgNode, model: nn.Module, dataset_name: str) -> dict[str, dict]:
    folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA", dataset_name)
    evaluator = build_evaluator(cfg, dataset_name, folder, model=model)
    loader = build_test_loader(cfg, dataset_name, build_view_mapper(cfg))
    results = inference_on_dataset(DetectorWithTTA(model), loader, evaluator)
    return {f"{task}_TTA": metrics for task, metrics in results.items()}
