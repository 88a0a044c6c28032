"""Epochs of the classifier beside a bare PyTorch loop and detectron2's data loader.

An epoch is 50,000 images of 32 x 32 pixels in batches of 32, through the lightweight CNN.
detectron2's loader takes them from memory, and from PNG files with its default mapper, without
resizing and flips. INDeeD is measured beside its baseline on the simple CNN, 84 x 84 pixels in
batches of 128, a twentieth of the images in a turn.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
)
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from torchvision.io import write_png

from anchorkit.config import load_config
from anchorkit.data import ImageSet, register_image_set
from anchorkit.data.image_batches import TestImageBatches
from anchorkit.trainer import Trainer

from .models import ROOT
from .timing import alternate, table_of_times

CROSS_ENTROPY = "Image-Classification/ce_lightweight_cnn_cifar10.yaml"
OAT = "Image-Classification/oat_lightweight_cnn_cifar10.yaml"
MULTI_LABEL = {
    "baseline": "Multi-Label/bce_simple_cnn_ml_mnist_5.yaml",
    "INDeeD, min-max": "Multi-Label/indeed_simple_cnn_ml_mnist_5.yaml",
    "INDeeD, L2": "Multi-Label/indeed_simple_cnn_ml_mnist_5_l2.yaml",
}
SET_NAME, MULTI_LABEL_SET_NAME = "benchmark_noise", "benchmark_noise_5"
BATCH, MULTI_LABEL_BATCH = 32, 128
# Steps in a short turn, and such turns for one of the others.
TURN, TURNS = 100, 15


def noise(num_images: int, channels: int = 3, size: int = 32, num_labels: int = 1) -> ImageSet:
    """Random images with random labels of ten classes; with several, as 0 and 1 for each class."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_images, channels, size, size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.rand(num_images, 10, generator=generator).argsort(dim=1)[:, :num_labels]
    if num_labels > 1:
        labels = torch.zeros(num_images, 10, dtype=torch.int8).scatter_(1, labels, 1)
    return ImageSet(images, labels.squeeze(1), tuple("0123456789"), range(num_images))


def trainer_of(
    config: str, num_steps: int, device: str, folder: str, overrides: Sequence[str] = ()
) -> Trainer:
    """A trainer of the shipped config on the noise for some steps, OAT from the first one."""
    set_name = MULTI_LABEL_SET_NAME if config in MULTI_LABEL.values() else SET_NAME
    cfg = load_config(
        str(ROOT / "configs" / config),
        ["DATASETS.TRAIN", f"('{set_name}',)", "DATASETS.TEST", "()", "OUTPUT_DIR", folder,
         "SOLVER.MAX_ITER", str(num_steps), "SOLVER.MAX_EPOCHS", "0", "TEST.EVAL_EPOCHS", "0",
         "MODEL.NUM_CLASSES", "10", "MODEL.OAT.PRETRAIN_EPOCHS", "0", "SEED", "0",
         "MODEL.DEVICE", device, *overrides],
    )  # fmt: skip
    return Trainer(cfg)


def anchorkit_epoch(config: str, num_steps: int, device: str, folder: str) -> Callable[[], None]:
    """An epoch of the training command's loop, with its hooks, log files and checkpoint."""

    def epoch() -> None:
        trainer_of(config, num_steps, device, folder).train()

    return epoch


def steps_of(
    config: str, num_steps: int, device: str, folder: str, overrides: Sequence[str] = ()
) -> Callable[[], None]:
    """Some steps of a trainer that is built once: with the data, without hooks and files."""
    trainer = trainer_of(config, num_steps, device, folder, overrides)
    step = trainer._trainer
    step.start(trainer.build_train_loader(trainer.cfg))

    def run() -> None:
        with EventStorage():
            for iteration in range(num_steps):
                step.run(iteration)

    return run


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


@contextmanager
def registered(name: str, images: ImageSet, multi_label: bool = False) -> Iterator[None]:
    """While it lasts, configs find the images under a name."""
    register_image_set(name, lambda options: images, images.classes, multi_label=multi_label)
    yield
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def classifiers(args: argparse.Namespace) -> dict[str, dict]:
    """Epochs of training and evaluation of one label, and of training with several labels."""
    num_images = 320 if args.quick else 50_000
    rounds = max(1, args.rounds // 3)
    images = noise(num_images)
    steps = -(-num_images // BATCH)
    with tempfile.TemporaryDirectory() as folder, registered(SET_NAME, images):
        shared = (steps, args.device, folder)
        bare = "bare PyTorch loop"
        files = write_files(images, folder)
        from_files = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")

        def from_memory(record: dict) -> dict:
            return {**record, "image": images.images[record["image_id"]]}

        detectron2 = "detectron2's trainer and loader"
        training = {
            "anchorkit, cross entropy": anchorkit_epoch(CROSS_ENTROPY, *shared),
            "anchorkit, OAT": anchorkit_epoch(OAT, *shared),
            bare: bare_epoch(images, *shared),
            f"{detectron2}, from memory": detectron2_epoch(files, from_memory, *shared),
            f"{detectron2}, PNG files": detectron2_epoch(files, from_files, *shared),
        }
        evaluations = {
            name: evaluation(config, images, args.device, folder)
            for name, config in (("cross entropy", CROSS_ENTROPY), ("OAT, all protocols", OAT))
        }
        few = min(steps, TURN)
        one_turn = {
            name: steps_of(config, few, args.device, folder)
            for name, config in (("cross entropy", CROSS_ENTROPY), ("OAT", OAT))
        }
        title = f"{num_images:,} images of 32 x 32, lightweight CNN"
        tables = {
            f"{few} training steps, lightweight CNN, batch {BATCH}": table_of_times(
                alternate(one_turn, TURNS * rounds), "cross entropy", images=few * BATCH,
                note="In short turns, since the two are nearly alike.",
            ),  # fmt: skip
            f"Training epoch, {title}, batch {BATCH}": table_of_times(
                alternate(training, rounds), bare, images=num_images
            ),
            f"Evaluation, {title}": table_of_times(
                alternate(evaluations, rounds), "cross entropy", images=num_images
            ),
        }
    return tables | _multi_label(args, num_images)


def _multi_label(args: argparse.Namespace, num_images: int) -> dict[str, dict]:
    steps = -(-num_images // 20 // MULTI_LABEL_BATCH)
    images = noise(steps * MULTI_LABEL_BATCH, channels=1, size=84, num_labels=5)
    with (
        tempfile.TemporaryDirectory() as folder,
        registered(MULTI_LABEL_SET_NAME, images, multi_label=True),
    ):
        training = {
            name: anchorkit_epoch(config, steps, args.device, folder)
            for name, config in MULTI_LABEL.items()
        }
        times = alternate(training, max(1, args.rounds // 3))
    count = len(images.labels)
    title = f"Training, {count:,} images of 84 x 84, simple CNN, batch {MULTI_LABEL_BATCH}"
    return {title: table_of_times(times, "baseline", images=count)}
