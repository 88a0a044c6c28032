"""Multiply-accumulates of a model, counted layer by layer while it runs."""

from torch import nn


def macs_of_layers(model, run):
    """Multiply-accumulates of the convolutions and linear layers of a model in ``run()``."""
    total = 0

    def count(layer, inputs, output):
        nonlocal total
        num_outputs = 1
        for side in output.shape:
            num_outputs *= side
        num_products = 1
        for side in layer.weight.shape[1:]:  # inputs that one output is made of
            num_products *= side
        total += num_outputs * num_products

    layers = [one for one in model.modules() if isinstance(one, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    run()
    for hook in hooks:
        hook.remove()
    return total
