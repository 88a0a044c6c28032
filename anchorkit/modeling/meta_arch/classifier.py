"""An image classifier: body, pooling, linear layer, and the method that trains it."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from ...classification import (
    OAT,
    BinaryCrossEntropy,
    ClassificationMethod,
    CrossEntropy,
    INDeeD,
)
from ...classification.indeed import DEFAULT_PAIRS, MASKS, PAIRINGS
from ...classification.oat import ANCHORS, REDUCTIONS
from ...config import check_choice, num_classes
from ...errors import UserError

SINGLE_LABEL_METHODS = ("cross_entropy", "oat")
MULTI_LABEL_METHODS = ("binary_cross_entropy", "indeed")


@META_ARCH_REGISTRY.register()
class ImageClassifier(nn.Module):
    """Classifies whole images.

    Args:
        body: gives features (B, D) or maps (B, D, H, W) by name.
        feature: the name.
        num_classes: K.
        method: makes losses in training and scores in evaluation.
        pixel_mean, pixel_std: one entry for each channel that the body takes; grey images are
            repeated for three.
        image_size: images of another size are resized to this square, pixels; 0 leaves them.
        dropout: of what the linear layer takes, in training.
    """

    @configurable
    def __init__(
        self,
        *,
        body: Backbone,
        feature: str,
        num_classes: int,
        method: ClassificationMethod,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        image_size: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        shapes = body.output_shape()
        if feature not in shapes:
            raise UserError(
                f"MODEL.CLASSIFIER.FEATURE is {feature!r}; this body gives {', '.join(shapes)}"
            )
        self.body = body
        self.feature = feature
        self.head = LinearHead(shapes[feature].channels, num_classes, dropout=dropout)
        self.method = method
        self.image_size = image_size
        # (x - mean) / std as one multiplication and one addition.
        std = torch.tensor(pixel_std).view(-1, 1, 1)
        mean = torch.tensor(pixel_mean).view(-1, 1, 1)
        self.register_buffer("pixel_scale", 1 / std, persistent=False)
        self.register_buffer("pixel_shift", -mean / std, persistent=False)

    @classmethod
    def from_config(cls, cfg) -> dict:
        return {
            "body": build_backbone(cfg),
            "feature": cfg.MODEL.CLASSIFIER.FEATURE,
            "num_classes": num_classes(cfg),
            "method": _build_method(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "image_size": cfg.INPUT.FIXED_SIZE,
            "dropout": cfg.MODEL.CLASSIFIER.DROPOUT,
        }

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, batch):
        """Losses in training, raw outputs in evaluation.

        Args:
            batch: an :class:`anchorkit.data.ImageBatch`, or detectron2's list of dicts with
                "image" (C, H, W) uint8 and, in training, "gt_classes": one class index, or for a
                multi-label method any number.

        Returns:
            In training a dict of scalars. In evaluation raw outputs (B, K), for a list of dicts
            a list of {"outputs", "scores"}, each (K,).
        """
        if isinstance(batch, list):
            return self._forward_dicts(batch)
        images = self.normalize(batch.images)
        if self.training:
            return self.method.losses(self, images, batch.labels)
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """(B, D), pooled over all places, of normalised images (B, C, H, W)."""
        features = self.body(images)[self.feature]
        if features.dim() == 4:
            features = features.mean(dim=(2, 3))
        return features

    def normalize(self, images: Tensor) -> Tensor:
        """(B, C, S, S) float32 input of the body for uint8 images (B, 1 or C, H, W)."""
        images = images.to(self.device).float()
        size = self.image_size
        if size > 0 and images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        return torch.addcmul(self.pixel_shift, images, self.pixel_scale)

    def rename_weights(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state dict of the body's library under this model's names; others as they are."""
        rename = getattr(self.body, "rename_weights", None)
        # TResNet's own names begin with "body.", too.
        if rename is None or any(name.startswith("body.model.") for name in state):
            return state
        return {f"body.{name}": value for name, value in rename(state).items()}

    def _forward_dicts(self, batch: list[dict]):
        images = torch.cat([self.normalize(one["image"][None]) for one in batch])
        if self.training:
            return self.method.losses(self, images, self._labels([o["gt_classes"] for o in batch]))
        outputs = self.head(self.features(images))
        scores = self.method.scores(outputs)
        return [{"outputs": o, "scores": s} for o, s in zip(outputs, scores, strict=True)]

    def _labels(self, classes: list[list[int]]) -> Tensor:
        if not self.method.is_multi_label:
            return torch.tensor([indices[0] for indices in classes], device=self.device)
        labels = torch.zeros(len(classes), self.head.out_features, dtype=torch.int8)
        for row, indices in zip(labels, classes, strict=True):
            row[list(indices)] = 1
        return labels.to(self.device)


