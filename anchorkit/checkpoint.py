"""Checkpoints that are written whole, read without running their code, and checked on loading."""

import contextlib
import logging
import os
import pickle
import re

import numpy as np
import safetensors.torch
import torch
from detectron2.checkpoint import DetectionCheckpointer

from .errors import UserError, full_disk
from .unpickling import ArrayUnpickler, UnsafeError

logger = logging.getLogger(__name__)


class Checkpointer(DetectionCheckpointer):
    """detectron2's checkpointer with atomic writes, safe reads and one-line reports.

    A checkpoint is a dict with "model" (the raw weights), "trainer" (iteration, optimizer,
    scheduler, gradient scaler, seed) and, where weights are averaged, "ema". All of it loads with
    ``torch.load(..., weights_only=True)``.
    """

    _resuming = ""
    _use_average = False

    def save(self, name: str, *, tag: bool = True, **extra) -> None:
        """Write ``<name>.pth``; a kill in the middle leaves an earlier file of that name whole.

        Args:
            name: file name without ending.
            tag: let ``last_checkpoint`` point at it, from where ``--resume`` goes on.
            extra: further entries of the checkpoint.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        if self.save_dir and self.save_to_disk:
            self.write(name, {**self.state(), **extra}, tag=tag)

    def state(self) -> dict:
        """What a checkpoint holds; tensors are those that are trained on."""
        parts = {key: part.state_dict() for key, part in self.checkpointables.items()}
        return {"model": self.model.state_dict(), **parts}

    def write(self, name: str, state: dict, *, tag: bool = True) -> None:
        """Write a state that was taken earlier, as :meth:`save` does."""
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(state, file))
        if tag:
            self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Let ``last_checkpoint`` name this file."""
        name = last_filename_basename.encode()
        write_atomically(
            os.path.join(self.save_dir, "last_checkpoint"), lambda file: file.write(name)
        )

    def resume(self) -> dict:
        """Load everything from the last checkpoint; see :func:`DetectionCheckpointer.load`.

        Raises:
            UserError: the file is missing, damaged, or of another model.
        """
        path = self.get_checkpoint_file()
        self._resuming = path
        try:
            return self.load(path)
        except (KeyError, ValueError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{path}: its training state does not fit this config "
                f"({type(error).__name__}: {error}); {_HOW_TO_GO_ON}"
            ) from error
        finally:
            self._resuming = ""

    def load_weights(self, path: str, *, use_average: bool = False) -> dict:
        """Load the model's weights, and nothing else, from a file or URL.

        Args:
            path: "" leaves the weights as they are.
            use_average: take the averaged weights where the file has them.

        Returns:
            What the file holds besides.

        Raises:
            UserError: no such file, a download that fails, a damaged or unsafe file, or one none
                of whose tensors fits the model.
        """
        if not path:
            logger.info("MODEL.WEIGHTS is empty: the model starts from its initial weights")
            return {}
        self._use_average = use_average
        try:
            return self.load(path, checkpointables=[])
        except UserError:
            raise
        except Exception as error:
            if os.path.isfile(path):
                raise
            raise UserError(
                f"weights {path}: cannot be fetched ({type(error).__name__}: {error}); download "
                "the file and give MODEL.WEIGHTS its path"
            ) from error
        finally:
            self._use_average = False

    def load(self, path, *args, **kwargs):
        if path and "://" not in path and not os.path.isfile(path):
            raise UserError(f"no checkpoint file {path}")
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict:
        content = read_checkpoint(filename)
        if filename.endswith(".pkl"):
            return _model_zoo_layout(content)
        if "model_state" in content:  # pycls
            return {"model": content["model_state"], "matching_heuristics": True}
        if self._use_average and "ema" in content:
            logger.info("taking the averaged weights (SOLVER.EMA) of %s", filename)
            content["model"] = content["ema"]["model"]
        content = content if "model" in content else {"model": content}
        content["model"] = _under_own_names(content["model"], self.model)
        return content

    def _log_incompatible_keys(self, incompatible) -> None:
        of_other_shape = {name for name, _, _ in incompatible.incorrect_shapes}
        missing = [name for name in incompatible.missing_keys if name not in of_other_shape]
        unexpected = incompatible.unexpected_keys
        num_tensors = len(self.model.state_dict())
        num_matched = num_tensors - len(missing) - len(of_other_shape)
        summary = (
            f"{num_matched} of the model's {num_tensors} tensors matched, {len(missing)} missing, "
            f"{len(unexpected)} unexpected, {len(of_other_shape)} of another shape"
        )
        if self._resuming and num_matched < num_tensors:
            differing = _shape_list(incompatible.incorrect_shapes) or ", ".join(missing)
            raise UserError(
                f"{self._resuming} is of another model ({summary}), e.g. "
                f"{_shortened(differing)}; {_HOW_TO_GO_ON}"
            )
        if num_tensors and not num_matched:
            raise UserError(
                f"none of the weights fits the model ({summary}); MODEL.WEIGHTS must be a "
                "checkpoint of such a model or of its backbone"
            )
        logger.info("weights: %s", summary)
        if of_other_shape:
            shapes = _shape_list(incompatible.incorrect_shapes)
            logger.warning("left at their initial values, of another shape: %s", shapes)
        if missing:
            logger.info("not in the file, left at their initial values: %s", ", ".join(missing))
        if unexpected:
            logger.info("in the file, not used: %s", _shortened(", ".join(unexpected)))


