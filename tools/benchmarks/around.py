"""What a training step and an inference do besides body, pyramid and head."""

import argparse
import statistics
from collections.abc import Callable

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from . import models as zoo
from .detectors import families_and_sizes, infer, title_of, train
from .timing import alternate


def around_the_network(args: argparse.Namespace) -> dict[str, dict]:
    """What a training step and an inference do besides body, pyramid and head."""
    tables = {}
    for family, names, size in families_and_sizes(args):
        names = [name for name in names if not name.startswith("torchvision")]
        models = {name: zoo.build(name, args.device, args.depth) for name in names}
        data = [zoo.random_input(*size)]
        rows = []
        for name, model in models.items():
            calls = {
                "step": lambda m=model: train(m, data),  # noqa: B023
                "losses": _losses_alone(model, data),
                "inference": lambda m=model: infer(m, data),  # noqa: B023
                "detections": _detections_alone(model, data),
            }
            times = alternate(calls, max(1, args.rounds // 2))
            step, losses, inference, detections = map(statistics.median, times.values())
            rows.append(
                [name, round(losses, 1), f"{losses / step:.1%}"]
                + [round(detections, 1), f"{detections / inference:.1%}"]
            )
        tables[title_of("Around the network", family, size, args)] = {
            "note": "Labels and losses, forward and backward to the head's outputs, of one image "
            "with 10 boxes; and detections from outputs with some thousands of candidates: "
            "decoding, thresholds, suppression.",
            "columns": ["what", "losses ms", "of a step", "detections ms", "of an inference"],
            "rows": rows,
        }
    return tables


def _outputs(model: nn.Module, data: list[dict]) -> tuple:
    """Images, feature maps and the head's outputs of a detectron2 DenseDetector."""
    with torch.no_grad():
        images = model.preprocess_image(data)
        features = model.backbone(images.tensor)
        features = [features[name] for name in model.head_in_features]
        return images, features, model.head(features)


def _rebuilt(predictions, function: Callable[[torch.Tensor], torch.Tensor]):
    """The same lists of tensors, in a named tuple where they were in one."""
    lists = [[function(level) for level in levels] for levels in predictions]
    return type(predictions)(*lists) if hasattr(predictions, "_fields") else lists


def _losses_alone(model: nn.Module, data: list[dict]) -> Callable[[], None]:
    images, features, predictions = _outputs(model, data)
    instances = [sample["instances"].to(model.device) for sample in data]

    def run() -> None:
        leaves = _rebuilt(predictions, lambda level: level.detach().requires_grad_())
        with EventStorage():
            losses = model.forward_training(images, features, leaves, instances)
            sum(losses.values()).backward()

    return run


def _detections_alone(model: nn.Module, data: list[dict]) -> Callable[[], None]:
    """With class scores of which one in a thousand exceeds the threshold, as in a trained model."""
    images, features, predictions = _outputs(model, data)
    generator = torch.Generator().manual_seed(0)
    class_logits = predictions[0]
    for level in class_logits:
        noise = torch.randn(level.shape, generator=generator).to(level)
        if hasattr(model, "negative_ratio") or getattr(model, "location_loss", "") == "softmax":
            # Softmax over 81 classes, background last: its logit is 6 above the others'.
            background = torch.arange(level.shape[1], device=level.device) % 81 == 80
            level.copy_(noise + 6.0 * background[:, None, None])
        else:
            level.copy_(noise - 6.0)

    @torch.no_grad()
    def run() -> None:
        model.forward_inference(images, features, _rebuilt(predictions, torch.clone))

    return run
