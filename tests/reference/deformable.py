"""Deformable convolution, one sample at a time (Dai et al., 2017; Zhu et al., 2019)."""

import math

import torch


def bilinear(plane, y, x):
    """Value of a map (H, W) between its pixels; outside it is 0."""
    top, left = math.floor(y), math.floor(x)
    value = 0.0
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                share = (1 - abs(y - row)) * (1 - abs(x - column))
                value += share * plane[row, column].item()
    return value


def deformable_convolution(
    x, sampling, weight, *, stride=1, padding=0, dilation=1, modulated=False, sampling_groups=1
):
    """(O, H', W') for maps ``x`` (C, H, W), ``sampling`` (S, H', W') and kernels (O, C / g, k, k).

    ``sampling`` holds for each group of channels and each place of the kernel the shift down and to
    the right, then the logits of the weights.
    """
    num_out, per_group, size, _ = weight.shape
    channels, places = x.shape[0], size * size
    height, width = sampling.shape[1:]
    out = torch.zeros(num_out, height, width)
    for o in range(num_out):
        first = per_group * (o // (num_out // (channels // per_group)))
        for row in range(height):
            for column in range(width):
                for c in range(first, first + per_group):
                    group = c // (channels // sampling_groups)
                    for place in range(places):
                        i, j = divmod(place, size)
                        index = group * places + place
                        down, right = (sampling[2 * index + k, row, column].item() for k in (0, 1))
                        y = row * stride - padding + i * dilation + down
                        z = column * stride - padding + j * dilation + right
                        share = 1.0
                        if modulated:
                            logit = sampling[2 * sampling_groups * places + index, row, column]
                            share = 1 / (1 + math.exp(-logit.item()))
                        value = share * bilinear(x[c], y, z)
                        out[o, row, column] += weight[o, c - first, i, j].item() * value
    return out
