"""Packaging of anchorkit. Detectron2 is needed too; INSTALL.md says why it is not listed here."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
ONNX = ["onnx>=1.23.2", "onnxruntime>=1.31.1"]


def read_version() -> str:
    """The version in ``anchorkit/__init__.py``, read without importing it (and torch)."""
    text = (ROOT / "anchorkit" / "__init__.py").read_text()
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


setup(
    name="anchorkit",
    version=read_version(),
    description="Anchor-centred training methods for detectron2",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # configs/, projects/*/configs/ and weights/ stand beside the package; an installed one holds
    # copies of them, where anchorkit.model_zoo looks first.
    packages=[
        *find_packages(include=["anchorkit", "anchorkit.*"]),
        *("anchorkit.configs", "anchorkit.projects", "anchorkit.weights"),
    ],
    package_dir={
        "anchorkit.configs": "configs",
        "anchorkit.projects": "projects",
        "anchorkit.weights": "weights",
    },
    package_data={
        "anchorkit": ["model_zoo.yaml"],
        "anchorkit.configs": ["*.yaml", "*/*.yaml"],
        "anchorkit.projects": ["*/configs/*.yaml"],
        "anchorkit.weights": ["*.safetensors"],
    },
    python_requires=">=3.11",
    # The lower bounds are one set of versions that passed the tests together: the "oldest" row of
    # the table in INSTALL.md. constraints.txt pins the set that `make setup` installs.
    install_requires=[
        "torch>=2.6.0",
        "torchvision>=0.21.0",
        "numpy>=1.26.4",
        "opencv-python>=4.10.0.84",
        "scikit-learn>=1.5.2",
        "scipy>=1.14.1",
        "pycocotools>=2.0.8",
        "fvcore>=0.1.5.post20221221",
        "matplotlib>=3.9.4",
        "Pillow>=10.4.0",
        "tabulate>=0.9.0",
        "tensorboard>=2.18.0",
        "safetensors>=0.8.0",
    ],
    # timm: build_timm_body, and MODEL.LIBRARY_BODY.NAME "timm/...". grad-cam:
    # tools/visualize_cam.py of bodies whose last maps are not averaged. onnx: tools/export_model.py
    # --format onnx.
    extras_require={
        "dev": [
            *("pytest>=8.3.4", "pytest-xdist>=3.8.0", "ruff>=0.8.4", "timm>=1.0.31"),
            *ONNX,
        ],
        "onnx": ONNX,
        "timm": ["timm>=1.0.31"],
        "grad-cam": ["grad-cam>=1.5.7"],
    },
)
