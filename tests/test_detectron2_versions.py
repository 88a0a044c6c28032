"""Where detectron2 v0.6 and today's main differ, what anchorkit relies on holds in both.

Each test runs on the detectron2 that is installed; run the file with another one on PYTHONPATH to
check that.
"""

import importlib.util
import json

import pytest
import torch
from detectron2 import solver
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import SimpleTrainer, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import COCOEvaluator
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_anchor_generator
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

HAS_PKG_RESOURCES = importlib.util.find_spec("pkg_resources") is not None


class OneLevel(Backbone):
    """A backbone with one level of stride 8 that asks for images divisible by 32."""

    size_divisibility = 32

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, stride=8)

    def forward(self, images):
        return {"p3": self.conv(images)}

    def output_shape(self):
        return {"p3": ShapeSpec(channels=4, stride=8)}


def test_the_model_zoo_is_found_or_lacks_what_the_installation_page_says():
    try:
        from detectron2 import model_zoo
    except ModuleNotFoundError as error:
        # main still imports pkg_resources, which setuptools 81 and later does not have.
        assert error.name == "pkg_resources" and not HAS_PKG_RESOURCES
        return
    name = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
    assert model_zoo.get_checkpoint_url(name).endswith("model_final_bfca0b.pkl")
    with pytest.raises(RuntimeError, match="not available in Model Zoo"):
        model_zoo.get_config_file("COCO-Detection/no_such_model.yaml")


def test_a_dense_detector_pads_to_the_backbone_and_normalises():
    model = DenseDetector(
        OneLevel(), nn.Identity(), ["p3"], pixel_mean=[1.0, 2.0, 3.0], pixel_std=[2.0, 2.0, 2.0]
    )
    images = [torch.full((3, 40, 50), 5, dtype=torch.uint8), torch.full((3, 64, 20), 5.0)]
    batch = model.preprocess_image([{"image": image} for image in images])
    assert batch.tensor.shape == (2, 3, 64, 64)
    assert [tuple(size) for size in batch.image_sizes] == [(40, 50), (64, 20)]
    assert batch.tensor[0, :, 0, 0].tolist() == [2.0, 1.5, 1.0]
    assert batch.tensor[0, :, 40:].abs().max() == 0
    assert model.device == torch.device("cpu")


@pytest.mark.parametrize("norm", ["", "BN", "GN"])
@pytest.mark.parametrize("head_class", [RetinaNetHead, FCOSHead])
def test_the_heads_can_be_built_with_every_norm(head_class, norm):
    anchors = {"num_anchors": 1} if head_class is RetinaNetHead else {}
    head = head_class(
        input_shape=[ShapeSpec(channels=64, stride=8)] * 2,
        num_classes=3,
        conv_dims=[64],
        norm=norm,
        **anchors,
    )
    outputs = head([torch.rand(1, 64, 8, 8), torch.rand(1, 64, 4, 4)])
    assert [logits.shape for logits in outputs[0]] == [(1, 3, 8, 8), (1, 3, 4, 4)]


def test_anchors_lie_side_by_side_row_by_row_around_the_centres_of_the_cells():
    generator = DefaultAnchorGenerator(
        sizes=[[16.0]], aspect_ratios=[[1.0, 4.0]], strides=[8], offset=0.5
    )
    (boxes,) = generator([torch.zeros(1, 4, 2, 3)])
    assert isinstance(boxes, Boxes)
    assert generator.num_cell_anchors == [2]
    centres = [(x, y) for y in (4.0, 12.0) for x in (4.0, 12.0, 20.0) for _ in range(2)]
    sizes = [(16.0, 16.0), (8.0, 32.0)] * 6
    expected = [
        [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        for (x, y), (w, h) in zip(centres, sizes, strict=True)
    ]
    torch.testing.assert_close(boxes.tensor, torch.tensor(expected))


def test_the_anchor_generator_of_a_config_takes_its_strides_from_the_features():
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32.0], [64.0]]
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    shapes = [ShapeSpec(channels=4, stride=8), ShapeSpec(channels=4, stride=16)]
    levels = build_anchor_generator(cfg, shapes)([torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 1, 1)])
    assert [len(level) for level in levels] == [12, 3]
    assert levels[0].get_centers()[0].tolist() == [4.0, 4.0]
    assert levels[1].get_centers()[0].tolist() == [8.0, 8.0]


