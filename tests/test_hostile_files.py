"""Configs, annotations and weights are data: whatever they hold, none of it is run."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from anchorkit.checkpoint import Checkpointer, read_checkpoint
from anchorkit.config import load_config
from anchorkit.data import load_coco_boxes
from anchorkit.data.array_sets import read_cifar10
from anchorkit.errors import UserError

HARM = "harm_was_done"


class Harmful:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (HARM,)


@pytest.fixture(autouse=True)
def _no_harm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not os.path.exists(HARM), "code out of a file was run"


def test_the_harm_is_seen_where_a_file_is_trusted(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": Harmful()}))
    read_checkpoint(str(path), trust_pickle=True)
    os.rmdir(HARM)


YAMLS = (
    f"OUTPUT_DIR: !!python/object/apply:os.mkdir [{HARM}]",
    f"OUTPUT_DIR: !!python/object/new:os.mkdir [{HARM}]",
    f"MODEL: {{WEIGHTS: !!python/object/apply:os.system ['mkdir {HARM}']}}",
    f"OUTPUT_DIR: !!python/object/apply:eval ['__import__(\"os\").mkdir(\"{HARM}\")']",
    "OUTPUT_DIR: !!python/name:os.getcwd",
    "OUTPUT_DIR: !!python/module:os",
    f"SOLVER: {{STEPS: !!python/tuple [!!python/object/apply:os.mkdir [{HARM}]]}}",
    f"? !!python/object/apply:os.mkdir [{HARM}]\n: 1",
    f"OUTPUT_DIR: !<tag:yaml.org,2002:python/object/apply:os.mkdir> [{HARM}]",
    "_BASE_: base.yaml\nOUTPUT_DIR: x",
)


@pytest.mark.parametrize("text", YAMLS)
def test_yaml_that_names_python_is_refused_in_one_line(text):
    for name, content in (("config.yaml", text), ("base.yaml", YAMLS[0])):
        with open(name, "w") as file:
            file.write(content)
    with pytest.raises(UserError, match=r"^config\.yaml: ") as error:
        load_config("config.yaml")
    assert "\n" not in str(error.value)


CODE = (f"__import__('os').mkdir('{HARM}')", f"[__import__('os').mkdir('{HARM}')]",
        f"(lambda: __import__('os').mkdir('{HARM}'))()", f"{{'a': exec('import {HARM}')}}",
        f"!!python/object/apply:os.mkdir [{HARM}]")  # fmt: skip


@pytest.mark.parametrize("value", CODE)
def test_expressions_in_overrides_and_in_files_stay_text(value):
    with open("config.yaml", "w") as file:
        file.write(json.dumps({"OUTPUT_DIR": value}))
    assert load_config("config.yaml").OUTPUT_DIR == value
    assert load_config("", ["OUTPUT_DIR", value]).OUTPUT_DIR == value
    for key in ("DATASETS.COCO_FORMAT", "SOLVER.STEPS", "SOLVER.BASE_LR", "INPUT.MIN_SIZE_TRAIN"):
        with pytest.raises(UserError):
            load_config("", [key, value])


def test_a_config_does_not_import_modules():
    with open(f"{HARM}_module.py", "w") as file:
        file.write(f"import os; os.mkdir({HARM!r})")
    with open("config.yaml", "w") as file:
        file.write(f"ANCHORKIT_IMPORTS: {HARM}_module\n")
    with pytest.raises(UserError, match="no config key ANCHORKIT_IMPORTS"):
        load_config("config.yaml")


def test_annotations_with_code_in_them_are_values(tmp_path):
    code = CODE[0]
    content = {
        "images": [{"id": 1, "file_name": code, "width": 9, "height": 9, code: code}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": code, "id": code}],
        "categories": [{"id": 1, "name": code}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    (record,) = load_coco_boxes("boxes.json", "images", "mine")
    assert record["file_name"] == f"images/{code}" and record["annotations"] == []


def pickled(protocol):
    return pickle.dumps({"model": {"weight": Harmful()}}, protocol=protocol)


def saved(**options):
    buffer = io.BytesIO()
    torch.save({"model": {"weight": Harmful()}}, buffer, **options)
    return buffer.getvalue()


def replaced_in_checkpoint():
    """A checkpoint whose pickle was exchanged after it was saved."""
    buffer, result = io.BytesIO(), io.BytesIO()
    torch.save({"model": {"weight": torch.zeros(3)}}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(result, "w") as target:
        for name in source.namelist():
            data = pickled(2) if name.endswith("data.pkl") else source.read(name)
            target.writestr(name, data)
    return result.getvalue()


def hidden_in_array():
    buffer = io.BytesIO()
    np.save(buffer, np.array([Harmful()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def attributes_reached_through_allowed_names():
    """A pickle that calls what it reaches from an allowed class by a dotted name."""
    return b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__class__\x93\x8c\x01x\x29\x7d\x87R."


FILES = {
    **{f"pickle {protocol}.{ending}": (lambda protocol=protocol: pickled(protocol), ending)
       for protocol in range(6) for ending in ("pkl", "pth")},
    "zip": (saved, "pth"),
    "before torch 1.6": (lambda: saved(_use_new_zipfile_serialization=False), "pth"),
    "exchanged": (replaced_in_checkpoint, "pth"),
    "named safetensors": (lambda: pickled(2), "safetensors"),
    "array of objects": (hidden_in_array, "pkl"),
    "array of objects in a pth": (hidden_in_array, "pth"),
    "dotted names": (attributes_reached_through_allowed_names, "pkl"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_weights_that_would_run_code_are_refused_in_one_line(kind):
    content, ending = FILES[kind]
    path = f"weights.{ending}"
    with open(path, "wb") as file:
        file.write(content())
    for read in (read_checkpoint, Checkpointer(torch.nn.Linear(1, 1)).load_weights):
        with pytest.raises(UserError, match=rf"^{path}: ") as error:
            read(path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600
    with open("last_checkpoint", "w") as file:
        file.write(path)
    with pytest.raises(UserError):
        Checkpointer(torch.nn.Linear(1, 1), ".").resume()


def test_a_data_set_in_pickles_is_refused(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(pickled(2))
    with pytest.raises(UserError):
        read_cifar10(str(tmp_path), "test")
