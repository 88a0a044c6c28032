"""Any classifier of torchvision or timm, without its last layer, as a body."""

import difflib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from ...errors import UserError


class LibraryBody(Backbone):
    """A model whose last layers were taken away.

    Args:
        model: gives (B, D) features, or (B, D, H, W) maps.
        num_features: D.
        last_layers: names that such layers had in the library's state dict.
        output: "features" or "maps".
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_features: int,
        last_layers: Sequence[str],
        output: str = "features",
    ):
        super().__init__()
        self.model = model
        self.num_features = num_features
        self.last_layers = tuple(last_layers)
        self.output = output

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """{"features": (B, D)} or {"maps": (B, D, H, W)}."""
        return {self.output: self.model(images)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {self.output: ShapeSpec(channels=self.num_features)}

    def rename_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The library's state dict under this module's names, without the last layer."""
        prefixes = tuple(f"{name}." for name in self.last_layers)
        return {
            f"model.{name}": value for name, value in state.items() if not name.startswith(prefixes)
        }


@BACKBONE_REGISTRY.register()
def build_torchvision_body(cfg, input_shape: ShapeSpec) -> LibraryBody:
    """The classifier of torchvision that ``MODEL.CLASSIFIER.BODY`` names, such as "resnet18".

    With ``MODEL.CLASSIFIER.FEATURE`` "maps" only its convolutions, such as VGG's without the hidden
    layers.
    """
    name = cfg.MODEL.CLASSIFIER.BODY
    known = torchvision.models.list_models(module=torchvision.models)
    check_known("MODEL.CLASSIFIER.BODY", name, known, "torchvision")
    check_rgb(input_shape, "torchvision")
    options = {"image_size": cfg.INPUT.FIXED_SIZE} if name.startswith("vit_") else {}
    model = torchvision.models.get_model(name, weights=None, **options)
    if cfg.MODEL.CLASSIFIER.FEATURE == "maps":
        return _convolutions(model, name)
    layers = [(path, one) for path, one in model.named_modules() if isinstance(one, nn.Linear)]
    if not layers:
        raise UserError(
            f"MODEL.CLASSIFIER.BODY: torchvision's {name} has no linear layer that could be taken "
            "away; set MODEL.CLASSIFIER.FEATURE to 'maps', its convolutions"
        )
    path, last = layers[-1]
    model.set_submodule(path, nn.Identity())
    # Dropout before the last layer is the classifier's own, MODEL.CLASSIFIER.DROPOUT.
    before = list(model.named_modules())[-2]
    if isinstance(before[1], nn.Dropout):
        model.set_submodule(before[0], nn.Identity())
    return LibraryBody(model, num_features=last.in_features, last_layers=[path])


@BACKBONE_REGISTRY.register()
def build_timm_body(cfg, input_shape: ShapeSpec) -> LibraryBody:
    """The model of timm that ``MODEL.CLASSIFIER.BODY`` names, such as "tresnet_m"."""
    timm = import_timm("MODEL.BACKBONE.NAME build_timm_body")
    name = cfg.MODEL.CLASSIFIER.BODY
    check_known("MODEL.CLASSIFIER.BODY", name, timm.list_models(), "timm")
    model = timm.create_model(name, pretrained=False, in_chans=input_shape.channels)
    last_layers = model.default_cfg["classifier"]
    if isinstance(last_layers, str):
        last_layers = [last_layers]
    model.reset_classifier(0)
    return LibraryBody(model, num_features=model.num_features, last_layers=last_layers)


def _convolutions(model: nn.Module, name: str) -> LibraryBody:
    if not isinstance(getattr(model, "features", None), nn.Module):
        raise UserError(
            f"MODEL.CLASSIFIER.FEATURE 'maps': torchvision's {name} does not hold its convolutions "
            "apart, as vgg16 does; choose 'features'"
        )
    others = [path for path, _ in model.named_children() if path != "features"]
    convolutions = nn.Sequential(OrderedDict(features=model.features)).eval()
    with torch.no_grad():
        channels = convolutions(torch.zeros(1, 3, 64, 64)).shape[1]
    convolutions.train()
    return LibraryBody(convolutions, num_features=channels, last_layers=others, output="maps")


def check_known(key: str, name: str, known: Sequence[str], library: str) -> None:
    """Raise a :class:`UserError` with the nearest known name for a model that is unknown."""
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"{key}: {library} has no model {name!r}{hint}")


def check_rgb(input_shape: ShapeSpec, library: str) -> None:
    """Raise a :class:`UserError` if the input has not three channels."""
    if input_shape.channels != 3:
        raise UserError(
            f"{library}'s bodies take 3 channels; give MODEL.PIXEL_MEAN and PIXEL_STD 3 entries "
            "(grey images are then repeated)"
        )


def import_timm(reason: str) -> ModuleType:
    """The package timm, which is not always there; ``reason`` names the key that asks for it."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"{reason} needs the package timm: pip install timm") from error
    return timm
