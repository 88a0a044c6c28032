"""Augmentation pixel by pixel."""


def shifted(image, down, right):
    """An image (C, H, W) whose pixel (y, x) is the one at (y + down, x + right), or zero."""
    _, height, width = image.shape
    moved = image.clone()
    for y in range(height):
        for x in range(width):
            inside = 0 <= y + down < height and 0 <= x + right < width
            moved[:, y, x] = image[:, y + down, x + right] if inside else 0
    return moved


def with_hole(image, side, center):
    """An image (C, H, W) with zeros in the square whose top left is half a side off its centre."""
    _, height, width = image.shape
    top, left = center[0] - side // 2, center[1] - side // 2
    cut = image.clone()
    for y in range(top, top + side):
        for x in range(left, left + side):
            if 0 <= y < height and 0 <= x < width:
                cut[:, y, x] = 0
    return cut
