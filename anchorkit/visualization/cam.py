"""Class activation maps: where in an image a classifier sees a class (INDeeD's Figure 5).

A body that averages its last maps F_k over all places, before a linear layer (W, b), has maps that
its weights give without a gradient (Zhou et al., 2016):

    CAM_c(u, v) = sum_k W_ck F_k(u, v) + b_c,    with the logit of class c as its mean.

Grad-CAM (Selvaraju et al., 2017) serves the other bodies. It is taken times the number of places,
which makes it the positive part of CAM_c - b_c where both are defined, so that one scale fits both.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from detectron2.evaluation import inference_context
from torch import Tensor, nn

from ..errors import UserError


@dataclass(frozen=True)
class ActivationMaps:
    """What a classifier sees in B images, S classes in each.

    Attributes:
        maps: (B, S, h, w) float32, logits.
        outputs: (B, K) logits of all classes.
        scores: (B, K) of the outputs.
        score_name: "sigmoid" or "softmax".
        layer: name of the module that Grad-CAM was taken at; "" for maps from the weights alone.
    """

    maps: Tensor
    outputs: Tensor
    scores: Tensor
    score_name: str
    layer: str


def class_activation_maps(
    model: nn.Module, images: Tensor, classes: Tensor | None = None
) -> ActivationMaps:
    """Maps of an :class:`ImageClassifier`, from its weights if that can be, otherwise by Grad-CAM.

    Whether it can be is measured on these images: the features must be the means of some maps.

    Args:
        model: in any mode; evaluated as in evaluation. Grad-CAM clears its gradients.
        images: (B, C, H, W) uint8.
        classes: (B, S) class indices for each image; the maps of -1 are NaN. None: all K classes.

    Raises:
        UserError: the body gives no maps, or needs Grad-CAM and the package is not installed.
    """
    with inference_context(model), torch.no_grad():
        images = model.normalize(images)
        features, maps = _averaged_maps(model, images)
        outputs = model.head(features).float()
        if classes is None:
            classes = torch.arange(outputs.shape[1]).expand(len(images), -1)
        classes = classes.to(images.device)
        chosen, layer = classes.clamp(min=0), ""
        if maps is not None:
            weights, bias = model.head.weight[chosen].float(), model.head.bias[chosen].float()
            maps = torch.einsum("bsd,bdhw->bshw", weights, maps.float()) + bias[..., None, None]
        else:
            maps, layer = _grad_cam(model, images, chosen)
        return ActivationMaps(
            maps=maps.masked_fill((classes < 0)[..., None, None], torch.nan),
            outputs=outputs,
            scores=model.method.scores(outputs),
            score_name="sigmoid" if model.method.is_multi_label else "softmax",
            layer=layer,
        )


def choose_classes(labels: Tensor, outputs: Tensor) -> Tensor:
    """The classes of each image, and the one with the highest output that is not there.

    Args:
        labels: (B, K): 1 for a class that is there, 0 for one that is not, -1 if it is not known.
        outputs: (B, K).

    Returns:
        (B, S) class indices; each row is filled up with -1.
    """
    highest = outputs.masked_fill(labels != 0, -torch.inf).argmax(dim=1).tolist()
    rows = [(row == 1).nonzero()[:, 0].tolist() for row in labels]
    for row, label, wrong in zip(rows, labels, highest, strict=True):
        if (label == 0).any():
            row.append(wrong)
    longest = max(map(len, rows), default=0)
    return torch.tensor([row + [-1] * (longest - len(row)) for row in rows], dtype=torch.int64)


def _averaged_maps(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Features (B, D), and the largest maps (B, D, h, w) whose means they are, if there are any.

    Bodies of libraries pool inside, each in a module of its own kind or in none. So all maps of D
    channels are looked at, also those with the channels last.
    """
    num_features, seen = model.head.in_features, []

    def remember(module: nn.Module, inputs: tuple, output) -> None:
        output = output.get(model.feature) if isinstance(output, dict) else output
        if _is_map(output):
            layouts = (output, output.movedim(-1, 1))
            seen.extend(maps for maps in layouts if maps.shape[1] == num_features)

    features = _features(model, images, remember)
    averaged = [maps for maps in seen if _is_close(maps.mean((2, 3)), features)]
    return features, max(averaged, key=lambda maps: maps.shape[2:].numel(), default=None)


def _grad_cam(model: nn.Module, images: Tensor, classes: Tensor) -> tuple[Tensor, str]:
    """(B, S, h, w) of classes (B, S), and the name of the module that the maps are taken at."""
    name = _last_maps(model, images)
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise UserError(
            "the features of this body are not means of maps, so that its class activation maps "
            "need Grad-CAM, from the package grad-cam: pip install grad-cam"
        ) from error
    layer, result = model.get_submodule(name), []
    cam = GradCAM(model=_Outputs(model), target_layers=[layer])
    recorded = cam.activations_and_grads
    try:
        with torch.enable_grad():
            # Parts of the body may be frozen; the gradient reaches the layer all the same.
            images = images.detach().requires_grad_()
            for column in classes.T.tolist():
                targets = [ClassifierOutputTarget(label) for label in column]
                cam(images, targets)
                # What the call returns is stretched to [0, 1], image by image. A module that runs
                # more than once is recorded as often: its last run is meant.
                maps, gradients = recorded.activations[-1], recorded.gradients[-1]
                weighted = cam.get_cam_image(
                    images, layer, targets, maps.numpy(), gradients.numpy()
                )
                result.append(torch.from_numpy(weighted).clamp(min=0) * maps.shape[2:].numel())
    finally:
        recorded.release()
        model.zero_grad()
    return torch.stack(result, dim=1).to(images.device), name


def _last_maps(model: nn.Module, images: Tensor) -> str:
    """Name of the last module that gives maps, with no tokens (B, N, D) after them."""
    last = []

    def remember(module: nn.Module, inputs: tuple, output) -> None:
        if _is_map(output):
            last[:] = [module]
        elif isinstance(output, Tensor) and output.dim() == 3:
            last.clear()

    _features(model, images, remember)
    if not last:
        height, width = images.shape[-2:]
        raise UserError(
            f"no class activation maps: with images of {width} x {height} pixels the body ends in "
            "no map of more than one place; choose a convolutional body, or larger images with "
            "INPUT.FIXED_SIZE"
        )
    return next(name for name, module in model.named_modules() if module is last[0])


def _features(model: nn.Module, images: Tensor, hook: Callable) -> Tensor:
    """(B, D), with a forward hook on every module of the body."""
    with ExitStack() as stack:
        for module in model.body.modules():
            stack.enter_context(module.register_forward_hook(hook))
        return model.features(images)


def _is_map(output) -> bool:
    return isinstance(output, Tensor) and output.dim() == 4 and output.shape[2:].numel() > 1


def _is_close(means: Tensor, features: Tensor) -> bool:
    # A model that diverged has maps, too.
    return torch.allclose(means, features, rtol=1e-3, atol=1e-5, equal_nan=True)


class _Outputs(nn.Module):
    """The classifier as a function of normalised images alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.head(self.model.features(images))
