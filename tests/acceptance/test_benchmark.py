"""The benchmark runs and writes what it promises; its figures are never tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.acceptance


def run_benchmark(folder, *arguments):
    """All sections of the JSON file, and the page, after a run that adds to both."""
    output, page = folder / "benchmark.json", folder / "page.md"
    command = [sys.executable, ROOT / "tools" / "benchmark.py", "--quick", "--rounds", "1"]
    command += ["--output", output, "--markdown", page, "--plot", folder / "scaling.png"]
    subprocess.run([*command, *arguments], cwd=folder, check=True, capture_output=True, timeout=900)
    return json.loads(output.read_text()), page.read_text()


def column(table, name):
    """The values of a column by the rows' names."""
    place = table["columns"].index(name)
    return {row[0]: row[place] for row in table["rows"]}


def test_detectors_are_measured_beside_their_peers(tmp_path):
    sections, page = run_benchmark(tmp_path, "--sections", "speed", "around", "labels")
    assert list(sections) == ["speed", "around", "labels"]
    assert all(section["hardware"]["torch"] for section in sections.values())
    speed = sections["speed"]["tables"]
    kinds = {title.split(",")[0] for title in speed}
    assert kinds == {"Inference", "Training step", "Throughput"}
    for title, table in speed.items():
        family = title.split(", ")[1]
        assert column(table, f"/ {family}")[family] == 1.0
        peer = next(name for name in table["columns"][4:] if name.startswith("/ "))
        assert column(table, peer)[peer[2:]] == 1.0 and peer.startswith(("/ torchvision", "/ det"))
        assert all(value > 0 for value in column(table, "median ms").values())
        assert all(value > 0 for value in column(table, "images/s").values())
    for table in sections["around"]["tables"].values():
        assert all(0 < ms for ms in column(table, "losses ms").values())
        assert all(0 < ms for ms in column(table, "detections ms").values())
    *labelling, growth = sections["labels"]["tables"].values()
    assert len(labelling) == 4
    assert all(ms > 0 for name in growth["columns"][1:] for ms in column(growth, name).values())
    tables = [table for section in sections.values() for table in section["tables"].values()]
    assert all(row[0] in page for table in tables for row in table["rows"])


def test_memory_and_scaling_are_measured_and_other_sections_kept(tmp_path):
    (tmp_path / "benchmark.json").write_text(
        json.dumps({"labels": {"hardware": {"device": "another"}, "tables": {}}})
    )
    sections, page = run_benchmark(tmp_path, "--sections", "memory", "scaling")
    assert list(sections) == ["labels", "memory", "scaling"]
    assert "device another (labels)" in page and "](scaling.png)" in page
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    *networks, labelling = sections["memory"]["tables"].values()
    for table in networks:
        assert all(megabytes > 5 for megabytes in column(table, "inference MB").values())
        assert all(megabytes > 50 for megabytes in column(table, "training step MB").values())
    # The lower bounds show that memory was measured at all.
    assert all(5 < megabytes < 600 for megabytes in column(labelling, "100 boxes, MB").values())
    for table in sections["scaling"]["tables"].values():
        assert all(ms > 0 for ms in column(table, "step ms").values())
        assert all(megabytes > 10 for megabytes in column(table, "memory MB").values())


def test_classifiers_and_options_are_measured(tmp_path):
    sections, _ = run_benchmark(tmp_path, "--sections", "classifiers", "options")
    steps, training, evaluation, multi_label = sections["classifiers"]["tables"].values()
    assert column(training, "/ bare PyTorch loop")["bare PyTorch loop"] == 1.0
    assert column(steps, "/ cross entropy")["cross entropy"] == 1.0
    assert column(evaluation, "/ cross entropy")["cross entropy"] == 1.0
    assert column(multi_label, "/ baseline")["baseline"] == 1.0
    assert [len(table["rows"]) for table in (steps, training, evaluation, multi_label)] == [
        2, 5, 2, 3
    ]
    *detector, classifier = sections["options"]["tables"].values()
    layout = "MODEL.CHANNELS_LAST"
    assert all(column(table, "/ default")[layout] > 0 for table in (*detector, classifier))
    # Compilation of a detector takes minutes.
    assert [len(table["rows"]) for table in (*detector, classifier)] == [4, 4, 5]
