"""The data check before training: what is there, what is invalid, and which files are broken."""

import logging
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from tabulate import tabulate
from torch import Tensor

from ..errors import UserError
from .catalog import load_dataset
from .faults import Fault, is_clipped, summarize, xywh_box
from .image_batches import load_image_sets
from .image_files import header_fault, read_fault
from .image_set import ImageSet, is_image_set

logger = logging.getLogger(__name__)

# Ends of COCO's small and medium boxes: side lengths in pixels.
SIZE_LIMITS = (32, 96)
SIZE_NAMES = ("small", "medium", "large")
# Sets of up to this many images are decoded in full; of larger ones, headers and ends are read.
FULL_DECODE_LIMIT = 5000
# Faults named in the log; a file names all.
MAX_LOGGED = 50


@dataclass
class DatasetSummary:
    """Counts of one data set. ``sizes`` and ``classes`` count boxes that are not crowds."""

    name: str
    num_images: int = 0
    num_without_boxes: int = 0
    num_crowds: int = 0
    num_clipped: int = 0
    sizes: Counter = field(default_factory=Counter)
    classes: Counter = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)

    @property
    def num_boxes(self) -> int:
        return sum(self.classes.values())


@dataclass
class DataCheck:
    """Result of :func:`check_datasets`; ``image_check`` may still be running."""

    summaries: list[DatasetSummary]
    image_check: "ImageCheck"


def check_datasets(cfg: CfgNode) -> DataCheck | None:
    """Look at all data sets of a config before training and log one table of them.

    Boxes are checked at once. Image files are checked by a thread beside the training, which
    names each broken file as it is found and logs a closing line. Runs on the main process only.

    Args:
        cfg: gives ``DATASETS.TRAIN``, ``TEST``, ``CHECK``, ``STRICT`` and ``OUTPUT_DIR``.

    Returns:
        What was found; None on other processes, for classification sets, or if ``DATASETS.CHECK``
        is False.

    Raises:
        UserError: a data set cannot be loaded, or has unusable annotations and
            ``DATASETS.STRICT`` is True.
    """
    if not cfg.DATASETS.CHECK or not comm.is_main_process():
        return None
    summaries, records = [], []
    names = list(dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))
    if all(map(is_image_set, names)):
        # They are in memory already: files that cannot be decoded were named when they were read.
        image_sets = {
            name: load_image_sets(cfg, [name], train=name in cfg.DATASETS.TRAIN) for name in names
        }
        logger.info("Data check:\n%s", format_image_sets(image_sets))
        return None
    for name in names:
        dicts, faults = load_dataset(name)
        summaries.append(summarize_dataset(name, dicts, faults))
        is_small = len(dicts) <= FULL_DECODE_LIMIT
        records.extend((name, _file_record(record), is_small) for record in dicts)
    logger.info("Data check:\n%s", format_table(summaries))
    _report_faults(summaries, cfg)
    image_check = ImageCheck(records)
    image_check.start()
    return DataCheck(summaries, image_check)


def summarize_dataset(name: str, dicts: list[dict], faults: list[Fault]) -> DatasetSummary:
    """Count images, boxes, sizes and classes.

    Args:
        name: the data set's name.
        dicts: its images in detectron2's format.
        faults: annotations that are not among them.
    """
    summary = DatasetSummary(name, num_images=len(dicts), faults=faults)
    for record in dicts:
        annotations = record.get("annotations", ())
        boxes = [entry for entry in annotations if not entry.get("iscrowd", 0)]
        summary.num_crowds += len(annotations) - len(boxes)
        summary.num_without_boxes += not boxes
        for annotation in boxes:
            summary.classes[annotation["category_id"]] += 1
            box = xywh_box(annotation)
            if box is not None:
                side = (box[2] * box[3]) ** 0.5
                summary.sizes[SIZE_NAMES[sum(side >= limit for limit in SIZE_LIMITS)]] += 1
                summary.num_clipped += is_clipped(box, record["width"], record["height"])
    return summary


