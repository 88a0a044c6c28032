"""The machine and the libraries that figures were measured with."""

import importlib.metadata
import os
import platform

import torch


def hardware(device: str | None = None) -> dict:
    """Names and numbers to print beside a measurement.

    Args:
        device: "cuda" or "cpu"; None is CUDA where there is one.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "torchvision", "detectron2")
    }
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }
