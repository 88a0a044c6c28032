"""PEP 517 build backend: detectron2 v0.6 from PyPI, mended, as a pure Python wheel."""

import base64
import hashlib
import zipfile
from pathlib import Path

from mends import MENDS, apply_mends
from source import download, read_archive

NAME = "detectron2"
VERSION = "0.6+anchorkit.1"
# Where the source keeps the packages that detectron2's own setup.py installs.
PACKAGES = {
    "detectron2/": "detectron2/",
    "projects/PointRend/point_rend/": "detectron2/projects/point_rend/",
    "projects/DeepLab/deeplab/": "detectron2/projects/deeplab/",
    "projects/Panoptic-DeepLab/panoptic_deeplab/": "detectron2/projects/panoptic_deeplab/",
}
# Upstream's own list, without what 0.6 no longer needs to run (black, future, pydot, dataclasses),
# without the upper bound on iopath, with torch's and numpy's names, and with the torch version that
# the mends need (torch.amp.GradScaler). opencv stays out, as upstream: it has several PyPI names.
REQUIRES = (
    "torch>=2.3",
    "torchvision",
    "numpy",
    "Pillow>=9.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """Build the wheel (PEP 517 hook).

    Args:
        wheel_directory: folder to write the wheel to.
        config_settings: not used; there is nothing to configure.
        metadata_directory: not used; the metadata are always written afresh.

    Returns:
        The file name of the wheel.
    """
    files = apply_mends(read_archive(download()), MENDS)
    return write_wheel(files, Path(wheel_directory)).name


def build_sdist(sdist_directory, config_settings=None):
    """Refuse (PEP 517 hook): detectron2's source is not redistributed from here."""
    raise NotImplementedError("no source archive: detectron2's own is pb1-detectron2 0.6 on PyPI")


def wheel_content(files: dict[str, bytes]) -> dict[str, bytes]:
    """Arrange source files as the packages of the wheel.

    Args:
        files: content by path inside the source archive.

    Returns:
        Content by path inside the wheel, without the ``.dist-info`` folder.
    """
    content = {
        target + path.removeprefix(source): data
        for source, target in PACKAGES.items()
        for path, data in files.items()
        if path.startswith(source)
    }
    content["detectron2/_C.py"] = Path(__file__).with_name("no_compiled_ops.py").read_bytes()
    return content


def metadata() -> str:
    """The METADATA file of the wheel."""
    head = [
        "Metadata-Version: 2.1",
        f"Name: {NAME}",
        f"Version: {VERSION}",
        "Summary: detectron2 v0.6 in pure Python, mended for today's torch, numpy and Pillow",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "Author: FAIR",
        "License: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.11",
    ]
    text = (
        "Detectron2 v0.6 (Facebook AI Research, Apache-2.0), built by anchorkit from the archive "
        f"{Path(__file__).with_name('requirements.txt').read_text().split()[0]} on PyPI with "
        f"{len(MENDS)} substitutions, without compiled ops."
    )
    return "\n".join([*head, *(f"Requires-Dist: {name}" for name in REQUIRES), "", text, ""])


def write_wheel(files: dict[str, bytes], folder: Path) -> Path:
    """Write the wheel. Equal files give an equal wheel, byte for byte.

    Args:
        files: content by path inside the (mended) source archive; must hold ``LICENSE``.
        folder: where to write.

    Returns:
        Path of the wheel.
    """
    info = f"{NAME}-{VERSION}.dist-info"
    content = wheel_content(files)
    content[f"{info}/LICENSE"] = files["LICENSE"]
    content[f"{info}/METADATA"] = metadata().encode()
    content[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: anchorkit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    content[f"{info}/top_level.txt"] = f"{NAME}\n".encode()
    record = [f"{path},{_digest(data)},{len(data)}" for path, data in sorted(content.items())]
    content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()

    wheel = folder / f"{NAME}-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            entry = zipfile.ZipInfo(path)  # dated 1980, so that the wheel does not change with time
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return wheel


def _digest(data: bytes) -> str:
    """sha256 in the form that RECORD wants: URL-safe base64 without padding."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
