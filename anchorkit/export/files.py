"""Write graphs as TorchScript and ONNX files, and run such files."""

import importlib
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import UserError
from .onnx_operators import OPSET, registered_operators

FORMATS = ("torchscript", "onnx")
_METADATA_FILE = "metadata.json"


def torchscript_file(graph: nn.Module, example: Tensor, metadata: Mapping[str, str]) -> bytes:
    """A graph traced with an example; the metadata are its extra file "metadata.json".

    Raises:
        UserError: the graph cannot be traced.
    """
    buffer = io.BytesIO()
    with _tracing("TorchScript"):
        traced = torch.jit.trace(graph, example, check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={_METADATA_FILE: json.dumps(metadata)})
    return buffer.getvalue()


def onnx_file(
    graph: nn.Module, example: Tensor, metadata: Mapping[str, str], *, has_fixed_size: bool
) -> bytes:
    """A graph traced with an example into ONNX; the metadata are its ``metadata_props``.

    It is traced, since that is what detectron2's structures are made for: torch's other exporter
    refuses their conditions on the number of boxes.

    Args:
        has_fixed_size: height and width of the input are those of the example.

    Raises:
        UserError: the package onnx is missing, or the graph has operators that ONNX lacks.
    """
    onnx = import_for_onnx("onnx")
    axes = {**graph.inputs, **graph.outputs}
    if has_fixed_size:
        for name, free in graph.inputs.items():
            axes[name] = {axis: kind for axis, kind in free.items() if kind == "batch"}
    buffer = io.BytesIO()
    with _tracing("ONNX"), registered_operators():
        torch.onnx.export(
            graph,
            (example,),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=axes,
        )
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, dict(metadata))
    return model.SerializeToString()


class ExportedModel:
    """An exported file: ONNX run on the CPU, TorchScript on the device that it was exported on.

    Args:
        path: a TorchScript or an ONNX file.
        file_format: which of them.

    Attributes:
        metadata: see :func:`anchorkit.export.export_model`.
    """

    def __init__(self, path: str, file_format: str):
        if file_format == "onnx":
            runtime = import_for_onnx("onnxruntime")
            session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
            self.metadata = session.get_modelmeta().custom_metadata_map
            self._run = lambda image: session.run(None, {session.get_inputs()[0].name: image})
        else:
            files = {_METADATA_FILE: ""}
            with _quiet():
                module = torch.jit.load(path, _extra_files=files)
            self.metadata = json.loads(files[_METADATA_FILE])
            device = next(module.parameters()).device
            self._run = lambda image: module(torch.from_numpy(image).to(device))

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """The outputs by name, on that device."""
        with torch.inference_mode():
            outputs = self._run(image.cpu().numpy())
        names = json.loads(self.metadata["outputs"])
        return {name: torch.as_tensor(one) for name, one in zip(names, outputs, strict=True)}


def import_for_onnx(package: str):
    """The package onnx or onnxruntime, which are not always there."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"ONNX files need the package {package}: pip install onnx onnxruntime"
        ) from error


@contextmanager
def _tracing(kind: str) -> Iterator[None]:
    try:
        with _quiet(), torch.no_grad():
            yield
    except RuntimeError as error:  # also what torch's exporter raises
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"this model cannot be written as {kind}: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing about what tracing takes for constant, nor about torch's plans for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
