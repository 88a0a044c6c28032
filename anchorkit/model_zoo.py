"""Models by the name of their config, such as ``get("fcos_R_50_FPN_1x")``.

model_zoo.yaml beside this file says what is known of each: cost, our figures, checkpoint.
"""

import difflib
import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from .checkpoint import read_checkpoint
from .config import load_config
from .errors import UserError

__all__ = ["checkpoint_path", "config_path", "get", "get_config", "list", "read_data"]

WEIGHTS_VARIABLE = "ANCHORKIT_WEIGHTS"
_PACKAGE = Path(__file__).resolve().parent


def list() -> list[str]:
    """The names of all models: those of the config files, without ".yaml"."""
    return sorted(_config_paths())


def config_path(name: str) -> Path:
    """The config file of a model.

    Raises:
        UserError: an unknown name, with the nearest known one.
    """
    paths = _config_paths()
    if name not in paths:
        nearest = difflib.get_close_matches(name, paths, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "model_zoo.list() gives all names"
        raise UserError(f"no model {name!r} in the zoo; {hint}")
    return paths[name]


def get_config(name: str, overrides: Sequence[str] = ()) -> CfgNode:
    """The config of a model, not frozen.

    Args:
        name: one of :func:`list`.
        overrides: keys and values in turn, see :func:`anchorkit.config.load_config`.
    """
    return load_config(str(config_path(name)), overrides)


def get(name: str, pretrained: bool = False, device: str | None = None) -> nn.Module:
    """Build a model, in evaluation mode.

    Example:
        >>> model = get("semi_anchored_retinanet_digit_scenes")

    Args:
        name: one of :func:`list`.
        pretrained: load the trained weights; otherwise they are random, also those of the body.
        device: None is the config's, or "cpu" where there is no CUDA.

    Raises:
        UserError: an unknown name; or the model has no checkpoint, the file is missing, is another
            one, or does not fit.
    """
    cfg = get_config(name)
    path = checkpoint_path(name) if pretrained else None
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
    model = build_model(cfg).eval()
    if path is not None:
        content = read_checkpoint(str(path))
        try:
            model.load_state_dict(content.get("model", content))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path} does not fit the model {name}: {reason}") from error
    return model


def checkpoint_path(name: str) -> Path:
    """The file of a model's trained weights, found and checked.

    It is looked for in the folder that the environment variable ``ANCHORKIT_WEIGHTS`` names, then
    in ``weights/`` of the repository.

    Raises:
        UserError: there is no such file yet, it is in neither folder, or its content is another.
    """
    section, entry = _find_entry(name)
    if "checkpoint" not in entry:
        raise UserError(
            f"{name} has no trained weights yet: {section['reason']}; train it (tools/train_net.py "
            f"--config-file {config_path(name)}), or leave out pretrained"
        )
    file, expected = entry["checkpoint"]["file"], entry["checkpoint"]["sha256"]
    folders = [_root() / "weights"]
    if os.environ.get(WEIGHTS_VARIABLE):
        folders.insert(0, Path(os.environ[WEIGHTS_VARIABLE]))
    path = next((folder / file for folder in folders if (folder / file).is_file()), None)
    if path is None:
        raise UserError(
            f"the trained weights of {name}, {file}, are not in {' or '.join(map(str, folders))}; "
            f"put the file there, or let {WEIGHTS_VARIABLE} name its folder"
        )
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise UserError(
            f"{path} is not the checkpoint of {name}, or damaged: expected sha256 {expected}, got "
            f"{found}; get the file again"
        )
    return path


@lru_cache(maxsize=1)
def read_data() -> dict:
    """The content of model_zoo.yaml, which explains itself."""
    return yaml.safe_load((_PACKAGE / "model_zoo.yaml").read_text(encoding="utf-8"))


def _find_entry(name: str) -> tuple[dict, dict]:
    """The section of the data file that holds a model, and what it says of the model."""
    for section in read_data()["sections"]:
        if name in section["models"]:
            return section, section["models"][name]
    raise UserError(f"anchorkit/model_zoo.yaml has no line for {name} ({config_path(name)})")


def _root() -> Path:
    """The folder that holds ``configs/`` and ``projects/``.

    An installed package has copies inside, see setup.py; that of a repository has them beside it.
    """
    return _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent


@lru_cache(maxsize=1)
def _config_paths() -> dict[str, Path]:
    root = _root()
    files = [*root.glob("configs/**/*.yaml"), *root.glob("projects/*/configs/*.yaml")]
    return {path.stem: path for path in files if not path.name.startswith("Base-")}
