"""Any classifier of torchvision or timm that has maps of the right strides, under an FPN."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import StochasticDepth

from ...config import check_choice
from ...errors import UserError, quoted
from .fpn import build_fpn
from .library import check_known, check_rgb, import_timm

# Height and width of the image that tells the strides of a model's maps. They differ, so that maps
# (B, H, W, C) are told from (B, C, H, W).
_PROBE = (64, 96)
_NAMES = {2: "res1", 4: "res2", 8: "res3", 16: "res4", 32: "res5"}


class LibraryMaps(Backbone):
    """Feature maps of a library's model, named as a ResNet's of the same stride.

    Maps (B, H, W, C) get a layer normalisation of their own, as in the detectors on Swin (Liu et
    al., 2021).

    Args:
        model: gives its maps by name, or as a list in the order of ``shapes``.
        shapes: channels and stride of each map.
        channels_last: names of the maps that are (B, H, W, C).
        frozen: names of the model's parameters that are not trained. Batch normalisation without
            trained parameters keeps its statistics.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        shapes: Mapping[str, ShapeSpec],
        channels_last: Collection[str] = (),
        frozen: Collection[str] = (),
    ):
        super().__init__()
        self.model = model
        self.norms = nn.ModuleDict(
            {name: nn.LayerNorm(shapes[name].channels) for name in channels_last}
        )
        self._shapes = dict(shapes)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        self.train()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """{"res3": (B, C, H / 8, W / 8), ...} of images (B, 3, H, W)."""
        maps = self.model(images)
        if not isinstance(maps, Mapping):
            maps = dict(zip(self._shapes, maps, strict=True))
        normed = {name: norm(maps[name]).permute(0, 3, 1, 2) for name, norm in self.norms.items()}
        return {name: normed.get(name, maps[name]) for name in self._shapes}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    def train(self, mode: bool = True) -> "LibraryMaps":
        super().train(mode)
        for _, norm in _batch_norms(self.model):
            norm.train(mode and any(one.requires_grad for one in norm.parameters()))
        return self

    def rename_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The library's state dict under this module's names.

        timm's extractors keep the names, or hold the model as "model" or "body", or join the first
        two parts of a name. Tensors that no map needs keep their names.
        """
        own = self.model.state_dict()

        def renamed(name: str) -> str:
            forms = (name, f"model.{name}", f"body.{name}", name.replace(".", "_", 1))
            return next((f"model.{form}" for form in forms if form in own), name)

        return {renamed(name): value for name, value in state.items()}


class _TorchvisionModel:
    """A classifier of torchvision; its maps are what its blocks give."""

    def __init__(self, name: str, *, input_shape: ShapeSpec, drop_path: float):
        known = torchvision.models.list_models(module=torchvision.models)
        check_known("MODEL.LIBRARY_BODY.NAME", name, known, "torchvision")
        check_rgb(input_shape, "torchvision")
        self.module = torchvision.models.get_model(name, weights=None).eval()
        branches = [one for one in self.module.modules() if isinstance(one, StochasticDepth)]
        if drop_path > 0 and not branches:
            raise UserError(
                f"MODEL.LIBRARY_BODY.DROP_PATH is {drop_path}, but torchvision's {name} has no "
                "branches that images can skip; set it to 0.0"
            )
        deepest = max((one.p for one in branches), default=0.0)
        for one in branches:
            one.p *= drop_path / deepest

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """What each block gives for images (B, 3, H, W), in the order in which they run."""
        maps = {}
        hooks = [
            block.register_forward_hook(lambda _, __, out, name=name: maps.update({name: out}))
            for name, block in self._blocks()
        ]
        self.module(images)
        for hook in hooks:
            hook.remove()
        return maps

    def _blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """The parts of the model, and in place of those that only hold others, these."""
        for name, part in self.module.named_children():
            if isinstance(part, (nn.Sequential, nn.ModuleList)):
                yield from ((f"{name}.{inner}", block) for inner, block in part.named_children())
            else:
                yield name, part

    def extractor(self, names: Mapping[str, str]) -> nn.Module:
        """A model that gives the maps of some blocks under other names, and has nothing else."""
        return create_feature_extractor(self.module, dict(names), suppress_diff_warning=True)

    def synchronize(self, extractor: nn.Module) -> nn.Module:
        """Take the statistics of batch normalisation over all processes."""
        return nn.SyncBatchNorm.convert_sync_batchnorm(extractor)


class _TimmModel:
    """A model of timm, which makes extractors itself."""

    def __init__(self, name: str, *, input_shape: ShapeSpec, drop_path: float):
        self._timm = import_timm(f"MODEL.LIBRARY_BODY.NAME 'timm/{name}'")
        check_known("MODEL.LIBRARY_BODY.NAME", name, self._timm.list_models(), "timm")
        self._arguments = {"model_name": name, "in_chans": input_shape.channels}
        if drop_path > 0:  # models without such branches do not know the word
            self._arguments["drop_path_rate"] = drop_path
        self.module = self._timm.create_model(features_only=True, **self._arguments).eval()

    def maps(self, images: Tensor) -> dict[int, Tensor]:
        """All maps of images (B, C, H, W) by their numbers."""
        return dict(zip(self.module.feature_info.out_indices, self.module(images), strict=True))

    def extractor(self, names: Mapping[int, str]) -> nn.Module:
        """A model that gives a list of the maps of these numbers, and has nothing else."""
        return self._timm.create_model(
            features_only=True, out_indices=tuple(names), **self._arguments
        )

    def synchronize(self, extractor: nn.Module) -> nn.Module:
        """Take the statistics of batch normalisation over all processes."""
        # torch's own function would drop the activations that timm's normalisation holds.
        return self._timm.layers.convert_sync_batchnorm(extractor)


class _Level(NamedTuple):
    """The last map of a stride: the model's name for it, and what it was for the small image."""

    source: str | int
    map: Tensor
    shape: ShapeSpec
    is_channels_last: bool


