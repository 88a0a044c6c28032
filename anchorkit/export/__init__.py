"""Trained models as TorchScript and ONNX files, which run without anchorkit and detectron2."""

import json
import os
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from .. import __version__
from ..config import check_choice
from ..errors import UserError
from ..predictor import Predictor
from .check import same_share
from .files import FORMATS, ExportedModel, import_for_onnx, onnx_file, torchscript_file
from .graphs import DECODINGS, build_graph

__all__ = ["DECODINGS", "FORMATS", "ExportedModel", "export_model"]

# Height and width of the images that a model for any size is traced with, and checked with.
_TRACED_SIZE, _CHECKED_SIZE = (256, 320), (299, 230)
# Rounding moves a few detections across a threshold; a trace that holds something for constant
# which depends on the image loses most.
_LEAST_SHARE = 0.95


def export_model(
    cfg: CfgNode,
    path: str,
    *,
    file_format: str,
    config_name: str = "",
    size: Sequence[int] | None = None,
    with_nms: bool = True,
    decoding: str = "raw",
) -> dict[str, str]:
    """Write a trained model to a file, and check on noise that the file gives what the model gives.

    Normalisation and padding are in the file, resizing is not. :mod:`.graphs` says what goes in and
    comes out.

    Args:
        cfg: of the model; ``MODEL.WEIGHTS`` names its checkpoint.
        path: of the file.
        file_format: "torchscript" or "onnx".
        config_name: for the metadata.
        size: height and width of the images; None is the size of ``INPUT.FIXED_SIZE``, and any
            size if that is 0.
        with_nms: of a detector; without, it gives all boxes and scores, for a suppression of one's
            own.
        decoding: of a classifier: "raw", or for OAT "running", eq. 4 with the training's running
            anchor.

    Returns:
        The metadata in the file; each value is a text or JSON.

    Raises:
        UserError: choices that do not fit the model, weights that cannot be loaded, a missing
            package, a model that the format cannot express, or a file that cannot be written.
    """
    check_choice("the format", file_format, FORMATS)
    if file_format == "onnx":
        import_for_onnx("onnx")
        import_for_onnx("onnxruntime")
    size = _fixed_size(cfg, size)
    predictor = Predictor(cfg)
    graph = build_graph(predictor.model, with_nms=with_nms, decoding=decoding)
    metadata = _metadata(cfg, predictor, graph, config_name, size)
    example = _noise(cfg, graph, 2, size or _TRACED_SIZE)
    if file_format == "onnx":
        content = onnx_file(graph, example, metadata, has_fixed_size=size is not None)
    else:
        content = torchscript_file(graph, example, metadata)
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error}") from error
    _check(path, file_format, graph, _noise(cfg, graph, 3, size or _CHECKED_SIZE))
    return metadata


def _fixed_size(cfg: CfgNode, size: Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width of all images; None if they may differ."""
    side = cfg.INPUT.FIXED_SIZE
    if size is None:
        return (side, side) if side > 0 else None
    height, width = size
    if min(size) < 1:
        raise UserError(f"the size is {height} x {width}; both must be at least 1 pixel")
    if side > 0 and (height, width) != (side, side):
        raise UserError(
            f"the size is {height} x {width}, but INPUT.FIXED_SIZE resizes all images to {side} x "
            f"{side}; leave the size out"
        )
    return height, width


def _metadata(
    cfg: CfgNode,
    predictor: Predictor,
    graph: nn.Module,
    config_name: str,
    size: tuple[int, int] | None,
) -> dict[str, str]:
    values = {
        "anchorkit_version": __version__,
        "config": config_name,
        "meta_architecture": cfg.MODEL.META_ARCHITECTURE,
        "class_names": predictor.class_names,
        "input_format": predictor.input_format,
        "outputs": list(graph.outputs),
        **graph.describe(),
    }
    if size is not None:
        values["size"] = size
    if cfg.INPUT.FIXED_SIZE == 0:
        values["min_size"], values["max_size"] = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }


def _noise(cfg: CfgNode, graph: nn.Module, num_images: int, size: tuple[int, int]) -> Tensor:
    """An input of the graph; ``num_images`` where it takes several."""
    batch = (num_images,) if graph.takes_batches else ()
    shape = (*batch, len(cfg.MODEL.PIXEL_MEAN), *size)
    generator = torch.Generator().manual_seed(num_images)
    noise = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return noise.to(graph.model.device)


def _check(path: str, file_format: str, graph: nn.Module, example: Tensor) -> None:
    with torch.inference_mode():
        expected = dict(zip(graph.outputs, graph(example), strict=True))
    try:
        found = ExportedModel(path, file_format)(example)
    except Exception as error:  # onnxruntime's errors have no common type
        share, reason = 0.0, f"it fails: {' '.join(str(error).split())[:300]}"
    else:
        share = same_share(expected, found)
        reason = f"only {share:.0%} of its results are the model's"
    if share < _LEAST_SHARE:
        os.remove(path)
        height, width = example.shape[-2:]
        raise UserError(
            f"the exported model is wrong for an image of {height} x {width} pixels, {reason}; a "
            "body may need images of one size: give it (--size HEIGHT WIDTH)"
        )
