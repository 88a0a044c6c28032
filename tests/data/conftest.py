"""A small COCO-format set on disk, made anew for each test and forgotten by detectron2 after it."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from anchorkit.config import load_config
from anchorkit.data import register_coco_format

_numbers = itertools.count()


@pytest.fixture
def make_set(tmp_path):
    """Function that writes a set and returns its name, files, content and a config that uses it.

    Image i has the id 10 * i + 5, is 32 x 24 pixels (odd ones 24 x 32) and holds one box.
    """
    names = []

    def make(num_images=6, change=None, register=True, **options):
        name = f"made_for_test_{next(_numbers)}"
        names.append(name)
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(0)
        images, annotations = [], []
        for i in range(num_images):
            width, height = (32, 24) if i % 2 == 0 else (24, 32)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
            image = {"file_name": f"{i}.png", "width": width, "height": height}
            images.append({"id": 10 * i + 5, **image})
            box = {"bbox": [i, 2, 10, 8], "area": 80, "iscrowd": 0, "id": i + 1}
            annotations.append({**box, "image_id": 10 * i + 5, "category_id": 7 if i % 2 else 3})
        categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        if change:
            change(content)
        json_file = tmp_path / f"{name}.json"
        json_file.write_text(json.dumps(content))
        cfg = load_config("", ["OUTPUT_DIR", str(tmp_path / "output")])
        cfg.DATASETS.COCO_FORMAT = [[name, str(json_file), str(folder)]]
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
        cfg.SOLVER.IMS_PER_BATCH = 2
        cfg.DATALOADER.NUM_WORKERS = 0
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.SEED = (24, 32, 40), 24, 3
        cfg.merge_from_list([part for option in options.items() for part in option])
        if register:
            register_coco_format(cfg)
        return SimpleNamespace(
            name=name, json_file=json_file, folder=folder, content=content, cfg=cfg
        )

    yield make
    for name in names:
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(name, None)
