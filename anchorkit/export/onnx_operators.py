"""ONNX operators for the two torch operators that torch's exporter does not know."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.onnx import symbolic_helper

# The first version that has deformable convolution; torch's tracing exporter ends at 20.
OPSET = 19


@contextmanager
def registered_operators() -> Iterator[None]:
    """torch's exporter knows the operators below in this context."""
    operators = {"aten::sort": _sort, "torchvision::deform_conv2d": _deform_conv}
    for name, operator in operators.items():
        torch.onnx.register_custom_op_symbolic(name, operator, OPSET)
    try:
        yield
    finally:
        for name in operators:
            torch.onnx.unregister_custom_op_symbolic(name, OPSET)


def _sort(g, values, *options):
    """``sort(values, [stable,] dim, descending)`` as TopK, which keeps the order of equals."""
    dim, is_descending = (_integer(option) for option in options[-2:])
    last = g.op("Constant", value_t=torch.tensor([dim]))
    count = g.op("Gather", g.op("Shape", values), last)
    return g.op("TopK", values, count, axis_i=dim, largest_i=is_descending, outputs=2)


def _deform_conv(
    g, maps, weight, offset, mask, bias, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x,
    weight_groups, offset_groups, is_modulated,
):  # fmt: skip
    pads = [_integer(pad_y), _integer(pad_x)]
    return g.op(
        "DeformConv", maps, weight, offset, bias, *([mask] if _integer(is_modulated) else []),
        strides_i=[_integer(stride_y), _integer(stride_x)], pads_i=pads + pads,
        dilations_i=[_integer(dilation_y), _integer(dilation_x)],
        group_i=_integer(weight_groups), offset_group_i=_integer(offset_groups),
    )  # fmt: skip


def _integer(option) -> int:
    return int(symbolic_helper._get_const(option, "i", "option"))
