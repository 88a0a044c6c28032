"""Install the detectron2 of this folder, unless the environment has one already.

Usage: ``python packaging/detectron2/ensure.py [arguments for pip install]``

An importable detectron2 of any other origin is kept as it is.
"""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from backend import NAME, VERSION


def find_detectron2() -> tuple[str, str] | None:
    """Version and folder of the importable detectron2, or None.

    The version is that of the installed package if this is what gets imported, and the module's
    own for a source tree on the path. A folder that is merely called ``detectron2`` has no
    ``__version__`` and does not count.
    """
    try:
        from detectron2 import __file__ as file
        from detectron2 import __version__ as module_version
    except ImportError:
        return None
    folder = Path(file).resolve().parent
    try:
        package = distribution(NAME)
    except PackageNotFoundError:
        return module_version, str(folder)
    is_package_imported = Path(package.locate_file(NAME)).resolve() == folder
    return (package.version if is_package_imported else module_version), str(folder)


def is_kept(found: tuple[str, str] | None) -> bool:
    """Whether the detectron2 that was found stays: any but an older build of this folder."""
    return found is not None and ("+anchorkit." not in found[0] or found[0] == VERSION)


def main() -> int:
    found = find_detectron2()
    if is_kept(found):
        print(f"setup: detectron2 {found[0]} in {found[1]} is kept")
        return 0
    print(f"setup: building detectron2 {VERSION} from its pinned source on PyPI", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", *sys.argv[1:]]
    return subprocess.call([*command, str(Path(__file__).parent)])


if __name__ == "__main__":
    sys.exit(main())
