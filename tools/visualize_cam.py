#!/usr/bin/env python
"""Draw where in an image a classifier sees each class: class activation maps.

    python tools/visualize_cam.py --config-file A.yaml --weights output/a/model_final.pth \\
        --beside B.yaml --beside-weights output/b/model_final.pth --output cam.png

Shows, for each image, its own classes and the class that is not there with the first model's
highest score. The maps of both models have one scale. Bodies that end in global average pooling
need nothing else; the others need the package grad-cam. The exit status is 2 for a mistake in the
command line, config, weights or data.
"""

import argparse
import difflib
import os
import sys

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from anchorkit.checkpoint import Checkpointer
from anchorkit.config import check_choice, check_registered, load_config
from anchorkit.data import ImageSet, check_classes, register_image_folders
from anchorkit.data.image_batches import load_image_sets
from anchorkit.errors import UserError, exit_status, quoted
from anchorkit.evaluation.predictions import distinct_names
from anchorkit.visualization import (
    choose_classes,
    class_activation_maps,
    draw_activation_maps,
    save_figure,
)

MODES = {"co-occurring": "two classes or more", "single": "one class alone", "any": "any class"}


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the classifier")
    parser.add_argument("--weights", required=True, metavar="FILE", help="its checkpoint")
    parser.add_argument("--beside", metavar="FILE", help="config of another one to compare with")
    parser.add_argument("--beside-weights", metavar="FILE", help="its checkpoint")
    parser.add_argument("--dataset", metavar="NAME", help="in place of the first of DATASETS.TEST")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--images", type=int, default=8, metavar="N", help="the first N (8)")
    which.add_argument(
        "--image-ids", nargs="+", type=int, metavar="ID", help="positions in the data set, from 0"
    )
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME",
        help="classes to show (those of each image, and the highest one that is not there)",
    )  # fmt: skip
    parser.add_argument(
        "--mode", choices=MODES, default="any",
        help="of the first images: those of two classes or more, or of one class alone (any)",
    )  # fmt: skip
    parser.add_argument(
        "--output", default="cam.png", metavar="FILE", help=".png or .pdf (cam.png)"
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE",
        help="config keys to override; must come last",
    )  # fmt: skip
    return parser


def main(args: argparse.Namespace) -> None:
    check_arguments(args)
    cfg = classifier_config(args.config_file, args.opts, args.dataset)
    (dataset,) = cfg.DATASETS.TEST
    images = load_image_sets(cfg, [dataset], train=False)
    names, labels = distinct_names(images.classes), indicators(images)
    rows = choose_images(labels, args, dataset)
    pixels, labels = images.pixels(rows), labels[rows]
    models = [load_classifier(cfg, args.weights)]
    if args.beside:
        beside = classifier_config(args.beside, args.opts, dataset)
        models.append(load_classifier(beside, args.beside_weights))
    if args.classes:
        chosen = [class_index(names, name, dataset) for name in args.classes]
        classes = torch.tensor(chosen).expand(len(rows), -1)
    else:
        with torch.no_grad():
            outputs = models[0].head(models[0].features(models[0].normalize(pixels)))
        classes = choose_classes(labels, outputs)
    titles = model_titles(args)
    maps = [class_activation_maps(model, pixels, classes) for model in models]
    captions = [f"{row}: {os.path.basename(images.image_names[row])}" for row in rows.tolist()]
    figure = draw_activation_maps(
        pixels, captions, labels, classes, list(zip(titles, maps, strict=True)), names,
        title=f"{dataset}: {' | '.join(titles)}",
    )  # fmt: skip
    try:
        os.makedirs(os.path.dirname(args.output) or ".", exist_ok=True)
        save_figure(figure, args.output)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written: {error}") from error
    print(args.output)


