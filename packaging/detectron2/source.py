"""Fetch the pinned source archive of detectron2 and read it."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


class SourceError(RuntimeError):
    """The source archive cannot be had, or is not the pinned one."""


def pinned_sha256(requirements: Path = REQUIREMENTS) -> str:
    """The sha256 of the archive, in hexadecimal, from the one line of ``requirements.txt``."""
    return requirements.read_text().strip().partition("--hash=sha256:")[2]


def download() -> bytes:
    """Download the archive from the package index that pip is set up for.

    pip prepares the metadata of every source archive it downloads, and detectron2's setup.py
    imports torch for that: torch must be in the environment of this interpreter.

    Returns:
        The content of the ``.tar.gz``, with the pinned sha256.

    Raises:
        SourceError: if torch is missing, if pip fails, or if the sha256 differs.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise SourceError(
            "building detectron2 needs torch in this environment: "
            "`pip install torch torchvision setuptools wheel` first, then "
            "`pip install --no-build-isolation` this folder"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
            "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes",
            "--dest", folder, "--requirement", str(REQUIREMENTS),
        ]  # fmt: skip
        # Only metadata are wanted: without a visible GPU, setup.py does not look for nvcc.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "FORCE_CUDA": "0"}
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        if run.returncode != 0:
            raise SourceError(
                f"`{' '.join(command)}` failed with status {run.returncode}:\n"
                f"{run.stdout}{run.stderr}"
            )
        archives = list(Path(folder).glob("*.tar.gz"))
        if len(archives) != 1:
            raise SourceError(f"pip should have downloaded one .tar.gz, found {archives}")
        return check_sha256(archives[0].read_bytes(), pinned_sha256())


def check_sha256(archive: bytes, expected: str) -> bytes:
    """Return ``archive`` if its sha256 is ``expected``.

    Raises:
        SourceError: if it is not.
    """
    actual = hashlib.sha256(archive).hexdigest()
    if actual != expected:
        raise SourceError(f"the source archive has sha256 {actual}, expected {expected}")
    return archive


def read_archive(archive: bytes) -> dict[str, bytes]:
    """Read a ``.tar.gz`` in memory; nothing is written to disk.

    Args:
        archive: content of the ``.tar.gz``, with one top folder.

    Returns:
        Content of each regular file by its POSIX path below the top folder.

    Raises:
        SourceError: on a link or device, or a path that is absolute or climbs out.
    """
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise SourceError(f"the source archive has an unsafe path: {member.name}")
            if member.isdir():
                continue
            if not member.isfile():
                raise SourceError(f"the source archive has a link or device: {member.name}")
            files[str(PurePosixPath(*path.parts[1:]))] = tar.extractfile(member).read()
    return files
