"""ResNets whose layers have torchvision's names, as mmdetection's have too."""

from collections.abc import Collection

from detectron2.modeling.backbone import ResNet
from torch import nn

from ..errors import UserError
from .name_map import Checkpoint, Entry, NameMap

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
# What torchvision's models see: RGB, less this mean, divided by this deviation.
IMAGENET_MEAN, IMAGENET_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
RGB_SETTINGS = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": IMAGENET_MEAN,
    "MODEL.PIXEL_STD": IMAGENET_STD,
}
# Convolutions of a block and blocks of the four stages, by depth.
_DEPTHS = {
    (2, (2, 2, 2, 2)): 18,
    (2, (3, 4, 6, 3)): 34,
    (3, (3, 4, 6, 3)): 50,
    (3, (3, 4, 23, 3)): 101,
    (3, (3, 8, 36, 3)): 152,
}


def resnet_map(checkpoint: Checkpoint, model: nn.Module | None) -> NameMap:
    """Of torchvision's ResNet, ResNeXt and Wide ResNet; the file's classifier is left out."""
    name_map = NameMap("torchvision's ResNet")
    prefix = resnet_prefix(model, name_map.source)
    take_resnet(name_map, checkpoint, "", prefix)
    name_map.fill_only(prefix, model)
    name_map.unused |= {"fc.weight", "fc.bias"}
    name_map.settings |= RGB_SETTINGS | {"MODEL.RESNETS.STRIDE_IN_1X1": False}
    return name_map


def resnet_prefix(model: nn.Module | None, source: str) -> str:
    """Where in the model detectron2's ResNet is, such as "backbone.bottom_up.".

    Raises:
        UserError: the model is not known, or has none.
    """
    if model is None:
        raise UserError(f"{source} goes into many models; name yours with --config-file")
    for name, module in model.named_modules():
        if isinstance(module, ResNet):
            return f"{name}."
    raise UserError(
        f"{source} fills a ResNet of detectron2, and this config's {type(model).__name__} has none"
    )


def take_resnet(name_map: NameMap, checkpoint: Checkpoint, old: str, new: str) -> None:
    """Map everything but the classifier of the ResNet at ``old`` to the one at ``new``."""
    tensors = checkpoint.tensors
    num_convs = 3 if f"{old}layer1.0.conv3.weight" in tensors else 2
    num_blocks = count_blocks(tensors, old + "layer{stage}.{block}.conv1.weight")
    _take_conv(name_map, f"{old}conv1", f"{old}bn1", f"{new}stem.conv1")
    for stage, blocks in enumerate(num_blocks, start=1):
        for block in range(blocks):
            theirs, ours = f"{old}layer{stage}.{block}", f"{new}res{stage + 1}.{block}"
            for index in range(1, num_convs + 1):
                _take_conv(
                    name_map, f"{theirs}.conv{index}", f"{theirs}.bn{index}", f"{ours}.conv{index}"
                )
            # In a first stage of basic blocks no shape changes.
            if block == 0 and (num_convs == 3 or stage > 1):
                shortcut = f"{theirs}.downsample"
                _take_conv(name_map, f"{shortcut}.0", f"{shortcut}.1", f"{ours}.shortcut")
    kernel = tensors.get(f"{old}layer1.0.conv2.weight")
    width, group = (0, 0) if kernel is None else kernel.shape[:2]
    name_map.structure |= resnet_keys(name_map.source, num_convs, num_blocks, width, group)


def _take_conv(name_map: NameMap, conv: str, norm: str, new: str) -> None:
    name_map.take(conv, new, ("weight",))
    name_map.take(norm, f"{new}.norm", BATCH_NORM)
    # Frozen normalisations do not count their batches.
    counter = f"{new}.norm.num_batches_tracked"
    name_map.entries[counter] = Entry((f"{norm}.num_batches_tracked",))
    name_map.optional.add(counter)


def count_blocks(names: Collection[str], pattern: str, first_stage: int = 1) -> tuple[int, ...]:
    """Blocks of the four stages, by a name that each of them has."""
    counts = []
    for stage in range(first_stage, first_stage + 4):
        block = 0
        while pattern.format(stage=stage, block=block) in names:
            block += 1
        counts.append(block)
    return tuple(counts)


def resnet_keys(
    source: str, num_convs: int, num_blocks: tuple[int, ...], width: int, group: int
) -> dict[str, object]:
    """``MODEL.RESNETS`` of a ResNet.

    Args:
        source: of which the file is, for the message.
        num_convs, num_blocks: convolutions of a block, and blocks of each stage.
        width, group: output channels of a block's second convolution in the first stage, and the
            input channels that each of them sees.

    Raises:
        UserError: detectron2 has no ResNet of so many blocks.
    """
    if (num_convs, num_blocks) not in _DEPTHS:
        known = ", ".join(f"{depth}: {key[1]}" for key, depth in _DEPTHS.items())
        raise UserError(
            f"{source} with {num_blocks} blocks of {num_convs} convolutions in its stages is "
            f"either not whole or none that detectron2 has ({known})"
        )
    keys = {"MODEL.RESNETS.DEPTH": _DEPTHS[num_convs, num_blocks]}
    if num_convs == 2:
        return keys | {"MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
    num_groups = width // max(group, 1)
    return keys | {
        "MODEL.RESNETS.NUM_GROUPS": num_groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width // max(num_groups, 1),
    }
