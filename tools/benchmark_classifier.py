#!/usr/bin/env python
"""Measure epochs of the classifier beside a bare PyTorch loop and detectron2's data loader.

An epoch is 50,000 images of 32 x 32 pixels in batches of 32, through the lightweight CNN, in
alternating turns of one process. detectron2's loader takes them from memory, and from PNG files
with its default mapper, without resizing and flips. INDeeD is measured beside its baseline on the
simple CNN, 84 x 84 pixels in batches of 128, a twentieth of the images in a turn. Writes a JSON
file and, with ``--markdown``, a page. Example::

    python tools/benchmark_classifier.py --output output/benchmark_classifier.json
"""

import argparse
import os
import tempfile
from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmark import alternate, summary, write_report
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from torchvision.io import write_png

from anchorkit.config import load_config
from anchorkit.data import ImageSet, register_image_set
from anchorkit.data.image_batches import TestImageBatches
from anchorkit.machine import hardware
from anchorkit.trainer import Trainer

CONFIGS = os.path.join(os.path.dirname(__file__), "..", "configs")
CROSS_ENTROPY = "Image-Classification/ce_lightweight_cnn_cifar10.yaml"
OAT = "Image-Classification/oat_lightweight_cnn_cifar10.yaml"
MULTI_LABEL = {
    "baseline": "Multi-Label/bce_simple_cnn_ml_mnist_5.yaml",
    "INDeeD, min-max": "Multi-Label/indeed_simple_cnn_ml_mnist_5.yaml",
    "INDeeD, L2": "Multi-Label/indeed_simple_cnn_ml_mnist_5_l2.yaml",
}
SET_NAME, MULTI_LABEL_SET_NAME = "benchmark_noise", "benchmark_noise_5"
BATCH, MULTI_LABEL_BATCH = 32, 128


def noise(num_images: int, channels: int = 3, size: int = 32, num_labels: int = 1) -> ImageSet:
    """Random images with random labels of ten classes; with several, as 0 and 1 for each class."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_images, channels, size, size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.rand(num_images, 10, generator=generator).argsort(dim=1)[:, :num_labels]
    if num_labels > 1:
        labels = torch.zeros(num_images, 10, dtype=torch.int8).scatter_(1, labels, 1)
    return ImageSet(images, labels.squeeze(1), tuple("0123456789"), range(num_images))


def trainer_of(config: str, num_steps: int, device: str, folder: str) -> Trainer:
    """A trainer of the shipped config on the noise for some steps, OAT from the first one."""
    set_name = MULTI_LABEL_SET_NAME if config in MULTI_LABEL.values() else SET_NAME
    cfg = load_config(
        os.path.join(CONFIGS, config),
        ["DATASETS.TRAIN", f"('{set_name}',)", "DATASETS.TEST", "()", "OUTPUT_DIR", folder,
         "SOLVER.MAX_ITER", str(num_steps), "SOLVER.MAX_EPOCHS", "0", "TEST.EVAL_EPOCHS", "0",
         "MODEL.NUM_CLASSES", "10", "MODEL.OAT.PRETRAIN_EPOCHS", "0", "SEED", "0",
         "MODEL.DEVICE", device],
    )  # fmt: skip
    return Trainer(cfg)


def anchorkit_epoch(config: str, num_steps: int, device: str, folder: str) -> Callable[[], None]:
    """An epoch of the training command's loop, with its hooks, log files and checkpoint."""

    def epoch() -> None:
        trainer_of(config, num_steps, device, folder).train()

    return epoch


