"""Which outputs of a file's classifier become the model's classes."""

from collections.abc import Sequence

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

# torchvision's detectors of COCO have an output for the background and all 90 category ids.
_COCO_OUTPUTS = 91
_COCO_IDS = sorted(category["id"] for category in COCO_CATEGORIES if category["isthing"])


def kept_outputs(num_outputs: int, num_classes: int | None) -> list[int] | None:
    """Outputs of a torchvision detector that become the classes 0, 1, 2 ...; 0 is the background.

    Args:
        num_outputs: of the file, the background included.
        num_classes: C of the model; None takes all, and of COCO's 91 the 80 that have objects.

    Returns:
        None if the two do not fit.
    """
    if num_outputs == _COCO_OUTPUTS and num_classes in (None, len(_COCO_IDS)):
        return _COCO_IDS
    if num_classes in (None, num_outputs - 1):
        return list(range(1, num_outputs))
    return None


def keep_rows(outputs: Tensor, num_anchors: int, kept: Sequence[int]) -> Tensor:
    """Of each anchor the ``kept`` rows of a classifier (A outputs, ...), in that order."""
    return outputs.unflatten(0, (num_anchors, -1))[:, list(kept)].flatten(0, 1)


def note_of_other_classes(num_outputs: int, num_classes: int, classifier: str) -> str:
    return (
        f"the file's classifier has {num_outputs} outputs, which are not the model's {num_classes} "
        f"classes: {classifier} keeps its initial values and must be trained"
    )
