"""Classifiers of torchvision and timm, for the body of an image classifier."""

from torch import nn

from ..modeling.backbone import LibraryBody
from ..modeling.meta_arch import ImageClassifier
from .name_map import Checkpoint, Entry, NameMap
from .resnet import IMAGENET_MEAN, IMAGENET_STD


def has_library_body(model: nn.Module | None) -> bool:
    return isinstance(model, ImageClassifier) and isinstance(model.body, LibraryBody)


def library_body_map(checkpoint: Checkpoint, model: ImageClassifier) -> NameMap:
    """Of the same model in the library; the body itself knows the names."""
    name_map = NameMap(f"{type(model.body.model).__name__} of torchvision or timm")
    renamed = model.rename_weights({name: name for name in checkpoint.tensors})
    name_map.entries |= {new: Entry((old,)) for new, old in renamed.items()}
    name_map.unused |= set(checkpoint.tensors) - set(renamed.values())
    name_map.fill_only("body.", model)
    # timm's models say what pixels they take; torchvision's all take the same.
    facts = getattr(model.body.model, "default_cfg", None)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if facts:
        mean, std = ([255 * value for value in facts[key]] for key in ("mean", "std"))
    name_map.settings |= {"MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": std}
    return name_map