def bare_epoch(images: ImageSet, num_steps: int, device: str, folder: str) -> Callable[[], None]:
    """The same model and optimizer in the shortest loop there is."""
    trainer = trainer_of(CROSS_ENTROPY, num_steps, device, folder)
    model, optimizer = trainer.checkpointer.model, trainer._trainer.optimizer
    pixels, labels = images.images.to(device), images.labels.to(device)

    def epoch() -> None:
        model.train()
        order = torch.randperm(len(labels), device=device)
        for step in range(num_steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            outputs = model.head(model.features(model.normalize(pixels[rows])))
            loss = F.cross_entropy(outputs, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def write_files(images: ImageSet, folder: str) -> list[dict]:
    """Write a PNG file for each image; returns detectron2's records of them."""
    records = []
    for index, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
        name = os.path.join(folder, f"{index}.png")
        write_png(pixels, name, compression_level=1)
        records.append({"image_id": index, "file_name": name, "gt_classes": [int(label)]})
    return records


def detectron2_epoch(
    dicts: list[dict], mapper: Callable, num_steps: int, device: str, folder: str
) -> Callable[[], None]:
    """The same model under detectron2's trainer and its loader with its default four workers."""
    trainer = trainer_of(CROSS_ENTROPY, num_steps, device, folder)
    model, optimizer = trainer.checkpointer.model.train(), trainer._trainer.optimizer

    def epoch() -> None:
        loader = build_detection_train_loader(
            dicts, mapper=mapper, total_batch_size=BATCH, aspect_ratio_grouping=False, num_workers=4
        )
        with EventStorage():
            SimpleTrainer(model, loader, optimizer).train(0, num_steps)

    return epoch


def evaluation(config: str, images: ImageSet, device: str, folder: str) -> Callable[[], None]:
    """Outputs of all images and everything that a method makes of them."""
    model = trainer_of(config, 1, device, folder).checkpointer.model
    if config == OAT:
        model.method.activate()

    @torch.no_grad()
    def run() -> None:
        model.eval()
        batches = TestImageBatches(images, 256, device=device)
        outputs = torch.cat([model(batch) for batch in batches])
        for figures in model.method.decodings(outputs).values():
            figures.argmax(dim=-1)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="output/benchmark_classifier.json", help="JSON file")
    parser.add_argument("--markdown", help="page to write")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every measurement")
    parser.add_argument("--images", type=int, default=50_000, help="images of an epoch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    images = noise(args.images)
    register_image_set(SET_NAME, lambda options: images, images.classes)
    steps = -(-args.images // BATCH)
    multi_label_steps = -(-args.images // 20 // MULTI_LABEL_BATCH)
    large = noise(multi_label_steps * MULTI_LABEL_BATCH, channels=1, size=84, num_labels=5)
    register_image_set(MULTI_LABEL_SET_NAME, lambda options: large, large.classes, multi_label=True)
    with tempfile.TemporaryDirectory() as folder:
        shared = (steps, args.device, folder)
        bare, ours = "bare PyTorch loop", "anchorkit, cross entropy"
        files = write_files(images, folder)
        from_files = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")

        def from_memory(record: dict) -> dict:
            return {**record, "image": images.images[record["image_id"]]}

        training = {
            ours: anchorkit_epoch(CROSS_ENTROPY, *shared),
            "anchorkit, OAT": anchorkit_epoch(OAT, *shared),
            bare: bare_epoch(images, *shared),
            "detectron2's trainer and loader, from memory": detectron2_epoch(
                files, from_memory, *shared
            ),
            "detectron2's trainer and loader, PNG files": detectron2_epoch(
                files, from_files, *shared
            ),
        }
        ce = "cross entropy"
        evaluations = {
            name: evaluation(config, images, args.device, folder)
            for name, config in ((ce, CROSS_ENTROPY), ("OAT, all protocols", OAT))
        }
        multi_label = {
            name: anchorkit_epoch(config, multi_label_steps, args.device, folder)
            for name, config in MULTI_LABEL.items()
        }
        title = f"{args.images} images of 32 x 32, lightweight CNN"
        tables = {
            f"Training epoch, {title}, batch {BATCH}": summary(
                alternate(training, args.rounds), bare
            ),
            f"Evaluation, {title}": summary(alternate(evaluations, args.rounds), ce),
            f"Training, {len(large.images)} images of 84 x 84, simple CNN, batch "
            f"{MULTI_LABEL_BATCH}": summary(alternate(multi_label, args.rounds), "baseline"),
        }
    result = {"hardware": hardware(args.device), "tables": tables}
    write_report(result, "tools/benchmark_classifier.py", args.output, args.markdown)


if __name__ == "__main__":
    main()
