"""What has to change in the source of detectron2 v0.6 to run on today's libraries.

Each mend is a plain text substitution with the number of places it must hit. A count that differs
stops the build: it means that the source is not the one the mends were written for.
"""

from collections.abc import Iterable
from dataclasses import dataclass


class MendError(RuntimeError):
    """A substitution that did not hit its text exactly as often as it must."""


@dataclass(frozen=True)
class Mend:
    """One substitution in one file.

    Attributes:
        name: short name, used in error messages.
        file: path inside the source archive.
        find: the text to replace, as it stands in the source.
        replace: the new text.
        count: how often ``find`` must occur.
        reason: what fails or warns without the mend.
    """

    name: str
    file: str
    find: str
    replace: str
    count: int
    reason: str


_NUMPY = "numpy 1.24 removed the aliases of Python's own types"
_MESHGRID = "torch.meshgrid without `indexing` warns at every new image size"
_SCHEDULER = (
    "torch 2 derives its schedulers from LRScheduler, so the old test skipped their state in "
    "checkpoints without a word"
)
_AMP = "torch.cuda.amp warns that it is deprecated"
_WARN = "Logger.warn is deprecated"
_FAST_EVAL = "COCOEvaluator asks for compiled evaluation by default and this build has none"

MENDS = (
    Mend("numpy-int", "detectron2/data/build.py", "dtype=np.int", "dtype=int", 2, _NUMPY),
    Mend("numpy-str", "detectron2/data/datasets/pascal_voc.py",
         "dtype=np.str", "dtype=str", 1, _NUMPY),
    Mend("numpy-bool", "detectron2/evaluation/pascal_voc_evaluation.py",
         "astype(np.bool)", "astype(bool)", 2, _NUMPY),
    Mend("numpy-int", "detectron2/evaluation/sem_seg_evaluation.py",
         "dtype=np.int)", "dtype=int)", 2, _NUMPY),
    Mend("numpy-float", "detectron2/evaluation/sem_seg_evaluation.py",
         "np.float)", "float)", 5, _NUMPY),
    Mend("numpy-bool", "detectron2/structures/masks.py", "np.bool)", "bool)", 3, _NUMPY),
    Mend("numpy-bool", "detectron2/utils/video_visualizer.py",
         "dtype=np.bool", "dtype=bool", 1, _NUMPY),
    Mend("numpy-bool", "detectron2/utils/visualizer.py",
         "astype(np.bool)", "astype(bool)", 3, _NUMPY),
    Mend("pillow-linear", "detectron2/data/transforms/transform.py",
         "Image.LINEAR", "Image.BILINEAR", 1, "Pillow 10 removed Image.LINEAR"),
    Mend("model-zoo-import", "detectron2/model_zoo/model_zoo.py",
         "import pkg_resources\n", "", 1, "setuptools 81 and later has no pkg_resources"),
    Mend("model-zoo-path", "detectron2/model_zoo/model_zoo.py",
         """pkg_resources.resource_filename(
        "detectron2.model_zoo", os.path.join("configs", config_path)
    )""",
         'os.path.join(os.path.dirname(__file__), "configs", config_path)', 1,
         "setuptools 81 and later has no pkg_resources"),
    Mend("group-norm-head", "detectron2/modeling/meta_arch/retinanet.py",
         "get_norm(norm, 1)", "get_norm(norm, 32)", 1,
         "RetinaNetHead and FCOSHead probe the norm with 1 channel, which torch refuses for the "
         "32 groups of GN"),
    Mend("meshgrid", "detectron2/modeling/anchor_generator.py",
         "torch.meshgrid(shifts_y, shifts_x)",
         'torch.meshgrid(shifts_y, shifts_x, indexing="ij")', 1, _MESHGRID),
    Mend("meshgrid", "projects/Panoptic-DeepLab/panoptic_deeplab/post_processing.py",
         "torch.arange(width, dtype=offsets.dtype, device=offsets.device),\n    )",
         "torch.arange(width, dtype=offsets.dtype, device=offsets.device),\n"
         '        indexing="ij",\n    )', 1, _MESHGRID),
    Mend("scheduler-state", "detectron2/engine/hooks.py",
         "torch.optim.lr_scheduler._LRScheduler", "torch.optim.lr_scheduler.LRScheduler", 2,
         _SCHEDULER),
    Mend("amp-scaler", "detectron2/engine/train_loop.py",
         "from torch.cuda.amp import GradScaler\n\n            grad_scaler = GradScaler()",
         'from torch.amp import GradScaler\n\n            grad_scaler = GradScaler("cuda")', 1,
         _AMP),
    Mend("amp-autocast-import", "detectron2/engine/train_loop.py",
         "from torch.cuda.amp import autocast", "from torch.amp import autocast", 1, _AMP),
    Mend("amp-autocast", "detectron2/engine/train_loop.py",
         "with autocast():", 'with autocast("cuda"):', 1, _AMP),
    Mend("fast-eval-import", "detectron2/evaluation/coco_evaluation.py",
         "import detectron2.utils.comm as comm\n",
         "import detectron2.utils.comm as comm\nfrom detectron2 import _C\n", 1, _FAST_EVAL),
    Mend("fast-eval", "detectron2/evaluation/coco_evaluation.py",
         "self._use_fast_impl = use_fast_impl",
         'self._use_fast_impl = use_fast_impl and hasattr(_C, "COCOevalEvaluateImages")', 1,
         _FAST_EVAL),
    Mend("logger-warn", "detectron2/data/datasets/coco.py",
         "logger.warn(", "logger.warning(", 2, _WARN),
    Mend("logger-warn", "detectron2/engine/defaults.py",
         "logger.warn(", "logger.warning(", 1, _WARN),
    Mend("logger-warn", "detectron2/evaluation/coco_evaluation.py",
         "logger.warn(", "logger.warning(", 2, _WARN),
    Mend("logger-warn", "detectron2/evaluation/lvis_evaluation.py",
         "logger.warn(", "logger.warning(", 2, _WARN),
    Mend("logger-warn", "detectron2/evaluation/sem_seg_evaluation.py",
         "logger.warn(", "logger.warning(", 2, _WARN),
    Mend("caffe2-export", "detectron2/export/__init__.py",
         "from .api import *\n", "", 1,
         "torch no longer ships caffe2, without which TracingAdapter and utils.analysis could not "
         "be imported; exporting to caffe2 itself is gone"),
)


def apply_mends(files: dict[str, bytes], mends: Iterable[Mend] = MENDS) -> dict[str, bytes]:
    """Apply every mend, in order.

    Args:
        files: content of each file by its path inside the source archive.
        mends: the substitutions.

    Returns:
        A new mapping with the mended files.

    Raises:
        MendError: if a file is missing, or does not hold the text exactly as often as it must.
    """
    mended = dict(files)
    for mend in mends:
        if mend.file not in mended:
            raise MendError(
                f"mend {mend.name!r}: no file {mend.file} in the source; "
                "the mends are written for the archive pinned in requirements.txt"
            )
        text = mended[mend.file].decode("utf-8")
        found = text.count(mend.find)
        if found != mend.count:
            raise MendError(
                f"mend {mend.name!r}: {mend.file} must hold {mend.find!r} {mend.count} times, "
                f"found {found}; the mends are written for the archive pinned in requirements.txt"
            )
        mended[mend.file] = text.replace(mend.find, mend.replace).encode("utf-8")
    return mended