def check_arguments(args: argparse.Namespace) -> None:
    """What can be said before anything is read."""
    if args.images < 1:
        raise UserError(f"--images {args.images}: must be at least 1")
    if args.image_ids and args.mode != "any":
        raise UserError(f"--mode {args.mode} is for --images; --image-ids names the images itself")
    if bool(args.beside) != bool(args.beside_weights):
        raise UserError("--beside and --beside-weights: give both, or none of them")
    if not args.output.endswith((".png", ".pdf")):
        raise UserError(f"--output {args.output}: must end in .png or .pdf")
    for option, path in (("--weights", args.weights), ("--beside-weights", args.beside_weights)):
        if path and "://" not in path and not os.path.isfile(path):
            raise UserError(f"{option}: no file {path}")


def classifier_config(path: str, overrides: list[str], dataset: str | None) -> CfgNode:
    """The config of a classifier on the CPU whose only data set is the one to draw."""
    cfg = load_config(path, overrides)
    check_choice("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, ["ImageClassifier"])
    register_image_folders(cfg)
    if not dataset and not cfg.DATASETS.TEST:
        raise UserError(f"{path}: DATASETS.TEST is empty; name a data set with --dataset")
    name = dataset or cfg.DATASETS.TEST[0]
    check_registered([name], "--dataset" if dataset else "DATASETS.TEST")
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (name,)
    return cfg


def load_classifier(cfg: CfgNode, weights: str) -> nn.Module:
    """The classifier of a config with the weights of a file, in evaluation mode."""
    check_classes(cfg, train=False)
    model = build_model(cfg).eval()
    # What the file does not give keeps this mark: maps of initial weights would mean nothing.
    for parameter in model.parameters():
        nn.init.constant_(parameter, torch.nan)
    Checkpointer(model).load_weights(weights, use_average=cfg.SOLVER.EMA.ENABLED)
    missing = [name for name, value in model.named_parameters() if value.isnan().all()]
    if missing:
        raise UserError(
            f"{weights}: has no weights, or NaN, for {quoted(missing, 3)}; give the checkpoint of "
            "a classifier that was trained with this config"
        )
    return model


def indicators(images: ImageSet) -> Tensor:
    """(N, K): 1 for the classes that an image has, 0 for others, -1 where it is not known."""
    if images.labels.dim() == 2:
        return images.labels
    return F.one_hot(images.labels, len(images.classes))


def choose_images(labels: Tensor, args: argparse.Namespace, dataset: str) -> Tensor:
    """Positions of the images to draw, in order."""
    if args.image_ids:
        for row in args.image_ids:
            if not 0 <= row < len(labels):
                raise UserError(
                    f"--image-ids {row}: {dataset} has the images 0 to {len(labels) - 1}"
                )
        return torch.tensor(args.image_ids)
    counts = (labels == 1).sum(dim=1)
    fits = {"co-occurring": counts >= 2, "single": counts == 1, "any": counts >= 0}[args.mode]
    rows = fits.nonzero()[:, 0][: args.images]
    if len(rows) == 0:
        raise UserError(
            f"--mode {args.mode}: {dataset} has no image with {MODES[args.mode]}; choose another "
            "mode or data set"
        )
    return rows


def class_index(names: list[str], name: str, dataset: str) -> int:
    if name not in names:
        match = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {match[0]}?" if match else f"there is for example {names[0]}"
        raise UserError(f"--classes: {dataset} has no class {name!r}; {hint}")
    return names.index(name)


def model_titles(args: argparse.Namespace) -> list[str]:
    """The configs' names; where these are the same, the weights' paths."""
    if not args.beside:
        return [_stem(args.config_file)]
    titles = [_stem(args.config_file), _stem(args.beside)]
    return titles if len(set(titles)) == 2 else [args.weights, args.beside_weights]


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def run() -> int:
    """Run the command line; returns the exit status."""
    args = argument_parser().parse_args()
    return exit_status("visualize_cam", lambda: main(args))


if __name__ == "__main__":
    sys.exit(run())