_HOW_TO_GO_ON = (
    "resume with the config it was trained with (config.yaml beside it), or train into another "
    "OUTPUT_DIR"
)


def write_atomically(path: str, write) -> None:
    """Call ``write(file)`` on a temporary neighbour of ``path``, then put it in its place.

    Raises:
        UserError: the disk is full, or the file cannot be written; an earlier one stays as it is.
    """
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(partial)
        fault = error if isinstance(error, OSError) else full_disk(error)
        if fault is None:
            raise
        raise UserError(
            f"{path}: cannot be written: {fault.strerror or fault}; files written before are as "
            "they were"
        ) from error


def write_weights(path: str, weights: dict[str, torch.Tensor]) -> None:
    """Write a model's weights for ``MODEL.WEIGHTS``, whole or not at all.

    Args:
        path: ends in ``.pth``, or in ``.safetensors`` for a file without any code in it.

    Raises:
        UserError: another ending, or a folder that cannot be written.
    """
    if path.endswith(".safetensors"):
        weights = {name: value.contiguous() for name, value in weights.items()}

        def write(file) -> None:
            file.write(safetensors.torch.save(weights))
    elif path.endswith(".pth"):

        def write(file) -> None:
            torch.save({"model": weights}, file)
    else:
        raise UserError(f"{path}: weights are written to a file that ends in .pth or .safetensors")
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error}") from error
    write_atomically(path, write)


def read_checkpoint(path: str, *, trust_pickle: bool = False) -> dict:
    """Read a ``.pth``, ``.safetensors`` or ``.pkl`` file, on the CPU.

    Args:
        trust_pickle: build any Python object that a ``.pth`` or ``.pkl`` file holds, which runs
            whatever code it names; False takes tensors, arrays and plain values only.

    Raises:
        UserError: the file is damaged, or holds objects that only running its code could build.
    """
    try:
        if path.endswith(".safetensors"):
            content = safetensors.torch.load_file(path)
        elif path.endswith(".pkl"):
            unpickler = pickle.Unpickler if trust_pickle else ArrayUnpickler
            with open(path, "rb") as file:
                content = unpickler(file, encoding="latin1").load()
        else:
            with torch.serialization.safe_globals(_numpy_types()):
                content = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except UnsafeError as error:
        raise UserError(_unsafe_message(path, str(error))) from error
    except Exception as error:
        # torch explains over many lines; the cause is at "GLOBAL" or at "WeightsUnpickler error".
        reason = " ".join(str(error).split())
        unsafe = re.search(r"unsupported.* GLOBAL (\S+)", reason, re.IGNORECASE)
        if unsafe:
            raise UserError(_unsafe_message(path, unsafe[1])) from error
        reason = reason.split("WeightsUnpickler error: ")[-1].split(" Check the doc")[0]
        raise UserError(
            f"{path}: damaged or not a checkpoint ({type(error).__name__}: "
            f"{_shortened(reason, 120)}); copy or download it again, or go back to an earlier "
            "checkpoint by writing its file name into last_checkpoint"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a dict of tensors, got {type(content).__name__}")
    return content


def _numpy_types() -> list:
    """The classes that a numpy array or scalar in a ``.pth`` file is made of."""
    array = np.zeros(1)
    reconstruct = array.__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    return [reconstruct, scalar, np.ndarray, np.dtype, *kinds]


def _under_own_names(state: dict, model: torch.nn.Module) -> dict:
    """A library's weights under the names that the model has for them; others as they are.

    A part of the model that comes from a library has ``rename_weights``.
    """
    own = model.state_dict().keys()
    for path, part in model.named_modules():
        if hasattr(part, "rename_weights"):
            prefix = f"{path}." if path else ""
            renamed = {prefix + key: one for key, one in part.rename_weights(state).items()}
            return max(state, renamed, key=lambda names: len(own & names.keys()))
    return state


def _model_zoo_layout(content: dict) -> dict:
    if "model" in content and "__author__" in content:
        return content
    blobs = content.get("blobs", content)  # Caffe2 and Detectron
    weights = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _unsafe_message(path: str, name: str) -> str:
    return (
        f"{path}: refused, it holds the Python object {name} and reading it would run code; save "
        "its weights alone: torch.save({'model': model.state_dict()}, FILE), or, if you trust who "
        "made it, convert it with --trust-pickle (tools/convert_checkpoint.py)"
    )


def _shape_list(incorrect_shapes) -> str:
    return ", ".join(
        f"{name} ({list(in_file)} in the file, {list(in_model)} in the model)"
        for name, in_file, in_model in incorrect_shapes
    )


def _shortened(text: str, length: int = 400) -> str:
    return text if len(text) <= length else text[:length] + " …"
