#!/usr/bin/env python
"""Detect objects in images and videos of one's own, or classify images.

    python tools/demo.py --config-file configs/quick/semi_anchored_retinanet_digit_scenes.yaml \\
        --input datasets/digit_scenes/val --output output/found \\
        --opts MODEL.WEIGHTS weights/semi_anchored_retinanet_digit_scenes.safetensors
    find . -name "*.jpg" | python tools/demo.py --config-file F --input - --output DIR --opts ...

--input takes images, folders, patterns such as "a/*.png", videos, the number of a webcam (until
Ctrl-C), and "-" for names of images on standard input. Images and videos are written to the output
folder with what was found in them. predictions.json has every detection as COCO's results do, with
the file's and the class's name beside the numbers; of a classifier the best classes.

--confidence is a score for all classes and CLASS=SCORE for single ones; "best-f1" takes for each
class the score with the highest F1 at IoU 0.5 on the first set of DATASETS.TEST.

The exit status is 1 if files could not be read, and 2 for a mistake in the command line, config or
weights.
"""

import argparse
import glob
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import BoxMode, Instances
from PIL import Image
from tqdm import tqdm

from anchorkit.config import load_config
from anchorkit.data import load_dataset
from anchorkit.data.image_files import read_image
from anchorkit.data.image_folder import ENDINGS
from anchorkit.errors import UserError, exit_status
from anchorkit.evaluation.score_thresholds import best_f1_thresholds
from anchorkit.predictor import Predictor, confident
from anchorkit.visualization import draw_on_image

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
# Frames a second of a video or webcam that does not tell its own.
DEFAULT_RATE = 25.0


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the model")
    parser.add_argument("--input", nargs="+", required=True, help="images, folders, videos, 0, -")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--confidence", nargs="+", default=["0.5"], metavar="SCORE",
        help="lowest score shown: SCORE, CLASS=SCORE, or best-f1 (0.5)",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images at once (1)")
    parser.add_argument("--no-pictures", action="store_true", help="write predictions.json alone")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE",
        help="config keys to override, such as MODEL.WEIGHTS; must come last",
    )  # fmt: skip
    return parser


