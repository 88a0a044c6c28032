"""What an exported file computes: tensors in, tensors out, in the words of a runtime."""

from torch import Tensor, nn

from ..classification import OAT
from ..classification.oat import anchor_at, decode
from ..config import check_choice
from ..errors import UserError
from ..modeling.meta_arch import ImageClassifier

DECODINGS = ("raw", "running")


class DetectorGraph(nn.Module):
    """Detections of one image.

    Input "image": (C, H, W) uint8, resized. Outputs: "boxes" (D, 4), XYXY in pixels of the input;
    "scores" (D,), descending; "classes" (D,) int64.
    """

    takes_batches = False
    inputs = {"image": {1: "height", 2: "width"}}
    outputs = {name: {0: "detections"} for name in ("boxes", "scores", "classes")}

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.model([{"image": image}])[0]["instances"]
        return found.pred_boxes.tensor, found.scores, found.pred_classes

    def describe(self) -> dict[str, str | float]:
        """What the metadata say of this model."""
        return {"nms": True, "score_threshold": self.model.score_threshold}


class DenseDetectorGraph(DetectorGraph):
    """Boxes and class scores of all R anchors or locations of one image, nothing left out.

    Input "image": (C, H, W) uint8, resized. Outputs: "boxes" (R, 4), XYXY in pixels of the input,
    not clipped to it; "scores" (R, C).
    """

    outputs = {name: {0: "anchors"} for name in ("boxes", "scores")}

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        images = self.model.preprocess_image([{"image": image}])
        features = self.model.backbone(images.tensor)
        features = [features[name] for name in self.model.head_in_features]
        boxes, scores = self.model.dense_detections(features, self.model.head(features))
        return boxes[0], scores[0]

    def describe(self) -> dict[str, bool]:
        return {"nms": False}


class ClassifierGraph(nn.Module):
    """Scores of a batch of images.

    Input "images": (N, C, H, W) uint8, resized. Outputs: "outputs" (N, K), raw; "scores" (N, K):
    probabilities, or with "running" OAT's eq. 4 with the running anchor, about 1 in sum.
    """

    takes_batches = True
    inputs = {"images": {0: "batch", 2: "height", 3: "width"}}
    outputs = {name: {0: "batch"} for name in ("outputs", "scores")}

    def __init__(self, model: ImageClassifier, decoding: str):
        super().__init__()
        self.model = model
        self.decoding = decoding

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        model = self.model
        outputs = model.head(model.features(model.normalize(images))).float()
        if self.decoding == "raw":
            return outputs, model.method.scores(outputs)
        anchor = anchor_at(model.method.running_center, model.method.epsilon)
        return outputs, decode(outputs, anchor)

    def describe(self) -> dict[str, str]:
        """What the metadata say of this model."""
        return {"decoding": self.decoding}


def build_graph(model: nn.Module, *, with_nms: bool, decoding: str) -> nn.Module:
    """The graph of a model; arguments as of :func:`anchorkit.export.export_model`.

    Raises:
        UserError: a choice that does not fit the model.
    """
    check_choice("the decoding", decoding, DECODINGS)
    if isinstance(model, ImageClassifier):
        if not with_nms:
            raise UserError("only detectors can be exported without NMS; this is a classifier")
        if decoding == "running" and not _has_running_anchor(model):
            raise UserError(
                "decoding 'running' needs a classifier that OAT has trained beyond its pretraining;"
                " choose 'raw'"
            )
        return ClassifierGraph(model, decoding).eval()
    if decoding == "running":
        raise UserError("decoding 'running' is for classifiers trained by OAT; this is a detector")
    if not hasattr(model, "dense_detections"):
        raise UserError(
            f"{type(model).__name__} is not anchorkit's; detectron2.export has tools for it"
        )
    if getattr(model, "anchor_selection", "") == "random":
        raise UserError(
            "MODEL.SEMI_ANCHORED.ANCHOR_SELECTION 'random' cannot be exported; choose 'top' or "
            "'positive'"
        )
    return (DetectorGraph if with_nms else DenseDetectorGraph)(model).eval()


def _has_running_anchor(model: ImageClassifier) -> bool:
    return isinstance(model.method, OAT) and bool(model.method.is_active)