class LinearHead(nn.Linear):
    """A linear layer with dropout before it."""

    def __init__(self, in_features: int, out_features: int, *, dropout: float = 0.0):
        super().__init__(in_features, out_features)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(F.dropout(features, self.dropout, self.training))


def _build_method(cfg) -> ClassificationMethod:
    """The method of ``MODEL.CLASSIFIER.METHOD``."""
    keys = cfg.MODEL.CLASSIFIER
    known = (*SINGLE_LABEL_METHODS, *MULTI_LABEL_METHODS)
    name = check_choice("MODEL.CLASSIFIER.METHOD", keys.METHOD, known)
    if name == "oat":
        return _build_oat(cfg)
    if name == "indeed":
        return _build_indeed(cfg)
    method = CrossEntropy if name == "cross_entropy" else BinaryCrossEntropy
    return method(label_smoothing=keys.LABEL_SMOOTHING)


def _build_oat(cfg) -> OAT:
    keys = cfg.MODEL.OAT
    return OAT(
        num_classes=num_classes(cfg),
        anchor=check_choice("MODEL.OAT.ANCHOR", keys.ANCHOR, ANCHORS),
        epsilon=keys.EPSILON,
        detach=keys.DETACH,
        reduction=check_choice("MODEL.OAT.REDUCTION", keys.REDUCTION, REDUCTIONS),
        global_center=keys.GLOBAL_CENTER,
        momentum=keys.MOMENTUM,
        label_smoothing=cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING,
        test_batch=keys.TEST_BATCH,
        test_seed=keys.TEST_SEED,
        num_permutations=keys.NUM_PERMUTATIONS,
    )


def _build_indeed(cfg) -> INDeeD:
    keys = cfg.MODEL.INDEED
    if cfg.INPUT.MIXUP > 0:
        raise UserError(
            f"INPUT.MIXUP is {cfg.INPUT.MIXUP}, but INDeeD pairs images by the classes that they "
            "have whole; set it to 0, or choose MODEL.CLASSIFIER.METHOD 'binary_cross_entropy'"
        )
    num_steps = cfg.SOLVER.MAX_ITER * cfg.SOLVER.ACCUMULATION_STEPS
    return INDeeD(
        mask=check_choice("MODEL.INDEED.NORM", keys.NORM, MASKS),
        weight=keys.LAMBDA,
        ramp_steps=round(keys.LAMBDA_RAMP * num_steps),
        pairing=check_choice("MODEL.INDEED.PAIRING", keys.PAIRING, PAIRINGS),
        default_pair=check_choice("MODEL.INDEED.DEFAULT_PAIR", keys.DEFAULT_PAIR, DEFAULT_PAIRS),
        default_pair_weight=keys.DEFAULT_PAIR_WEIGHT,
        identical=keys.IDENTICAL,
        disparate=keys.DISPARATE,
        detach_mask=keys.DETACH_MASK,
        epsilon=keys.EPSILON,
        label_smoothing=cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING,
    )
