"""The benchmark runs and writes what it promises; its figures are never tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.acceptance


def test_a_quick_benchmark_writes_every_table_and_a_page(tmp_path):
    output, page = tmp_path / "benchmark.json", tmp_path / "page.md"
    subprocess.run(
        [sys.executable, ROOT / "tools" / "benchmark.py", "--quick", "--rounds", "1"]
        + ["--output", output, "--markdown", page],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=900,
    )
    result = json.loads(output.read_text())
    kinds = {title.split(",")[0] for title in result["tables"]}
    assert kinds == {"Inference", "Training step", "Labelling"}
    rows = [row for table in result["tables"].values() for row in table]
    assert all(row["median_ms"] > 0 and row["ratio"] > 0 for row in rows)
    assert {row["ratio"] for row in rows if row["name"].startswith("RetinaNet twin")} == {1.0}
    assert all(row["name"] in page.read_text() for row in rows)
    assert result["hardware"]["torch"]
    memory = {row["name"]: row["megabytes"] for row in result["label_memory"]}
    # The lower bounds show that memory was measured at all.
    assert 1 < memory.pop("semi-anchored RetinaNet, 25 anchors") < 600
    assert all(5 < megabytes < 200 for megabytes in memory.values()) and len(memory) == 2


def test_the_classifiers_benchmark_measures_training_and_evaluation(tmp_path):
    output, page = tmp_path / "benchmark.json", tmp_path / "page.md"
    subprocess.run(
        [sys.executable, ROOT / "tools" / "benchmark_classifier.py", "--rounds", "1"]
        + ["--images", "320", "--output", output, "--markdown", page],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=900,
    )
    tables = json.loads(output.read_text())["tables"]
    training, _, multi_label = tables.values()
    assert {row["name"]: row["ratio"] for row in training}["bare PyTorch loop"] == 1.0
    assert {row["name"]: row["ratio"] for row in multi_label}["baseline"] == 1.0
    assert [len(table) for table in tables.values()] == [5, 2, 3]
    assert "benchmark_classifier.py" in page.read_text()
