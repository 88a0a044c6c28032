"""Loading configs: what is accepted, and the one line that a mistake gets."""

import sys

import pytest

from anchorkit.config import load_config, num_classes
from anchorkit.errors import UserError


def write(path, text):
    path.write_text(text)
    return str(path)


def test_overrides_win_over_the_file_and_the_file_over_its_base(tmp_path):
    write(tmp_path / "base.yaml", "SOLVER:\n  BASE_LR: 0.1\n  MAX_ITER: 10\n  GAMMA: 0.5\n")
    leaf = write(tmp_path / "leaf.yaml", '_BASE_: "base.yaml"\nSOLVER:\n  MAX_ITER: 20\n')
    solver = load_config(leaf, ["SOLVER.GAMMA", "0.3"]).SOLVER
    assert (solver.BASE_LR, solver.MAX_ITER, solver.GAMMA) == (0.1, 20, 0.3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER:\n  BASE_LRR: 1\n", "no config key SOLVER.BASE_LRR; did you mean SOLVER.BASE_LR?"),
        ("MODEL:\n  SEMI_ANCHORD:\n    GAMMA: 1\n", "no config key MODEL.SEMI_ANCHORD"),
        ("SOLVER: 3\n", "SOLVER holds further keys; got 3"),
        ("SOLVER:\n  MAX_ITER: soon\n", "MAX_ITER"),
        ("SEED: !!python/object/apply:os.getpid []\n", "cannot be read as plain YAML"),
        ("SEED: [1\n", "cannot be read as plain YAML"),
        ('_BASE_: "none.yaml"\n', "its _BASE_ file .*none.yaml does not exist"),
        ("- 1\n", "a mapping"),
        ("VERSION: 1\n", "VERSION 1"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_it(tmp_path, text, message):
    path = write(tmp_path / "faulty.yaml", text)
    with pytest.raises(UserError, match=message) as error:
        load_config(path)
    assert "faulty.yaml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.MAX_ITR", "1"], "no config key SOLVER.MAX_ITR; did you mean SOLVER.MAX_ITER?"),
        (["SOLVER.MAX_ITER", "soon"], "config key SOLVER.MAX_ITER: expected int, got 'soon'"),
        (["SOLVER.MAX_ITER"], "has no value"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(overrides, message):
    with pytest.raises(UserError, match=message):
        load_config("", overrides)


def test_modules_of_the_users_own_are_imported(tmp_path, monkeypatch):
    write(tmp_path / "parts_of_mine.py", "LOADED = True\n")
    monkeypatch.setenv("ANCHORKIT_IMPORTS", "parts_of_mine")
    with pytest.raises(UserError, match="no module 'parts_of_mine' on Python's path"):
        load_config("")
    monkeypatch.syspath_prepend(tmp_path)
    load_config("")
    assert sys.modules.pop("parts_of_mine").LOADED
    write(tmp_path / "faulty_parts.py", "import no_such_library\n")
    monkeypatch.setenv("ANCHORKIT_IMPORTS", "json, faulty_parts")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        load_config("")
    monkeypatch.setenv("ANCHORKIT_IMPORTS", "../mine")
    with pytest.raises(UserError, match=r"names of Python modules.*\.\./mine"):
        load_config("")


def test_a_missing_file_names_the_nearest_one_in_its_folder(tmp_path):
    write(tmp_path / "retinanet.yaml", "SEED: 1\n")
    with pytest.raises(UserError, match="did you mean retinanet.yaml?"):
        load_config(str(tmp_path / "retinant.yaml"))


def test_the_number_of_classes_is_the_keys_or_else_the_data_sets():
    overrides = ["DATASETS.TRAIN", "('digit_scenes_train',)"]
    assert num_classes(load_config("", overrides)) == 10
    assert num_classes(load_config("", [*overrides, "MODEL.NUM_CLASSES", "3"])) == 3
    with pytest.raises(UserError, match="set MODEL.NUM_CLASSES"):
        num_classes(load_config(""))
