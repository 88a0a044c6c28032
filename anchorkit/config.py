"""Load a config file, and read from it what several parts of anchorkit ask for."""

import difflib
import importlib
import os
from collections.abc import Sequence

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from .config_keys import add_anchorkit_config
from .errors import UserError

__all__ = [
    "add_anchorkit_config",
    "check_choice",
    "check_count",
    "check_registered",
    "load_config",
    "num_classes",
    "require_fixed_size",
]


def load_config(path: str, overrides: Sequence[str] = ()) -> CfgNode:
    """Load a YAML config with its ``_BASE_`` files, then apply ``KEY VALUE`` pairs.

    The modules that the environment variable ``ANCHORKIT_IMPORTS`` names, with commas between them,
    are imported: they register parts of the user's own. A config itself never makes code run.

    Example:
        >>> cfg = load_config("configs/quick/semi_anchored_retinanet_digit_scenes.yaml",
        ...                   ["SOLVER.MAX_ITER", "10"])

    Args:
        path: the config file; "" means detectron2's and anchorkit's defaults.
        overrides: keys and values in turn, as on the command line.

    Returns:
        A config that is not frozen.

    Raises:
        UserError: a missing file, an unknown key (with the nearest known one), a value of the wrong
            type, YAML that is not plain data, an odd number of overrides, or a module in
            ``ANCHORKIT_IMPORTS`` that is not found. What it raises itself is raised as it is.
    """
    cfg = get_cfg()
    add_anchorkit_config(cfg)
    if path:
        _merge_file(cfg, path)
    _merge_overrides(cfg, list(overrides))
    for name in filter(None, os.environ.get("ANCHORKIT_IMPORTS", "").split(",")):
        _import(name.strip())
    return cfg


def num_classes(cfg: CfgNode) -> int:
    """Class count of a model: ``MODEL.NUM_CLASSES``, or that of the first data set if it is 0.

    A set whose class names are read with its files has "num_classes" in its metadata until then.

    Raises:
        UserError: neither the key nor a registered data set says how many classes there are.
    """
    if cfg.MODEL.NUM_CLASSES > 0:
        return cfg.MODEL.NUM_CLASSES
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = MetadataCatalog.get(name)
        number = len(metadata.get("thing_classes", ())) or metadata.get("num_classes", 0)
        if number:
            return number
    raise UserError(
        "the number of classes is not known: MODEL.NUM_CLASSES is 0 and no data set in "
        f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} or DATASETS.TEST "
        f"{tuple(cfg.DATASETS.TEST)} has class names; set MODEL.NUM_CLASSES"
    )


def require_fixed_size(cfg: CfgNode, *, at_least: int) -> int:
    """``INPUT.FIXED_SIZE`` if it is large enough; otherwise a UserError."""
    if cfg.INPUT.FIXED_SIZE < at_least:
        raise UserError(
            f"INPUT.FIXED_SIZE is {cfg.INPUT.FIXED_SIZE}; {cfg.MODEL.BACKBONE.NAME} needs the side "
            f"of its images, at least {at_least} pixels"
        )
    return cfg.INPUT.FIXED_SIZE


def check_choice(key: str, value: str, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``; otherwise a UserError names ``key``."""
    if value not in choices:
        raise UserError(f"{key} is {value!r}; it must be one of {', '.join(map(repr, choices))}")
    return value


def check_count(key: str, values: Sequence, count: int) -> Sequence:
    """Return ``values`` if there are as many; otherwise a UserError names ``key``."""
    if len(values) != count:
        raise UserError(
            f"{key} has {len(values)} entries; the detector's feature levels need {count}"
        )
    return values


def check_registered(names: Sequence[str], key: str) -> None:
    """Raise a :class:`UserError` with the nearest known name for a data set that is unknown."""
    for name in names:
        if name not in DatasetCatalog.keys():
            raise UserError(
                f"{key}: no data set {name!r}{_nearest(name, DatasetCatalog.keys())}; your own is "
                "made known with DATASETS.COCO_FORMAT \"[['NAME', 'FILE.json', 'FOLDER']]\" or, "
                "for classification, DATASETS.IMAGE_FOLDERS \"[['NAME', 'FOLDER']]\""
            )


def _merge_file(cfg: CfgNode, path: str) -> None:
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        raise UserError(f"no config file {path}{_nearest(os.path.basename(path), there)}")
    try:
        loaded = CfgNode.load_yaml_with_base(path, allow_unsafe=False)
    except FileNotFoundError as error:
        raise UserError(f"{path}: its _BASE_ file {error.filename} does not exist") from error
    except UserError:
        raise
    except Exception as error:
        first_line = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as plain YAML: {first_line}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: expected a mapping of config keys, got {type(loaded).__name__}")
    version = loaded.pop("VERSION", cfg.VERSION)
    if version != cfg.VERSION:
        raise UserError(f"{path}: config VERSION {version}; anchorkit reads version {cfg.VERSION}")
    loaded = CfgNode(loaded)
    _check_keys(loaded, cfg, path)
    try:
        cfg.merge_from_other_cfg(loaded)
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error


def _merge_overrides(cfg: CfgNode, overrides: list[str]) -> None:
    if len(overrides) % 2:
        raise UserError(
            f"config overrides are KEY VALUE pairs; the last one, {overrides[-1]!r}, has no value"
        )
    for key, value in zip(overrides[0::2], overrides[1::2], strict=True):
        known = dict(_leaves(cfg))
        if key not in known:
            raise UserError(f"no config key {key}{_nearest(key, known)}")
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError) as error:
            wanted = type(known[key]).__name__
            raise UserError(f"config key {key}: expected {wanted}, got {value!r}") from error


def _import(name: str) -> None:
    """Import one of the user's own modules, which registers what it has."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(
            f"ANCHORKIT_IMPORTS: expected names of Python modules, such as 'mine'; got {name!r}"
        )
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the module itself imports
        raise UserError(
            f"ANCHORKIT_IMPORTS: no module {error.name!r} on Python's path; name its folder: "
            "PYTHONPATH=FOLDER python tools/..."
        ) from error


def _check_keys(loaded: CfgNode, known: CfgNode, path: str, prefix: str = "") -> None:
    for key, value in loaded.items():
        name = prefix + key
        if key not in known:
            leaves = [prefix + leaf for leaf, _ in _leaves(known)]
            raise UserError(f"{path}: no config key {name}{_nearest(name, leaves)}")
        if isinstance(known[key], CfgNode) and len(known[key]):
            if not isinstance(value, CfgNode):
                raise UserError(f"{path}: {name} holds further keys; got {value!r}")
            _check_keys(value, known[key], path, name + ".")


def _leaves(cfg: CfgNode, prefix: str = ""):
    for key, value in cfg.items():
        if isinstance(value, CfgNode) and len(value):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _nearest(name: str, known) -> str:
    """`` ; did you mean X?`` for the known name most like ``name``; "" when none is."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""