def main(args: argparse.Namespace) -> int:
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: must be at least 1")
    images, videos = find_sources(args.input)
    cfg = load_config(args.config_file, args.opts)
    predictor = Predictor(cfg, batch_size=args.batch_size)
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier" and videos:
        raise UserError(f"--input {videos[0]}: a classifier takes images")
    thresholds = score_thresholds(args.confidence, predictor, cfg)
    try:
        os.makedirs(args.output, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be made: {error}") from error

    faults, predictions, ids = [], [], itertools.count()
    try:
        results = predictor.stream(images, on_fault=faults.append)
        for path, found in tqdm(results, total=len(images), unit="image", disable=not images):
            number = next(ids)
            if isinstance(found, Instances):
                found = confident(found, thresholds)
                predictions += entries(found, predictor.class_names, number, file_name=path)
                if not args.no_pictures:
                    picture = draw_on_image(
                        read_image(path, "RGB"), found, predictor.class_names
                    )
                    name = f"{number:06d}_{os.path.splitext(os.path.basename(path))[0]}.png"
                    Image.fromarray(picture).save(os.path.join(args.output, name))
            else:
                predictions.append(best_classes(found["scores"], predictor.class_names, path))
        for source in videos:
            run_video(source, predictor, thresholds, args, predictions, faults, ids)
    finally:
        # Also what was found before an error or Ctrl-C.
        path = os.path.join(args.output, "predictions.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(predictions, file, indent=1)
    for fault in faults:
        print(f"skipped: {fault}", file=sys.stderr)
    print(f"{len(predictions)} predictions in {path}")
    return 1 if faults else 0


def find_sources(inputs: Sequence[str]) -> tuple[list[str], list[str | int]]:
    """Image files, and videos and webcams, that the command line names.

    Raises:
        UserError: nothing is there.
    """
    images, videos = [], []
    for text in inputs:
        if text == "-":
            images += [line.strip() for line in sys.stdin if line.strip()]
        elif text.isdigit() and not os.path.exists(text):
            videos.append(int(text))
        elif os.path.isdir(text):
            found = [n for n in sorted(os.listdir(text)) if n.lower().endswith(ENDINGS)]
            if not found:
                raise UserError(f"--input {text}: the folder has no images ({', '.join(ENDINGS)})")
            images += [os.path.join(text, name) for name in found]
        else:
            found = [text] if os.path.exists(text) else sorted(glob.glob(text, recursive=True))
            if not found:
                raise UserError(f"--input {text}: there is no such file")
            videos += [path for path in found if path.lower().endswith(VIDEOS)]
            images += [path for path in found if not path.lower().endswith(VIDEOS)]
    if not images and not videos:
        raise UserError("--input -: standard input names no images")
    return images, videos


def score_thresholds(
    confidence: Sequence[str], predictor: Predictor, cfg: CfgNode
) -> Sequence[float]:
    """The threshold of each class, as ``--confidence`` says.

    Raises:
        UserError: a value that is none, an unknown class, or no set to choose thresholds on.
    """
    if list(confidence) == ["best-f1"]:
        return _best_thresholds(predictor, cfg)
    names = predictor.class_names
    default, of_class = 0.5, {}
    for text in confidence:
        name, _, value = text.rpartition("=")
        try:
            score = float(value)
        except ValueError:
            score = -1.0
        if not 0 <= score <= 1:
            raise UserError(
                f"--confidence {text}: expected a score from 0 to 1, CLASS=SCORE, or best-f1 alone"
            )
        if name and name not in names:
            raise UserError(f"--confidence {text}: no class {name!r}; there are {', '.join(names)}")
        if name:
            of_class[name] = score
        else:
            default = score
    return [of_class.get(name, default) for name in names]


def _best_thresholds(predictor: Predictor, cfg: CfgNode) -> Sequence[float]:
    if not cfg.DATASETS.TEST or cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        raise UserError("--confidence best-f1 needs a detector and a set in DATASETS.TEST")
    name = cfg.DATASETS.TEST[0]
    records, _ = load_dataset(name)
    results = predictor.stream([record["file_name"] for record in records])
    pairs = (
        (record, found)
        for record, (_, found) in zip(records, tqdm(results, total=len(records)), strict=True)
    )
    thresholds, f1 = best_f1_thresholds(pairs, len(predictor.class_names))
    print(f"lowest score shown, with the highest F1 on {name}:")
    for class_name, threshold, value in zip(predictor.class_names, thresholds, f1, strict=True):
        print(f"  {class_name}: {threshold:.3f} (F1 {100 * value:.1f})")
    return thresholds.tolist()


def entries(found: Instances, names: Sequence[str], image_id: int, **more: str | int) -> list[dict]:
    """COCO's results of one image or frame; ``more`` stands beside its id."""
    boxes = BoxMode.convert(found.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    return [
        {
            "image_id": image_id, **more, "category_id": index, "category": names[index],
            "bbox": [round(value, 2) for value in box], "score": score,
        }
        for box, index, score in zip(
            boxes, found.pred_classes.tolist(), found.scores.tolist(), strict=True
        )
    ]  # fmt: skip


def best_classes(scores: torch.Tensor, names: Sequence[str], path: str, count: int = 5) -> dict:
    """The classes with the highest scores of one image."""
    best, index = scores.topk(min(count, len(scores)))
    classes = {names[i]: s for i, s in zip(index.tolist(), best.tolist(), strict=True)}
    return {"file_name": path, "scores": classes}


def run_video(
    source: str | int,
    predictor: Predictor,
    thresholds: Sequence[float],
    args: argparse.Namespace,
    predictions: list[dict],
    faults: list,
    ids: Iterator[int],
) -> None:
    """Detect on all frames of a video or webcam, append to ``predictions``, and write the video."""
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        faults.append(UserError(f"video {source}: cannot be opened"))
        return
    is_webcam = isinstance(source, int)
    name = f"webcam_{source}" if is_webcam else os.path.splitext(os.path.basename(source))[0]
    rate = capture.get(cv2.CAP_PROP_FPS) or DEFAULT_RATE
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    writer, num_frames = None, 0
    results = predictor.stream(_frames(capture))
    try:
        for frame, found in tqdm(results, total=max(total, 0) or None, unit="frame"):
            number = next(ids)
            found = confident(found, thresholds)
            predictions += entries(
                found, predictor.class_names, number, file_name=str(source), frame=num_frames
            )
            num_frames += 1
            if args.no_pictures:
                continue
            picture = draw_on_image(
                np.ascontiguousarray(frame[..., ::-1]), found, predictor.class_names
            )
            if writer is None:
                path = os.path.join(args.output, f"{number:06d}_{name}.mp4")
                size = picture.shape[1], picture.shape[0]
                writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
            writer.write(np.ascontiguousarray(picture[..., ::-1]))
    except KeyboardInterrupt:
        if not is_webcam:
            raise
    finally:
        capture.release()
        if writer is not None:
            writer.release()
    if num_frames == 0:
        faults.append(UserError(f"video {source}: has no frames that can be read"))


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        is_there, frame = capture.read()
        if not is_there:
            return
        yield frame


def run() -> int:
    """Run the command line; returns the exit status."""
    args = argument_parser().parse_args()
    return exit_status("demo", lambda: main(args))


if __name__ == "__main__":
    sys.exit(run())
