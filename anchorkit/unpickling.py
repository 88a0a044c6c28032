"""Reading pickled numpy arrays without running the code that a pickle can hold."""

import pickle

# What numpy arrays are pickled as; detectron2's model zoo files and CIFAR-10 hold nothing else.
_ARRAY_TYPES = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}


class UnsafeError(pickle.UnpicklingError):
    """A pickle names something else than an array; the message is that name."""


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and plain values and refuses everything else."""

    def find_class(self, module: str, name: str):
        if (module, name) not in _ARRAY_TYPES:
            raise UnsafeError(f"{module}.{name}")
        return super().find_class(module, name)
