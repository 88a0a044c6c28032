"""The pages tell the truth: links, paths, commands, keys and functions they name exist."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, pairwise_iou

from anchorkit.config import load_config
from anchorkit.data.digit_scenes import write_digit_scenes
from tests.pages import ROOT, shown_files

PAGES = sorted(
    page for folder in (".", "docs", "datasets", "projects/*", "packaging/*") for page in
    ROOT.glob(f"{folder}/*.md")
)  # fmt: skip
FIXED_PAGES = {"README.md", "INSTALL.md", "MODEL_ZOO.md", "CONTRIBUTING.md", "CHANGELOG.md"}
ROOMS = ("anchorkit/", "configs/", "projects/", "tools/", "datasets/", "tests/", "packaging/",
         "docs/")  # fmt: skip
METHODS = sorted(ROOT.glob("projects/*/METHOD.md"))


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def functions_of(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


def test_the_pages_that_users_look_for_are_there():
    assert {page_id(page) for page in PAGES} >= FIXED_PAGES
    for project in ROOT.glob("projects/*"):
        assert {"README.md", "METHOD.md"} <= {page.name for page in project.glob("*.md")}
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 120
    for guide in ROOT.glob("docs/*.md"):
        assert f"({page_id(guide)})" in readme


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page_id(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_paths_in_backticks_exist(page):
    for quoted in re.findall(r"`([^`\n]+)`", page.read_text()):
        path = quoted.split(":")[0]
        if not re.fullmatch(r"[\w./*-]+", path) or "digit_scenes/" in path:
            continue  # not a path, or one that the embedded data set is written to
        if path.startswith(ROOMS):
            assert list(ROOT.glob(path.rstrip("/"))), f"{page_id(page)} names {path}"
        elif path.startswith("*") and path.endswith(".yaml"):
            assert list(page.parent.rglob(path)), f"{page_id(page)} names configs {path}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_name_tools_configs_and_targets_that_exist(page):
    text, shown = page.read_text(), shown_files(page)
    for tool in re.findall(r"python ([\w./-]+\.py)", text):
        assert tool in shown or (ROOT / tool).exists(), f"{page_id(page)} runs {tool}"
    for config in re.findall(r"--config-file ([\w/.-]+\.yaml)", text):
        assert config in shown or (ROOT / config).exists(), f"{page_id(page)} uses {config}"
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make (?:-\w+ )*([a-z]+)", text, re.MULTILINE):
        assert target in targets, f"{page_id(page)} calls make {target}"


def test_the_readmes_python_finds_the_digits_of_a_scene(tmp_path, monkeypatch, capsys):
    write_digit_scenes(str(tmp_path / "datasets"), num_train=0, num_val=1)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    assert "pred_boxes" in capsys.readouterr().out
    truth = json.loads((tmp_path / "datasets/digit_scenes/annotations/val.json").read_text())
    found = names["found"]
    assert truth["annotations"]
    for annotation in truth["annotations"]:
        x, y, width, height = annotation["bbox"]
        box = Boxes(torch.tensor([[x, y, x + width, y + height]]))
        of_class = found[found.pred_classes == annotation["category_id"] - 1]
        assert pairwise_iou(box, of_class.pred_boxes).max() > 0.5


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_config_keys_exist(page):
    cfg = load_config("")
    for line in page.read_text().splitlines():
        if "did you mean" in line:
            continue  # an error message, shown with the mistyped key that causes it
        for key in re.findall(r"\b(?:MODEL|DATASETS|DATALOADER|INPUT|SOLVER|TEST)(?:\.[A-Z0-9_]+)+",
                              line):  # fmt: skip
            node = cfg
            for part in key.split("."):
                assert isinstance(node, CfgNode) and part in node, f"{page_id(page)}: no {key}"
                node = node[part]


def test_every_name_of_another_library_has_one_of_ours_beside_it():
    cfg = load_config("")
    page = (ROOT / "docs" / "coming_from_mmdetection.md").read_text()
    rows = re.findall(r"^\| (?!theirs|---)(.+?) \| (.*?) \| ?(.*?) ?\|$", page, re.MULTILINE)
    assert len(rows) > 80
    for theirs, ours, remark in rows:
        if ours == "—":
            assert remark, f"{theirs}: say why there is none"
            continue
        names = re.findall(r"`(.+?)`", ours)
        assert names and "`" in theirs, theirs
        for name in names:
            if name.startswith("configs/"):
                load_config(str(ROOT / name))
                continue
            for detector in ("FCOS", "FOVEABOX", "RETINANET", "SEMI_ANCHORED", "SSD"):
                node = cfg
                for part in name.replace("<D>", detector).split("."):
                    assert part in node, f"{theirs}: no key {name}"
                    node = node[part]


@pytest.mark.parametrize("page", METHODS, ids=page_id)
def test_a_method_page_names_functions_that_exist(page):
    places = re.findall(r"`(anchorkit/[\w/]+\.py):(\w+)`", page.read_text())
    assert places
    for path, name in places:
        assert name in functions_of(ROOT / path), f"{path} has no {name}"


@pytest.mark.parametrize("page", METHODS, ids=page_id)
def test_a_method_page_names_all_keys_of_its_method_and_no_others(page):
    keys = load_config("").MODEL[page.parent.name.upper()]
    assert set(re.findall(r"`([A-Z][A-Z0-9_]+)`", page.read_text())) == set(keys)


@pytest.mark.parametrize("page", METHODS, ids=page_id)
def test_the_open_questions_of_a_method_are_numbered_without_gaps(page):
    numbers = [int(n) for n in re.findall(r"^\| A(\d+) \|", page.read_text(), re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1)) and numbers


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_no_page_holds_a_placeholder_or_the_path_of_a_machine(page):
    text = page.read_text()
    assert not re.findall(r"@@\w*@@|\bTODO\b|\bTBD\b", text)
    assert not re.findall(r"(?<![\w.$}>-])/(?:home|root|tmp|mnt|work|Users)/\w+", text)