def format_table(summaries: Sequence[DatasetSummary]) -> str:
    """One table: data sets as columns; counts, shares of sizes, and boxes of each class as rows."""
    rows = [
        ["images", *(s.num_images for s in summaries)],
        ["images without boxes", *(s.num_without_boxes for s in summaries)],
        ["boxes", *(s.num_boxes for s in summaries)],
        ["crowd regions", *(s.num_crowds for s in summaries)],
        ["unusable annotations, left out", *(len(s.faults) for s in summaries)],
        ["boxes clipped to the image", *(s.num_clipped for s in summaries)],
    ]
    small, large = SIZE_LIMITS
    ranges = (f"side below {small} px", f"{small} to {large} px", f"from {large} px")
    for size, span in zip(SIZE_NAMES, ranges, strict=True):
        rows.append([f"{size} boxes ({span})", *(_share(s, size) for s in summaries)])
    class_names = [MetadataCatalog.get(s.name).get("thing_classes", []) for s in summaries]
    longest = max(class_names, key=len, default=[])
    rows.append(["classes", *map(len, class_names)])
    for number, class_name in enumerate(longest):
        rows.append([f"boxes of {class_name}", *(s.classes[number] for s in summaries)])
    headers = ["", *(s.name for s in summaries)]
    alignment = ("left", *("right" for _ in summaries))
    return tabulate(rows, headers=headers, tablefmt="pipe", colalign=alignment)


def format_image_sets(image_sets: dict[str, ImageSet]) -> str:
    """One table: classification sets as columns; size, images, and images of each class as rows."""
    counts = [_class_counts(one).tolist() for one in image_sets.values()]
    numbers = [len(one.labels) for one in image_sets.values()]
    shapes = [" x ".join(map(str, one.pixels(slice(1)).shape[1:])) for one in image_sets.values()]
    classes = next(iter(image_sets.values())).classes
    rows = [["images", *numbers], ["channels, height, width", *shapes]]
    rows.append(["classes", *(len(one.classes) for one in image_sets.values())])
    rows += [
        [f"images of {name}", *(count[number] for count in counts)]
        for number, name in enumerate(classes)
    ]
    alignment = ("left", *("right" for _ in image_sets))
    return tabulate(rows, headers=["", *image_sets], tablefmt="pipe", colalign=alignment)


def _class_counts(images: ImageSet) -> Tensor:
    """(K,) number of images of each class."""
    if images.labels.dim() == 1:
        return images.labels.bincount(minlength=len(images.classes))
    return (images.labels == 1).sum(0)


class ImageCheck(threading.Thread):
    """Reads image files beside the training; ``faults`` grows as broken ones are found.

    Args:
        records: (data set, dict with file_name, image_id, width, height, whether to decode all).
    """

    def __init__(self, records: list[tuple[str, dict, bool]]) -> None:
        # A daemon: the program does not wait for it at its end.
        super().__init__(name="anchorkit-image-check", daemon=True)
        self.records = records
        self.faults: list[Fault] = []

    def run(self) -> None:
        for name, record, decode in self.records:
            reason = read_fault(record) if decode else header_fault(record)
            if reason:
                fault = Fault(record["file_name"], record.get("image_id"), reason)
                self.faults.append(fault)
                logger.warning("data check of %s: %s", name, fault)
        logger.info(
            "Data check: read %d image files, %d missing or broken",
            len(self.records),
            len(self.faults),
        )


def _file_record(record: dict) -> dict:
    """The parts of a dict that the image check needs; boxes of a large set take much memory."""
    keys = ("file_name", "image_id", "width", "height")
    return {key: record[key] for key in keys if key in record}


def _report_faults(summaries: Sequence[DatasetSummary], cfg: CfgNode) -> None:
    for summary in summaries:
        if summary.faults and cfg.DATASETS.STRICT:
            raise UserError(
                f"{summary.name}: {summarize(summary.faults)}; mend them, or set DATASETS.STRICT "
                "False to leave them out"
            )
    lines = [f"{summary.name}: {fault}" for summary in summaries for fault in summary.faults]
    if not lines:
        return
    more = ""
    if len(lines) > MAX_LOGGED:
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        path = os.path.join(cfg.OUTPUT_DIR, "unusable_annotations.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        more = f"\nand {len(lines) - MAX_LOGGED} more; {path} names all"
    logger.warning("Annotations left out:\n%s%s", "\n".join(lines[:MAX_LOGGED]), more)


def _share(summary: DatasetSummary, size: str) -> str:
    total = sum(summary.sizes.values())
    return f"{100 * summary.sizes[size] / total:.1f} %" if total else "-"
