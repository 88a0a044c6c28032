"""Pictures of detections beside ground truth, drawn from the first images of an evaluation."""

import os

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from PIL import Image

from ..checkpoint import write_atomically
from ..data import load_dataset


class PictureWriter(DatasetEvaluator):
    """Writes ``<folder>/<image id>.png`` for the first images that the main process evaluates.

    In a training they are shown in TensorBoard, too.

    Args:
        dataset_name: a registered data set; its dicts give the ground truth.
        folder: made if it does not exist.
        count: number of pictures.
    """

    def __init__(self, dataset_name: str, folder: str, count: int):
        self.dataset_name = dataset_name
        self.folder = folder
        self.count = count
        self.reset()

    def reset(self):
        self._instances = {}

    def process(self, inputs, outputs):
        for image, output in zip(inputs, outputs, strict=True):
            if len(self._instances) < self.count:
                self._instances[image["image_id"]] = output["instances"].to("cpu")

    def evaluate(self) -> None:
        if not comm.is_main_process() or not self._instances:
            return
        # Imported here: matplotlib takes a second that training does not need to wait for.
        from ..visualization import draw_detections

        os.makedirs(self.folder, exist_ok=True)
        metadata = MetadataCatalog.get(self.dataset_name)
        images, _ = load_dataset(self.dataset_name)
        for image in images:
            instances = self._instances.get(image["image_id"])
            if instances is not None:
                picture = draw_detections(image, instances, metadata)
                name = str(image["image_id"]).replace(os.sep, "_")
                write_picture(os.path.join(self.folder, f"{name}.png"), picture)
                show_picture(f"{self.dataset_name}/detections/{name}", picture)


def write_picture(path: str, pixels: np.ndarray) -> None:
    """Write uint8 RGB (H, W, 3) as a PNG file, whole or not at all."""
    picture = Image.fromarray(pixels)
    write_atomically(path, lambda file: picture.save(file, format="png"))


def show_picture(name: str, pixels: np.ndarray) -> None:
    """Show uint8 RGB (H, W, 3) in TensorBoard at the iteration of the training, if there is one."""
    try:
        storage = get_event_storage()
    except AssertionError:  # how detectron2 tells that there is none
        return
    storage.put_image(name, pixels.transpose(2, 0, 1))
