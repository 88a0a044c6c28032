"""Stands in for detectron2's C++ extension in a build that compiles nothing.

Detectron2 imports this module at start-up and only some layers use what is in it: deformable
convolution backed by detectron2, rotated boxes, and the fast COCO evaluation.
"""


def get_compiler_version() -> str:
    """Name of the compiler, for ``detectron2.utils.collect_env``."""
    return "none, pure Python build"


def get_cuda_version() -> str:
    """Version of the CUDA compiler, for ``detectron2.utils.collect_env``."""
    return "none, pure Python build"


def has_cuda() -> bool:
    """Whether detectron2's own CUDA kernels are there. Says nothing about torch's."""
    return False


def __getattr__(name: str):
    """Refuse any compiled op in words; ``hasattr`` answers False."""
    raise AttributeError(
        f"detectron2._C has no {name!r}: this detectron2 is a pure Python build without compiled "
        "ops (deformable convolution, rotated boxes, fast COCO evaluation). To use them, "
        "`pip uninstall detectron2` and build the official detectron2 from source."
    )
