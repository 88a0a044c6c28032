"""What the quick configs and the demo promise, run to their end: minutes, not seconds."""

import json
import subprocess
import sys

import pytest

from anchorkit import model_zoo
from tests.test_train_net import REPO, environment, train

pytestmark = pytest.mark.acceptance
SHIPPED = [
    (section, name) for section in model_zoo.read_data()["sections"]
    for name, entry in section["models"].items() if "checkpoint" in entry
]  # fmt: skip


def test_the_demo_ends_with_boxes_a_table_and_pictures(tmp_path):
    """A quarter of the demo's iterations, after which AP was 10.7 (learning rate 0.003)."""
    result = subprocess.run(
        [sys.executable, REPO / "tools" / "demo_digit_scenes.py", "SOLVER.MAX_ITER", "300",
         "OUTPUT_DIR", tmp_path / "demo"],
        capture_output=True, text=True, timeout=1800, cwd=tmp_path,
        env=environment() | {"DETECTRON2_DATASETS": str(tmp_path / "datasets")},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    (results,) = json.loads((tmp_path / "demo" / "results.json").read_text()).values()
    assert results["bbox"]["AP50"] > 5
    assert len(list((tmp_path / "demo" / "pictures" / "digit_scenes_val").glob("*.png"))) == 8
    assert len(list((tmp_path / "demo" / "assignment").glob("*.png"))) == 4


@pytest.mark.parametrize("name", ["ce_digits", "oat_digits"])
def test_classifiers_of_digits_learn(name, tmp_path):
    result = train(REPO / "configs" / "quick" / f"{name}.yaml", tmp_path / name)
    assert result.returncode == 0, result.stdout
    (results,) = json.loads((tmp_path / name / "results.json").read_text()).values()
    assert results["classification"]["acc1"] > 88


@pytest.mark.parametrize(("section", "name"), SHIPPED, ids=[name for _, name in SHIPPED])
def test_a_shipped_model_has_the_figure_that_the_model_zoo_gives_it(section, name, tmp_path):
    """Seed 0's, to the half of a decimal that half precision and another CPU may cost."""
    result = train(
        model_zoo.config_path(name), tmp_path, "--eval-only",
        "MODEL.WEIGHTS", str(model_zoo.checkpoint_path(name)), cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    (results,) = json.loads((tmp_path / "results.json").read_text()).values()
    (measured,) = results.values()
    for figure in section["figures"]:
        expected = section["models"][name]["ours"][figure][0]
        assert measured[figure] == pytest.approx(expected, abs=0.3)
