"""Imports go down only, and configs stay where they are read: the design's rules, checked."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Rooms of the house from the ground up. A room may import from lower rows and from itself.
ROWS = (
    ("config_keys", "errors", "geometry", "layers", "machine", "unpickling"),
    (
        "assigners",
        "losses",
        "classification",
        "modeling.heads",
        "modeling.normalizer",
        "modeling.postprocess",
        "modeling.anchor_generator",
    ),
    ("config", "modeling.box_codes"),
    ("modeling.backbone",),
    ("modeling.meta_arch",),
    ("modeling",),
    ("data", "checkpoint", "conversion", "solver", "launch", "training_step", "analysis"),
    ("anchor_fit", "closing", "early_stopping"),
    ("hooks", "last_good", "visualization"),
    ("evaluation",),
    ("trainer",),
    ("engine", "model_zoo", "reproduction", "anchor_analysis"),
    ("predictor",),
    ("export",),
    ("tools",),
)
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}

# Rooms that hold a run's config as a whole. Below them it is read in from_config and in builders.
ROOMS_WITH_CFG = {
    *("config", "config_keys", "data", "solver", "evaluation", "trainer", "engine", "tools"),
    *("analysis", "anchor_analysis", "closing", "export", "model_zoo", "predictor"),
    "reproduction",
}
ROOMS_WITH_BUILDERS = {"modeling.anchor_generator", "modeling.backbone", "modeling.meta_arch"}

ROOMS_WITHOUT_DETECTRON2 = ("losses", "classification", "geometry")


def python_files(root):
    """Module name -> path of the library and of the tools, e.g. "modeling.heads.retinanet"."""
    files = {}
    for path in sorted((root / "anchorkit").rglob("*.py")):
        parts = path.relative_to(root / "anchorkit").with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    for path in sorted((root / "tools").glob("*.py")):
        files[f"tools.{path.stem}"] = path
    return files


def room_of(module):
    """The room that a module belongs to; None for one that ROWS does not know."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in ROW_OF:
            return ".".join(parts[:length])
    return None


def imports(module, path, known):
    """Modules that a file imports: ours by their name in ``known``, others as "/package"."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    package = [part for part in package if part]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - (node.level - 1)]
                base = ".".join(["anchorkit", *above, *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top != "anchorkit":
                found.add("/" + top)
                continue
            while rest and rest not in known:
                rest = rest.rpartition(".")[0]
            found.add(rest)
    return found


def upward_imports(root):
    """Sentences about imports that do not go down, and about modules that have no place."""
    known, wrong = python_files(root), []
    for module, path in known.items():
        if not module:  # the package itself imports what must be registered
            continue
        room = room_of(module)
        if room is None:
            wrong.append(f"anchorkit.{module}: give it a place in ROWS")
            continue
        for target in imports(module, path, known):
            # The package does not import these two.
            if target.startswith("/") or (not target and room in ("export", "tools")):
                continue
            other = room_of(target) if target else "anchorkit"
            if other != room and ROW_OF.get(other, len(ROWS)) >= ROW_OF[room]:
                wrong.append(f"{module} imports {target or 'anchorkit'}")
    return wrong


def import_cycle(root):
    """Modules that import one another in a ring, [] if there is none."""
    known = python_files(root)
    graph = {
        module: sorted(t for t in imports(module, path, known) if t in known and t != module)
        for module, path in known.items()
    }
    done = set()

    def walk(module, trail):
        if module in trail:
            return trail[trail.index(module) :] + [module]
        if module in done:
            return []
        for target in graph[module]:
            # "from . import part" in a package is its own part, not a ring.
            if ring := walk(target, [*trail, module]):
                return ring
        done.add(module)
        return []

    return next((ring for module in graph if (ring := walk(module, []))), [])


def uses_of_cfg(root):
    """Sentences about the name ``cfg`` where the design does not allow it."""
    wrong = []
    for module, path in python_files(root).items():
        room = room_of(module) if module else ""
        if room in ROOMS_WITH_CFG:
            continue
        tree = ast.parse(path.read_text())
        allowed = set()
        if room in ROOMS_WITH_BUILDERS:
            for function in ast.walk(tree):
                if isinstance(function, ast.FunctionDef) and _is_builder(function, tree):
                    allowed |= {id(node) for node in ast.walk(function)}
        wrong += [
            f"{module}, line {node.lineno}"
            for node in ast.walk(tree)
            if id(node) not in allowed
            and (
                (isinstance(node, ast.Name) and node.id == "cfg")
                or (isinstance(node, ast.arg) and node.arg == "cfg")
                or (isinstance(node, ast.Attribute) and node.attr == "cfg")
            )
        ]
    return wrong


def _is_builder(function, tree):
    """from_config, a builder in one of detectron2's registries, or a private helper of these."""
    registered = any("_REGISTRY.register" in ast.unparse(d) for d in function.decorator_list)
    is_helper = function in tree.body and function.name.startswith("_")
    return function.name == "from_config" or registered or is_helper


def reaches_detectron2(root):
    """Chains of imports that lead from the pure rooms to detectron2."""
    known = python_files(root)

    def chain(module, seen):
        for target in sorted(imports(module, known[module], known)):
            if target == "/detectron2":
                return [module, "detectron2"]
            if target in known and target and target not in seen:
                if rest := chain(target, seen | {target}):
                    return [module, *rest]
        return []

    pure = [module for module in known if room_of(module) in ROOMS_WITHOUT_DETECTRON2]
    return [" -> ".join(found) for module in pure if (found := chain(module, {module}))]


def test_imports_go_down_only():
    assert upward_imports(ROOT) == []


def test_no_modules_import_one_another_in_a_ring():
    assert import_cycle(ROOT) == []


def test_configs_stay_where_they_are_read():
    assert uses_of_cfg(ROOT) == []


def test_losses_and_classification_do_not_need_detectron2():
    assert reaches_detectron2(ROOT) == []


@pytest.fixture
def house(tmp_path):
    """Writes a small anchorkit of the given files; "" stands for an empty one."""

    def build(**files):
        for name, text in {"__init__": "", "geometry": "", **files}.items():
            path = tmp_path / "anchorkit" / (name.replace("__in__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return build


def test_the_checks_see_what_they_look_for(house):
    root = house(
        engine="from .geometry import area\n",
        geometry="def f():\n    from anchorkit.engine import run\n",
        attic="",
        losses__in____init__="from ..layers import tower\n",
        layers="import detectron2.layers\n",
        hooks="def hook(cfg):\n    pass\n",
        modeling__in__meta_arch__in__fcos="class A:\n    def __init__(self, cfg):\n        pass\n"
        "    def from_config(cls, cfg):\n        return _helper(cfg)\n"
        "def _helper(cfg):\n    return cfg.MODEL\n",
    )
    assert upward_imports(root) == [
        "anchorkit.attic: give it a place in ROWS",
        "geometry imports engine",
    ]
    assert import_cycle(root) == ["engine", "geometry", "engine"]
    assert uses_of_cfg(root) == ["hooks, line 1", "modeling.meta_arch.fcos, line 2"]
    assert reaches_detectron2(root) == [
        "losses -> layers -> detectron2",
    ]


def test_a_house_in_order_has_nothing_to_report(house):
    root = house(
        losses__in____init__="from ..geometry import area\n",
        engine="from . import losses\nfrom anchorkit.losses import area\n",
    )
    assert upward_imports(root) == [] and import_cycle(root) == []
    assert uses_of_cfg(root) == [] and reaches_detectron2(root) == []
