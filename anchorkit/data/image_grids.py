"""Small images put together in a 3 x 3 grid: ML-MNIST-N, ML-CIFAR-10-N and ML-Digits-N."""

from dataclasses import dataclass, replace

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor

from .image_set import ImageSet, ReadOptions, load_image_set, register_image_set

SIDE = 3
NUM_CELLS = SIDE * SIDE
# The last images of the training set. "val" has them and "fit" the others, so that something can be
# chosen without a look at the test set.
NUM_VAL = {"mnist": 10_000, "cifar10": 5_000, "digits": 287}
SPLITS = ("train", "fit", "val", "test")


@dataclass(frozen=True)
class ImageGrids(ImageSet):
    """Images that are put together when they are asked for, on the device.

    ``images`` are the N small images, (N, C, H, W). Composed image k, (C, 3 H, 3 W), has the small
    image k and M - 1 others, all of different classes, on black.

    Attributes:
        small_labels: (N,) int64 classes of the small images.
        num_parts: M.
        cells_kind: "random" cells, or "fixed" ones: the first M row by row; the middle for M = 1.
        is_fresh: other images are put together in every epoch.
        parts: (N, M) int64, the small images of each composed one.
        cells: (N, M) int64, where they lie, from 0 to 8, row by row.
    """

    small_labels: Tensor
    num_parts: int
    cells_kind: str
    is_fresh: bool
    parts: Tensor
    cells: Tensor

    @classmethod
    def compose(
        cls, small: ImageSet, num_parts: int, *, cells: str = "random", is_fresh: bool = False
    ) -> "ImageGrids":
        """The same composed images whenever it is called.

        Args:
            small: single-label images; the composed ones have their names.
            num_parts: M, at most 9 and at most the number of classes.
            cells: "random" or "fixed".
            is_fresh: see the class.
        """
        empty = small.labels.new_zeros(0)
        grids = cls(
            small.images, empty, small.classes, small.image_names, small.labels, num_parts, cells,
            is_fresh, empty, empty,
        )  # fmt: skip
        return grids._drawn(0)

    def pixels(self, rows: Tensor | slice) -> Tensor:
        parts, cells = self.parts[rows], self.cells[rows]
        _, channels, height, width = self.images.shape
        canvas = self.images.new_zeros(len(parts), NUM_CELLS, channels, height, width)
        image = torch.arange(len(parts), device=cells.device)[:, None]
        canvas[image, cells] = self.images[parts]
        canvas = canvas.view(-1, SIDE, SIDE, channels, height, width).permute(0, 3, 1, 4, 2, 5)
        return canvas.reshape(-1, channels, SIDE * height, SIDE * width)

    def to(self, device: str | torch.device) -> "ImageGrids":
        moved = super().to(device)
        return replace(moved, parts=self.parts.to(device), cells=self.cells.to(device))

    def of_epoch(self, epoch: int) -> "ImageGrids":
        return self._drawn(epoch) if self.is_fresh and epoch > 0 else self

    def _drawn(self, seed: int) -> "ImageGrids":
        generator = torch.Generator().manual_seed(seed)
        number, num_classes = len(self.small_labels), len(self.classes)
        parts = draw_parts(self.small_labels, self.num_parts, num_classes, generator)
        cells = draw_cells(number, self.num_parts, self.cells_kind, generator)
        labels = torch.zeros(number, num_classes, dtype=torch.int8)
        labels.scatter_(1, self.small_labels[parts], 1)
        device = self.images.device
        return replace(
            self, labels=labels.to(device), parts=parts.to(device), cells=cells.to(device)
        )


def draw_parts(
    labels: Tensor, num_parts: int, num_classes: int, generator: torch.Generator
) -> Tensor:
    """(N, M) image k and M - 1 images of pairwise other classes, for labels (N,).

    All sets of other classes have the same chance, and so have all images of a class.
    """
    by_class = labels.argsort(stable=True)
    counts = torch.bincount(labels, minlength=num_classes)
    first = counts.cumsum(0) - counts
    order = torch.rand(len(labels), num_classes, generator=generator)
    order[:, counts == 0] = 2.0
    images = torch.arange(len(labels))
    order[images, labels] = 3.0
    others = order.argsort(dim=1)[:, : num_parts - 1]
    places = torch.rand(others.shape, generator=generator, dtype=torch.float64) * counts[others]
    return torch.cat([images[:, None], by_class[first[others] + places.long()]], dim=1)


def draw_cells(number: int, num_parts: int, kind: str, generator: torch.Generator) -> Tensor:
    """(N, M) different cells of the grid for each image."""
    if kind == "random":
        return torch.rand(number, NUM_CELLS, generator=generator).argsort(dim=1)[:, :num_parts]
    cells = torch.arange(num_parts) if num_parts > 1 else torch.tensor([NUM_CELLS // 2])
    return cells.expand(number, -1)


def _read(kind: str, num_parts: int, split: str, options: ReadOptions) -> ImageGrids:
    small = load_image_set(f"{kind}_{'test' if split == 'test' else 'train'}")
    if split in ("fit", "val"):
        rows = slice(None, -NUM_VAL[kind]) if split == "fit" else slice(-NUM_VAL[kind], None)
        small = replace(
            small,
            images=small.images[rows],
            labels=small.labels[rows],
            image_names=small.image_names[rows],
        )
    return ImageGrids.compose(small, num_parts, cells=options.cells, is_fresh=options.fresh)


def _register(kind: str, num_parts: int, split: str) -> None:
    register_image_set(
        f"ml_{kind}_{num_parts}_{split}",
        lambda options: _read(kind, num_parts, split, options),
        MetadataCatalog.get(f"{kind}_{split if split == 'test' else 'train'}").thing_classes,
        multi_label=True,
    )


for _kind in NUM_VAL:
    for _num_parts in range(1, NUM_CELLS + 1):
        for _split in SPLITS:
            if f"ml_{_kind}_{_num_parts}_{_split}" not in DatasetCatalog.keys():
                _register(_kind, _num_parts, _split)
