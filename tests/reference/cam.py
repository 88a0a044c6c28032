"""Class activation maps from their definitions, place by place."""

import torch


def class_activation_map(maps, weights, bias):
    """h x w of one class, for D maps of h x w as nested lists."""
    height, width = len(maps[0]), len(maps[0][0])
    result = [[bias] * width for _ in range(height)]
    for row in range(height):
        for column in range(width):
            for one, weight in zip(maps, weights, strict=True):
                result[row][column] += weight * one[row][column]
    return result


def grad_cam(model, layer, images):
    """(B, K, h, w): the mean gradient of each map weighs it; in logits, and where positive."""
    kept = []
    handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    outputs = model.head(model.features(images))
    handle.remove()
    (maps,) = kept
    rows = []
    for image, logits in enumerate(outputs):
        row = []
        for logit in logits:
            (gradient,) = torch.autograd.grad(logit, maps, retain_graph=True)
            weighted = torch.zeros_like(maps[image, 0])
            for weight, one in zip(gradient[image].mean(dim=(1, 2)), maps[image], strict=True):
                weighted += weight * one
            row.append((weighted * weighted.numel()).clamp(min=0).detach())
        rows.append(torch.stack(row))
    return torch.stack(rows)
