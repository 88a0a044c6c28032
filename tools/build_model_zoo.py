#!/usr/bin/env python
"""Write MODEL_ZOO.md from anchorkit/model_zoo.yaml, the configs and the papers' tables.

    python tools/build_model_zoo.py

The exit status is 2 for a config without a line in the data file, or a line without figures.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
from detectron2.config import CfgNode

from anchorkit import model_zoo
from anchorkit.analysis import build_input, build_meta_model, count_macs, count_parameters
from anchorkit.errors import UserError, exit_status
from anchorkit.reproduction import read_table

ROOT = Path(__file__).resolve().parent.parent
DATA_FILE = "anchorkit/model_zoo.yaml"
# detectron2's figures for its RetinaNet with ResNet-50: an iteration of 16 images on 8 V100 GPUs,
# and the GMACs of one image.
SECONDS, IMAGES, GPUS, GMACS = 0.205, 16, 8, 245.5
NONE = "—"
MARKS = "¹²³⁴⁵⁶⁷⁸⁹"

HEAD = f"""# Model zoo

This page is made by `python tools/build_model_zoo.py` from `{DATA_FILE}`, the configs
and the papers' tables in `projects/*/tables/`: change those. Every model can be built by the name
of its config:

```python
from anchorkit import model_zoo

model = model_zoo.get("dsla_fcos_R_50_FPN_1x")
```

`pretrained=True` loads trained weights, where a table below names a checkpoint, from the folder
`weights/` or the one that the environment variable `{model_zoo.WEIGHTS_VARIABLE}` names.

The papers' figures are as printed; {NONE} is a figure that is not there. What else was trained on a
CPU is in the [README](README.md) and in the projects' pages.

Parameters are those of the built model, with the scale and shift of frozen normalisation. GMACs are
the multiply-accumulates of all convolutions, linear layers and attention for an image of 800 x 1344
(800 x 1333, padded), or of the size that the config or the data set has; `tools/analyze_model.py`
tells them by module.

