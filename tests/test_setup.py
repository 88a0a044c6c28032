"""Set-up: the detectron2 wheel, the pinned versions, the Makefile. Nothing here uses a network."""

import base64
import csv
import email
import hashlib
import importlib.metadata
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import anchorkit

ROOT = Path(__file__).resolve().parents[1]
BUILD_FOLDER = ROOT / "packaging" / "detectron2"
sys.path.insert(0, str(BUILD_FOLDER))

import backend  # noqa: E402
import ensure  # noqa: E402
import mends  # noqa: E402
import no_compiled_ops  # noqa: E402
import source  # noqa: E402

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

SOURCE_FILES = {
    "LICENSE": b"the licence",
    "setup.py": b"raise RuntimeError",
    "tools/__init__.py": b"",
    "detectron2/__init__.py": b'__version__ = "0.6"\n',
    "detectron2/model_zoo/configs/COCO/a.yaml": b"_BASE_: b\n",
    "projects/PointRend/point_rend/__init__.py": b"point = 1\n",
    "projects/PointRend/README.md": b"",
    "projects/DeepLab/deeplab/__init__.py": b"",
    "projects/Panoptic-DeepLab/panoptic_deeplab/__init__.py": b"",
}


def make_archive(files: dict[str, bytes], top: str = "pb1-detectron2-0.6/") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path, data in files.items():
            entry = tarfile.TarInfo(top + path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def make_link_archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo("top/link")
        entry.type = tarfile.SYMTYPE
        entry.linkname = "/etc/passwd"
        tar.addfile(entry)
    return buffer.getvalue()


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A wheel built by the PEP 517 hook from a small archive with one mend."""
    mend = mends.Mend("toy", "detectron2/__init__.py", '"0.6"', '"0.6" ', 1, "to see it work")
    monkeypatch.setattr(backend, "download", lambda: make_archive(SOURCE_FILES))
    monkeypatch.setattr(backend, "MENDS", (mend,))
    return tmp_path / backend.build_wheel(str(tmp_path))


def toy_mend(count: int, file: str = "a.py") -> mends.Mend:
    return mends.Mend("toy", file, "np.int", "int", count, "a reason")


def test_a_mend_replaces_every_place_it_counts_and_leaves_the_input_alone():
    files = {"a.py": b"np.int, np.int", "b.py": b"np.int"}
    mended = mends.apply_mends(files, [toy_mend(2)])
    assert mended == {"a.py": b"int, int", "b.py": b"np.int"}
    assert files["a.py"] == b"np.int, np.int"


@pytest.mark.parametrize("text, found", [(b"int", 0), (b"np.int", 1), (b"np.int " * 3, 3)])
def test_a_mend_stops_the_build_when_its_text_is_not_there_as_often_as_it_must(text, found):
    message = rf"'toy': a.py must hold 'np.int' 2 times, found {found}"
    with pytest.raises(mends.MendError, match=message):
        mends.apply_mends({"a.py": text}, [toy_mend(2)])


def test_a_mend_stops_the_build_when_its_file_is_missing():
    with pytest.raises(mends.MendError, match="'toy': no file gone.py"):
        mends.apply_mends({"a.py": b"np.int"}, [toy_mend(1, "gone.py")])


def test_every_mend_says_why_and_changes_something_that_is_packaged():
    for mend in mends.MENDS:
        assert mend.name and mend.reason and mend.count > 0
        assert mend.find != mend.replace
        assert mend.file.startswith(tuple(backend.PACKAGES)), mend


def test_the_source_is_pinned_by_a_sha256_that_is_checked():
    pinned = source.pinned_sha256()
    assert re.fullmatch("[0-9a-f]{64}", pinned)
    with pytest.raises(source.SourceError, match=f"expected {pinned}"):
        source.check_sha256(b"something else", pinned)
    digest = hashlib.sha256(b"something else").hexdigest()
    assert source.check_sha256(b"something else", digest) == b"something else"


@pytest.mark.parametrize(
    "archive, problem",
    [
        (make_archive({"x": b""}, top="/"), "unsafe path"),
        (make_archive({"../../x": b""}, top="top/"), "unsafe path"),
        (make_link_archive(), "link or device"),
    ],
    # An archive has the time in it: as a part of a name it would differ between processes.
    ids=["absolute", "above", "link"],
)
def test_an_archive_that_reaches_outside_its_folder_is_refused(archive, problem):
    with pytest.raises(source.SourceError, match=problem):
        source.read_archive(archive)


def test_the_wheel_holds_the_packages_of_detectron2_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    info = "detectron2-0.6+anchorkit.1.dist-info/"
    assert wheel.name == "detectron2-0.6+anchorkit.1-py3-none-any.whl"
    assert names == {
        "detectron2/__init__.py",
        "detectron2/_C.py",
        "detectron2/model_zoo/configs/COCO/a.yaml",
        "detectron2/projects/point_rend/__init__.py",
        "detectron2/projects/deeplab/__init__.py",
        "detectron2/projects/panoptic_deeplab/__init__.py",
        *(info + name for name in ("LICENSE", "METADATA", "RECORD", "WHEEL", "top_level.txt")),
    }
    assert zipfile.ZipFile(wheel).read("detectron2/__init__.py") == b'__version__ = "0.6" \n'


def test_the_record_of_the_wheel_has_size_and_digest_of_every_file(wheel):
    archive = zipfile.ZipFile(wheel)
    record = archive.read("detectron2-0.6+anchorkit.1.dist-info/RECORD").decode()
    rows = {path: (digest, size) for path, digest, size in csv.reader(record.splitlines())}
    assert rows.keys() == set(archive.namelist())
    assert rows.pop("detectron2-0.6+anchorkit.1.dist-info/RECORD") == ("", "")
    for path, (digest, size) in rows.items():
        data = archive.read(path)
        expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        assert (digest, int(size)) == (f"sha256={expected}", len(data))


def test_the_metadata_of_the_wheel_are_valid_and_name_what_detectron2_imports(wheel):
    text = zipfile.ZipFile(wheel).read("detectron2-0.6+anchorkit.1.dist-info/METADATA").decode()
    metadata = email.message_from_string(text)
    assert (metadata["Name"], metadata["Version"]) == ("detectron2", backend.VERSION)
    assert metadata["License"] == "Apache-2.0"
    names = {Requirement(line).name for line in metadata.get_all("Requires-Dist")}
    assert {"torch", "torchvision", "numpy", "fvcore", "iopath", "pycocotools"} <= names
    assert not names & {"black", "future", "pydot", "dataclasses", "setuptools"}


def test_equal_sources_give_equal_wheels(tmp_path):
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        contents.append(backend.write_wheel(SOURCE_FILES, tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


def test_pip_installs_the_wheel_under_the_name_detectron2(wheel, tmp_path):
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, "--target", target, wheel], check=True, capture_output=True)
    (package,) = importlib.metadata.distributions(path=[str(target)])
    assert (package.name, package.version) == ("detectron2", "0.6+anchorkit.1")
    assert all(file.locate().exists() for file in package.files)


def test_compiled_ops_are_refused_in_words_and_seen_to_be_missing():
    assert not hasattr(no_compiled_ops, "COCOevalEvaluateImages")
    with pytest.raises(AttributeError, match="'box_iou_rotated': .* build the official detectron2"):
        no_compiled_ops.box_iou_rotated(1, 2)
    assert "pure Python" in no_compiled_ops.get_compiler_version()
    assert "pure Python" in no_compiled_ops.get_cuda_version()
    assert no_compiled_ops.has_cuda() is False


@pytest.mark.parametrize(
    "found, kept",
    [
        (None, False),
        (("0.6", "/official/main"), True),
        (("0.6+cu118", "/official/wheel"), True),
        ((backend.VERSION, "/ours"), True),
        (("0.6+anchorkit.0", "/ours/before"), False),
    ],
)
def test_any_detectron2_is_kept_but_an_older_build_of_ours(found, kept):
    assert ensure.is_kept(found) is kept


def run_ensure_code(path: Path, code: str) -> str:
    """Output of ``code`` in a Python without site-packages, with ``path`` and the build folder."""
    environment = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{BUILD_FOLDER}"}
    command = [sys.executable, "-S", "-c", code]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_detectron2_on_the_path_is_found_and_left_alone(tmp_path):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text('__version__ = "9.9"\n')
    output = run_ensure_code(tmp_path, "import ensure; raise SystemExit(ensure.main())")
    assert output == f"setup: detectron2 9.9 in {tmp_path.resolve() / 'detectron2'} is kept"


def test_a_folder_that_is_merely_called_detectron2_is_not_taken_for_it(tmp_path):
    (tmp_path / "detectron2").mkdir()
    assert run_ensure_code(tmp_path, "import ensure; print(ensure.find_detectron2())") == "None"


def read_setup(monkeypatch) -> dict:
    """The arguments that setup.py gives to ``setuptools.setup``."""
    arguments = {}
    monkeypatch.setattr("setuptools.setup", arguments.update)
    runpy.run_path(str(ROOT / "setup.py"))
    return arguments


def test_setup_takes_the_version_from_the_package(monkeypatch):
    arguments = read_setup(monkeypatch)
    assert arguments["version"] == anchorkit.__version__
    assert "anchorkit" in arguments["packages"]
    assert all(name.split(".")[0] == "anchorkit" for name in arguments["packages"])


def test_the_constraints_pin_a_version_of_every_dependency_within_its_bounds(monkeypatch):
    arguments = read_setup(monkeypatch)
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    dependencies = [*arguments["install_requires"], *arguments["extras_require"]["dev"]]
    dependencies += [*backend.REQUIRES, "setuptools", "wheel"]
    for dependency in map(Requirement, dependencies):
        assert dependency.name.lower() in pins, f"constraints.txt does not pin {dependency.name}"
        assert dependency.specifier.contains(pins[dependency.name.lower()]), dependency


def test_detectron2_is_not_a_dependency_that_pip_would_look_for_on_pypi(monkeypatch):
    names = {Requirement(line).name for line in read_setup(monkeypatch)["install_requires"]}
    assert "detectron2" not in names
    assert {"torch", "torchvision", "numpy", "fvcore"} <= names


def make(*arguments: str) -> subprocess.CompletedProcess:
    """Run make in the repository, as if not started from another make."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


@needs_make
@pytest.mark.parametrize(
    "target, command",
    [
        ("setup", "packaging/detectron2/ensure.py"),
        ("demo", "tools/demo_digit_scenes.py"),
        ("test", "-m pytest"),
        ("lint", "-m ruff check"),
        ("bench", "tools/benchmark.py"),
        ("clean", "rm -rf"),
    ],
)
def test_every_make_target_is_listed_and_runs_its_command(target, command, tmp_path):
    run = make("-n", target, f"VENV={tmp_path}")
    assert run.returncode == 0, run.stderr
    assert command in run.stdout
    assert re.search(rf"^{target}\t\S", make("help").stdout, re.MULTILINE)


@needs_make
def test_a_set_up_that_fails_says_so_and_leaves_no_stamp(tmp_path):
    stamp = tmp_path / ".anchorkit-setup"
    stamp.touch()
    os.utime(stamp, (0, 0))
    run = make("setup", f"VENV={tmp_path}", "PYTHON=false")
    assert run.returncode != 0
    assert "needs Python 3.11 or later as 'false'" in run.stderr
    assert not stamp.exists()


@needs_make
def test_a_set_up_that_is_done_takes_less_than_a_second(tmp_path):
    (tmp_path / ".anchorkit-setup").touch()
    start = time.monotonic()
    run = make("setup", f"VENV={tmp_path}", "PYTHON=false")
    assert run.returncode == 0, run.stderr
    assert time.monotonic() - start < 1


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test </dev/null"
