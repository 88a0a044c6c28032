"""The pages tell the truth: links, paths, commands, keys and functions they name exist."""

import ast
import re
from pathlib import Path

import pytest

import anchorkit  # noqa: F401
from anchorkit.config import load_config

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    page for folder in (".", "datasets", "projects/*", "packaging/*") for page in
    ROOT.glob(f"{folder}/*.md")
)  # fmt: skip
ROOMS = ("anchorkit/", "configs/", "projects/", "tools/", "datasets/", "tests/", "packaging/")
METHODS = sorted(ROOT.glob("projects/*/METHOD.md"))


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def functions_of(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


def test_the_pages_that_users_look_for_are_there():
    names = {page_id(page) for page in PAGES}
    assert {"README.md", "INSTALL.md", "MODEL_ZOO.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= names
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    for link in links:
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page_id(page)} links to {link}"
    for quoted in re.findall(r"`([^`\n]+)`", text):
        path = quoted.split(":")[0]
        if path.startswith(ROOMS) and re.fullmatch(r"[\w./*-]+", path):
            written = any(word in path for word in ("digit_scenes/", "<stem>"))
            assert written or list(ROOT.glob(path.rstrip("/"))), f"{page_id(page)} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_name_tools_configs_and_targets_that_exist(page):
    text = page.read_text()
    for tool in re.findall(r"python ((?:tools|datasets)/\w+\.py)", text):
        assert (ROOT / tool).exists(), f"{page_id(page)} runs {tool}"
    for config in re.findall(r"--config-file ([\w/.-]+\.yaml)", text):
        assert (ROOT / config).exists(), f"{page_id(page)} uses {config}"
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert target in targets, f"{page_id(page)} calls make {target}"


@pytest.mark.parametrize("page", METHODS, ids=page_id)
def test_a_method_page_names_functions_and_keys_that_exist(page):
    text = page.read_text()
    places = re.findall(r"`(anchorkit/[\w/]+\.py):(\w+)`", text)
    assert places
    for path, name in places:
        assert name in functions_of(ROOT / path), f"{path} has no {name}"
    keys = load_config("").MODEL.SEMI_ANCHORED
    for key in re.findall(r"`([A-Z][A-Z0-9_]+)`", text):
        assert key in keys, f"{page_id(page)}: no key {key}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_no_page_holds_the_path_of_a_machine(page):
    assert not re.search(r"(?<![\w.$}-])/(home|root|tmp|mnt|work)/\w", page.read_text())