Hours are those of one V100 GPU in float32 for the whole training. They are roughly estimated, not
measured: in proportion to GMACs and images, where RetinaNet with ResNet-50 takes {SECONDS} s for
{IMAGES} images of {GMACS} GMACs on {GPUS} GPUs (detectron2's own model zoo). They are too low
for the smallest networks, which a CPU trains as well.
"""


def build_page() -> str:
    """The whole page.

    Raises:
        UserError: configs and lines of the data file do not agree.
    """
    data = model_zoo.read_data()
    check_lines(data)
    rows = read_tables()
    sections = [build_section(section, data["data_sets"], rows) for section in data["sections"]]
    return "\n".join([HEAD, *sections])


def check_lines(data: dict) -> None:
    """Check that each config has one line, with its costs; a message tells costs that lack."""
    names = [name for section in data["sections"] for name in section["models"]]
    problems = [f"no line for {name}" for name in model_zoo.list() if name not in names]
    problems += [f"no config for the line {name}" for name in names if name not in model_zoo.list()]
    problems += [f"{name} has {names.count(name)} lines" for name in dict.fromkeys(names)
                 if names.count(name) > 1]  # fmt: skip
    for section in [] if problems else data["sections"]:
        for name, entry in section["models"].items():
            if not {"parameters", "macs"} <= set(entry):
                parameters, macs = measure_costs(name, data["data_sets"])
                problems.append(f"{name} needs parameters: {parameters}, macs: {macs}")
    if problems:
        raise UserError(f"{DATA_FILE}: {'; '.join(problems)}")


def measure_costs(name: str, data_sets: dict) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of one image of the model's data set."""
    cfg = model_zoo.get_config(name)
    size = data_sets.get(cfg.DATASETS.TEST[0], {}).get("size")
    model = build_meta_model(cfg)
    return count_parameters(model), count_macs(model, build_input(cfg, size))[""]


def read_tables() -> dict[str, dict]:
    """For each config the first row of the papers' tables that changes nothing in it.

    Each row has the table's "dataset", too.
    """
    rows = {}
    for path in sorted(ROOT.glob("projects/*/tables/*.yaml")):
        table = read_table(path)
        for row in table["rows"]:
            if not row.get("overrides"):
                name = Path(row["config"]).stem
                rows.setdefault(name, {**row, "dataset": table["dataset"]})
    return rows


def build_section(section: dict, data_sets: dict, rows: dict[str, dict]) -> str:
    """A heading, its text, a table with a row for each model, and the footnotes."""
    columns = [build_row(name, section, data_sets, rows) for name in section["models"]]
    titles = list(columns[0])
    # Ours are shown even if there are none yet.
    kept = [
        title for title in titles
        if title.startswith("our ") or any(row[title] != NONE for row in columns)
    ]  # fmt: skip
    lines = [f"## {section['title']}", ""]
    if section.get("text"):
        lines += [section["text"].strip(), ""]
    ours = [row[title] for row in columns for title in titles if title.startswith("our ")]
    if NONE in ours:
        lines += [f"{NONE} for ours: {section['reason']}.", ""]
    lines += [f"| {' | '.join(kept)} |", "|" + "---|" * len(kept)]
    lines += [f"| {' | '.join(row[title] for title in kept)} |" for row in columns]
    notes = section.get("notes", {}).values()
    lines += [""] * bool(notes)
    # Two spaces end a line in Markdown.
    lines += [f"{mark} {note.strip()}  " for mark, note in zip(MARKS, notes, strict=False)]
    return "\n".join(lines).rstrip() + "\n"


def build_row(name: str, section: dict, data_sets: dict, rows: dict[str, dict]) -> dict[str, str]:
    """The cells of a model by the title of their column."""
    entry, table_row = section["models"][name], rows.get(name, {"paper": {}})
    cfg, gmacs = model_zoo.get_config(name), entry["macs"] / 1e9
    data_set = table_row.get("dataset", cfg.DATASETS.TEST[0])
    if data_set not in data_sets:
        raise UserError(f"{DATA_FILE}: data_sets has no {data_set}, the data set of {name}")
    cells = {
        "config": f"`{model_zoo.config_path(name).relative_to(ROOT)}`",
        "data": data_sets[data_set]["title"],
    }
    for key, title in section["figures"].items():
        cells[f"paper's {title}"] = str(table_row["paper"].get(key, NONE))
        seeds = entry.get("ours", {}).get(key, [])
        cells[f"our {title}"] = format_seeds(seeds, section["decimals"])
    if "note" in entry:
        mark = MARKS[list(section["notes"]).index(entry["note"])]
        first = f"paper's {next(iter(section['figures'].values()))}"
        cells[first] += f" {mark}"
    cells["parameters"] = format_parameters(entry["parameters"])
    cells["GMACs"] = format_gmacs(gmacs)
    is_trained = "weights_from" not in table_row
    cells["V100 hours"] = format_hours(cfg, gmacs, data_sets[data_set]) if is_trained else NONE
    cells["checkpoint"] = f"`{entry['checkpoint']['file']}`" if "checkpoint" in entry else NONE
    return cells


def format_seeds(seeds: list[float], decimals: int) -> str:
    """The mean, and each seed's figure if there are several."""
    if not seeds:
        return NONE
    average, *each = (f"{figure:.{decimals}f}" for figure in (mean(seeds), *seeds))
    return f"{average} ({', '.join(each)})" if len(each) > 1 else average


def format_parameters(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number:,}"


def format_gmacs(number: float) -> str:
    """With one decimal, below ten with three digits, and never with an exponent."""
    if number >= 10:
        return f"{number:.1f}"
    return f"{number:.3g}" if number >= 0.001 else f"{number:.5f}"


def format_hours(cfg: CfgNode, gmacs: float, data_set: dict) -> str:
    """Estimated hours of one GPU for the training; none where the config trains on a CPU."""
    if cfg.MODEL.DEVICE == "cpu":
        return NONE
    solver = cfg.SOLVER
    images = solver.MAX_ITER * solver.IMS_PER_BATCH * solver.ACCUMULATION_STEPS
    if solver.MAX_EPOCHS:
        if "train_images" not in data_set:
            raise UserError(f"{DATA_FILE}: data_sets: {data_set['title']} needs train_images")
        images = solver.MAX_EPOCHS * data_set["train_images"]
    hours = images * gmacs * SECONDS * GPUS / (IMAGES * GMACS) / 3600
    if hours < 0.1:
        return "< 0.1"
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}"


def main() -> None:
    (ROOT / "MODEL_ZOO.md").write_text(build_page(), encoding="utf-8")


def run() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    return exit_status("build_model_zoo", main)


if __name__ == "__main__":
    sys.exit(run())