@pytest.fixture
def one_image(tmp_path):
    """Name of a registered COCO data set with one image of 100 x 100 and one box."""
    annotation = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [10, 20, 40, 50]}
    data = {
        "images": [{"id": 7, "file_name": "7.png", "width": 100, "height": 100}],
        "annotations": [{**annotation, "area": 2000, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "one.json").write_text(json.dumps(data))
    register_coco_instances("one_image", {}, str(tmp_path / "one.json"), str(tmp_path))
    DatasetCatalog.get("one_image")
    yield "one_image"
    DatasetCatalog.remove("one_image")
    MetadataCatalog.remove("one_image")


@pytest.mark.parametrize("arguments", [{}, {"use_fast_impl": False}], ids=["default", "official"])
def test_the_coco_evaluator_works_with_and_without_compiled_evaluation(one_image, arguments):
    evaluator = COCOEvaluator(one_image, tasks=("bbox",), distributed=False, **arguments)
    evaluator.reset()
    found = Instances((100, 100))
    found.pred_boxes = Boxes(torch.tensor([[10.0, 20.0, 50.0, 70.0]]))
    found.scores = torch.tensor([0.9])
    found.pred_classes = torch.tensor([0])
    evaluator.process([{"image_id": 7}], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100.0)


class Square(nn.Module):
    """Loss (w - 3)², whatever the data."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, data):
        return {"loss": (self.w - 3) ** 2}


def test_the_simple_trainer_takes_model_data_and_optimizer_and_makes_a_step():
    model = Square()
    trainer = SimpleTrainer(model, [[{}]], torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.iter = 0
    with EventStorage(0) as storage:
        trainer.run_step()
        assert storage.latest()["total_loss"][0] == pytest.approx(9.0)
    assert model.w.item() == pytest.approx(0.6)


def test_a_single_process_keeps_its_model_unwrapped():
    model = Square()
    assert create_ddp_model(model, broadcast_buffers=False, device_ids=None) is model


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR"])
def test_the_learning_rate_warms_up_and_falls_as_in_both_versions(name):
    cfg = get_cfg()
    cfg.SOLVER.LR_SCHEDULER_NAME = name
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 1.0, 100, (50,)
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR = 10, 0.1
    optimizer = torch.optim.SGD(Square().parameters(), lr=1.0)
    scheduler = solver.build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    cosine = [0.5 * (1 + torch.tensor(torch.pi * k / 100).cos().item()) for k in range(100)]
    expected = cosine if name == "WarmupCosineLR" else [1.0] * 50 + [0.1] * 50
    assert rates[0] == pytest.approx(0.1, abs=1e-6)
    assert all(earlier < later for earlier, later in zip(rates[:10], rates[1:11], strict=True))
    assert rates[10:] == pytest.approx(expected[10:], abs=1e-6)


def test_clipping_wraps_the_class_of_an_optimizer():
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    model = Square()
    optimizer_class = solver.build.maybe_add_gradient_clipping(cfg, torch.optim.SGD)
    optimizer = optimizer_class(model.parameters(), lr=1.0)
    model(None)["loss"].backward()
    optimizer.step()
    assert model.w.item() == pytest.approx(0.5, abs=1e-5)


def test_the_state_of_any_scheduler_of_torch_is_kept_in_checkpoints():
    optimizer = torch.optim.SGD(Square().parameters(), lr=1.0)
    hook = hooks.LRScheduler(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 5))
    assert hook.state_dict()["step_size"] == 5
