"""Images with boxes on disk, and detectors small enough to label them at once."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from PIL import Image

from anchorkit.config import load_config

SMALL = [
    "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.NUM_CLASSES", "3",
    "MODEL.BACKBONE.NAME", "build_resnet_fpn_p6p7_backbone", "MODEL.BACKBONE.FREEZE_AT", "0",
    "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.NORM", "BN", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.RESNETS.OUT_FEATURES", "['res3','res4','res5']",
    "MODEL.FPN.IN_FEATURES", "['res3','res4','res5']", "MODEL.FPN.OUT_CHANNELS", "32",
    "MODEL.ANCHOR_GENERATOR.OFFSET", "0.5",
    "MODEL.ANCHOR_GENERATOR.SIZES", "[[16,22],[32,44],[64,88],[128,176],[256,352]]",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[0.5,1.0,2.0]]",
    "MODEL.SEMI_ANCHORED.NUM_CONVS", "1", "MODEL.RETINANET.NUM_CONVS", "1",
    "MODEL.RETINANET.NORM", "GN",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _forget_data_sets():
    before = set(DatasetCatalog.keys())
    yield
    for name in set(DatasetCatalog.keys()) - before:
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(name, None)


@pytest.fixture(scope="session")
def build_small():
    """Function that builds a detector of three classes from its name and further keys."""

    def build(architecture, *options):
        return build_model(
            load_config("", [*SMALL, "MODEL.META_ARCHITECTURE", architecture, *options])
        )

    return build


@pytest.fixture
def make_image(tmp_path):
    """Function that writes an image of noise and returns its dict, with one box by default."""

    def make(boxes=((10, 12, 40, 50),), classes=None, name="scene.png", size=(90, 70), **more):
        pixels = np.random.default_rng(0).integers(0, 90, (size[1], size[0], 3), dtype=np.uint8)
        path = tmp_path / name
        Image.fromarray(pixels).save(path)
        classes = [0] * len(boxes) if classes is None else classes
        annotations = [
            {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": label}
            for box, label in zip(boxes, classes, strict=True)
        ]
        return {
            "file_name": str(path), "image_id": 7, "width": size[0], "height": size[1],
            "annotations": annotations, **more,
        }  # fmt: skip

    return make


@pytest.fixture
def scenes_config(tmp_path):
    """Path of a config, without architecture, for a set of four scenes with ids 0, 10, 20, 30."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    rng = np.random.default_rng(1)
    images, annotations = [], []
    for index in range(4):
        pixels = rng.integers(0, 90, (64, 64, 3), dtype=np.uint8)
        x, y, width, height = (int(value) for value in rng.integers([0, 0, 15, 15], 32))
        pixels[y : y + height, x : x + width, index % 3] = 220
        Image.fromarray(pixels).save(folder / f"scene_{index}.png")
        images.append(
            {"id": 10 * index, "file_name": f"scene_{index}.png", "width": 64, "height": 64}
        )
        annotations.append({
            "id": index + 1, "image_id": 10 * index, "category_id": index % 3 + 1, "iscrowd": 0,
            "bbox": [x, y, width, height], "area": width * height,
        })  # fmt: skip
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(("red", "green", "blue"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "scenes.json").write_text(json.dumps(content))
    name = f"scenes_{tmp_path.name}"
    cfg = load_config("", [
        *SMALL, "MODEL.META_ARCHITECTURE", "SemiAnchoredRetinaNet",
        "DATASETS.COCO_FORMAT", f"[['{name}', '{tmp_path}/scenes.json', '{folder}']]",
        "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)",
        "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0",
        "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "TEST.NUM_PICTURES", "2",
        "OUTPUT_DIR", str(tmp_path / "output"),
    ])  # fmt: skip
    path = tmp_path / "scenes.yaml"
    path.write_text(cfg.dump())
    return path
