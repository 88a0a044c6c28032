"""What a run says at its end."""

import os

from detectron2.config import CfgNode


def closing_note(cfg: CfgNode, model_path: str) -> str:
    """Where everything is: one paragraph, naming only what exists."""
    folder = cfg.OUTPUT_DIR
    places = (
        ("model", model_path),
        ("best model", os.path.join(folder, "model_best.pth")),
        ("log", os.path.join(folder, "log.txt")),
        ("metrics", os.path.join(folder, "metrics.json")),
        ("table", os.path.join(folder, "results.md")),
        ("pictures", os.path.join(folder, "pictures")),
    )
    lines = [f"  {name:<11}{path}" for name, path in places if os.path.exists(path)]
    return "\n".join(["Done. Here it is:", *lines])


def stopping_note(cfg: CfgNode, num_done: int, reason: str) -> str:
    """How a run that was stopped goes on."""
    return (
        f"Stopped after {num_done} of {cfg.SOLVER.MAX_ITER} iterations, because {reason}. The "
        f"checkpoint is in {cfg.OUTPUT_DIR}; the same command with --resume goes on from it."
    )
