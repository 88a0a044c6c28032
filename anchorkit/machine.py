"""The machine and the libraries that figures were measured with."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

_CPU_INFO = Path("/proc/cpuinfo")


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
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }


def _cpu_name() -> str:
    """The processor's model where Linux tells it, otherwise its architecture."""
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()