@BACKBONE_REGISTRY.register()
def build_library_fpn_backbone(cfg, input_shape: ShapeSpec) -> Backbone:
    """The body of ``MODEL.LIBRARY_BODY`` under an FPN; see :func:`.fpn.build_fpn` for its levels.

    Channels and strides are read from the maps of a small image.
    """
    return build_fpn(cfg.MODEL.FPN, _build_library_maps(cfg, input_shape))


def _build_library_maps(cfg, input_shape: ShapeSpec) -> LibraryMaps:
    keys, freeze_at = cfg.MODEL.LIBRARY_BODY, cfg.MODEL.BACKBONE.FREEZE_AT
    kinds = {"torchvision": _TorchvisionModel, "timm": _TimmModel}
    library, _, name = keys.NAME.partition("/")
    check_choice("the library in MODEL.LIBRARY_BODY.NAME 'LIBRARY/MODEL'", library, list(kinds))
    norm = check_choice("MODEL.LIBRARY_BODY.NORM", keys.NORM, ("BN", "SyncBN", "FrozenBN"))
    try:
        whole = kinds[library](name, input_shape=input_shape, drop_path=keys.DROP_PATH)
        maps = whole.maps(torch.zeros(1, input_shape.channels, *_PROBE))
    except UserError:
        raise
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"MODEL.LIBRARY_BODY.NAME: {keys.NAME} gives no maps of an image of {_PROBE[0]} x "
            f"{_PROBE[1]} pixels ({type(error).__name__}: {' '.join(str(error).split())}); choose "
            "a body that takes images of any size"
        ) from error
    levels, wanted = _levels(maps), cfg.MODEL.FPN.IN_FEATURES
    _check_there("MODEL.FPN.IN_FEATURES", wanted, levels, keys.NAME)
    frozen = set()
    if freeze_at > 0:
        last = f"res{freeze_at}"
        _check_there(f"MODEL.BACKBONE.FREEZE_AT {freeze_at}", [last], levels, keys.NAME)
        frozen |= _parameters_of(levels[last].map, whole.module)
    model = whole.extractor({levels[name].source: name for name in wanted})
    if norm == "SyncBN":
        model = whole.synchronize(model)
    if norm == "FrozenBN":
        norms = _batch_norms(model)
        frozen |= {f"{path}.{name}" for path, one in norms for name, _ in one.named_parameters()}
    return LibraryMaps(
        model,
        shapes={name: levels[name].shape for name in wanted},
        channels_last=[name for name in wanted if levels[name].is_channels_last],
        frozen=frozen,
    )


def _levels(maps: Mapping[str | int, Tensor]) -> dict[str, _Level]:
    """The last map of each stride by our name for it; ``maps`` are those of the small image."""
    levels = {}
    for source, one in maps.items():
        if not isinstance(one, Tensor) or one.dim() != 4:
            continue
        for is_channels_last, order in ((False, (1, 2, 3)), (True, (3, 1, 2))):
            channels, height, width = (one.shape[dim] for dim in order)
            stride = _PROBE[0] // height
            if stride in _NAMES and (stride * height, stride * width) == _PROBE:
                shape = ShapeSpec(channels=channels, stride=stride)
                levels[_NAMES[stride]] = _Level(source, one, shape, is_channels_last)
    return levels


def _check_there(key: str, names: Sequence[str], levels: Mapping[str, _Level], body: str) -> None:
    if missing := [name for name in names if name not in levels]:
        there = [f"{name} (stride {level.shape.stride})" for name, level in levels.items()]
        raise UserError(
            f"{key}: {body} has no maps {quoted(missing)}; it has {', '.join(there) or 'none'}"
        )


def _parameters_of(output: Tensor, model: nn.Module) -> set[str]:
    """Names of the parameters that ``output`` was computed with."""
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(output.sum(), parameters.values(), allow_unused=True)
    named = zip(parameters, gradients, strict=True)
    return {name for name, gradient in named if gradient is not None}


def _batch_norms(model: nn.Module) -> list[tuple[str, nn.Module]]:
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm)
    return [(path, one) for path, one in model.named_modules() if isinstance(one, kinds)]
