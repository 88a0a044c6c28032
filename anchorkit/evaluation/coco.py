"""COCO's evaluation of boxes, with the report of what it found."""

import contextlib
import io
from collections.abc import Sequence

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..errors import UserError
from .detection_report import detection_report, write_report
from .pictures import show_picture


class BoxEvaluator(COCOEvaluator):
    """detectron2's evaluator of boxes, for annotations that lack what pycocotools needs, too.

    Args:
        dataset_name: a registered data set.
        output_folder: of detections and pictures.
        draws: whether the report of :func:`write_report` is written, and its pictures are shown.
    """

    def __init__(self, dataset_name: str, output_folder: str, *, draws: bool = False):
        super().__init__(
            dataset_name,
            tasks=("bbox",),
            output_dir=output_folder,
            use_fast_impl=_has_compiled_evaluation(),
        )
        self.dataset_name = dataset_name
        self.draws = draws
        _complete(self._coco_api)

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict:
        # Here alone detectron2 shows its evaluation; another one would take as long again.
        if self.draws and coco_eval is not None:
            report = detection_report(coco_eval, category_names(coco_eval.cocoGt))
            pictures = write_report(report, self._output_dir, self.dataset_name)
            for name, pixels in pictures.items():
                show_picture(f"{self.dataset_name}/{name}", pixels)
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


def load_truth(dataset_name: str) -> COCO:
    """The COCO file of a data set, complete.

    Raises:
        UserError: the set has none, or it has no annotations.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("evaluator_type") != "coco" or not metadata.get("json_file"):
        raise UserError(
            f"{dataset_name} has no annotations in COCO's format; name a detection set that has, "
            "or give DATASETS.COCO_FORMAT one"
        )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(metadata.json_file)
    if not truth.anns:
        raise UserError(f"{dataset_name}: {metadata.json_file} has no annotations to compare with")
    _complete(truth)
    return truth


def evaluate_boxes(truth: COCO, results: list[dict]) -> COCOeval:
    """COCO's official evaluation of results, which must not be empty."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco_eval = COCOeval(truth, truth.loadRes(results), "bbox")
        coco_eval.evaluate()
        coco_eval.accumulate()
    return coco_eval


def category_names(truth: COCO) -> list[str]:
    """Names of the categories, in the order of their ids."""
    return [str(truth.cats[identity]["name"]) for identity in sorted(truth.cats)]


def _complete(truth: COCO) -> None:
    """Add entries that pycocotools needs and hand-made annotation files often lack."""
    for annotation in truth.dataset.get("annotations", []):
        _, _, width, height = annotation["bbox"]
        annotation.setdefault("area", width * height)
        annotation.setdefault("iscrowd", 0)


def _has_compiled_evaluation() -> bool:
    """Whether this detectron2 has its C++ extension; without it COCO's own evaluation is used."""
    try:
        from detectron2 import _C
    except ImportError:
        return False
    return hasattr(_C, "COCOevalEvaluateImages")
