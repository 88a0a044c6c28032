"""Small scenes for tests: grids of anchors and ground truth with coordinates of binary fractions.

Areas of such boxes are exact in single precision, so that the library and an oracle see the same
IoU, to the last bit, and ties are ties in both.
"""

import torch
from detectron2.structures import Boxes, Instances

# (width, height) of the anchors of a location, as multiples of the stride.
SIX_SHAPES = ((2.0, 2.0), (3.0, 3.0), (1.5, 3.0), (3.0, 1.5), (2.25, 4.5), (4.5, 2.25))
ONE_SHAPE = ((3.0, 3.0),)
STRIDES = (8, 16, 32)


def grid_anchors(height, width, stride, shapes):
    """(H, W, K, 4) anchors around (i + 0.5) stride; ``shapes`` are K (width, height) in strides."""
    anchors = torch.zeros(height, width, len(shapes), 4)
    for y in range(height):
        for x in range(width):
            for k, (w, h) in enumerate(shapes):
                center_x, center_y = (x + 0.5) * stride, (y + 0.5) * stride
                anchors[y, x, k] = torch.tensor(
                    [
                        center_x - w * stride / 2,
                        center_y - h * stride / 2,
                        center_x + w * stride / 2,
                        center_y + h * stride / 2,
                    ]
                )
    return anchors


def pyramid(size=64, strides=STRIDES, shapes=SIX_SHAPES):
    """Anchors of a square image, (H, W, K, 4) a stride; ``shapes`` of all levels or of each."""
    if not isinstance(shapes[0][0], tuple):
        shapes = [shapes] * len(strides)
    return [
        grid_anchors(-(-size // stride), -(-size // stride), stride, of_level)
        for stride, of_level in zip(strides, shapes, strict=True)
    ]


def random_boxes(generator, count, size=64, smallest=8.0):
    """``count`` boxes on a grid of 1/4 pixel, some of them beyond the border of the image."""
    center = torch.rand(count, 2, generator=generator) * size
    log_side = torch.rand(count, 2, generator=generator) * 1.8
    half = smallest * log_side.exp() / 2
    return ((torch.cat([center - half, center + half], dim=1)) * 4).round() / 4


def random_scene(seed, count=6, num_classes=3, size=64):
    """Random boxes and classes; boxes in pairs lie close, so that locations see several classes."""
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(generator, count, size)
    shift = torch.randint(-8, 9, (count // 2, 4), generator=generator) / 4
    boxes[: count // 2] = boxes[count // 2 : 2 * (count // 2)] + shift
    return boxes, torch.randint(num_classes, (count,), generator=generator)


def instances(boxes, classes, size=(64, 64)):
    """detectron2's ground truth of one image."""
    result = Instances(size)
    result.gt_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.gt_classes = torch.as_tensor(classes, dtype=torch.int64).reshape(-1)
    return result


def grid_locations(height=64, width=64, strides=STRIDES):
    """Points (x, y) in the middle of every cell, (P, 2) a stride, row by row."""
    return [
        torch.tensor(
            [
                [(x + 0.5) * stride, (y + 0.5) * stride]
                for y in range(-(-height // stride))
                for x in range(-(-width // stride))
            ]
        )
        for stride in strides
    ]
