"""A batch is labelled in one pass: no image may see another's boxes."""

import pytest
import torch

from anchorkit.assigners import (
    DSLAAssigner,
    FCOSAssigner,
    FoveaBoxAssigner,
    SemiAnchoredAssigner,
    SSDAssigner,
    level_size_ranges,
)
from tests.reference.scenes import (
    ONE_SHAPE,
    SIX_SHAPES,
    STRIDES,
    grid_locations,
    instances,
    pyramid,
    random_scene,
)

C = 3
POINTS = {"num_classes": C, "size_ranges": level_size_ranges([16.0, 32.0]), "strides": STRIDES}
CLOSED = POINTS | {"size_ranges": ((1.0, 32.0), (8.0, 64.0), (16.0, 128.0))}
ANCHORS = pyramid(shapes=[SIX_SHAPES[:2], SIX_SHAPES, ONE_SHAPE])
LOCATIONS = grid_locations(strides=STRIDES)


def semi_anchored(**options):
    return SemiAnchoredAssigner(num_classes=C, **options)


CASES = {
    "semi-anchored": (semi_anchored(gamma=0.1, iou_thresholds=(0.4, 0.5)), ANCHORS),
    "semi-anchored, all anchors": (
        semi_anchored(regressed_anchors="all", regression_target="location"), ANCHORS,
    ),
    "semi-anchored, labels of FCOS": (
        semi_anchored(location_labeler=FCOSAssigner(shrink=0.5, **POINTS)), ANCHORS,
    ),
    "SSD": (SSDAssigner(num_classes=C), ANCHORS),
    "FCOS": (FCOSAssigner(**POINTS), LOCATIONS),
    "FCOSv2": (FCOSAssigner(center_sampling_radius=1.5, **POINTS), LOCATIONS),
    "FoveaBox": (FoveaBoxAssigner(**CLOSED), LOCATIONS),
    "DSLA": (DSLAAssigner(**POINTS), LOCATIONS),
    "DSLA on FoveaBox": (DSLAAssigner(size="sqrt_area", **CLOSED), LOCATIONS),
}  # fmt: skip


def fields(assignment, first_box=0):
    """All tensors of an assignment by name, and boxes counted from ``first_box``."""
    if hasattr(assignment, "locations"):
        parts = {
            f"{part}_{name}": value
            for part in ("locations", "anchors")
            for name, value in vars(getattr(assignment, part)).items()
        }
        parts["box_gt_index"] = assignment.box_gt_index
    else:
        parts = dict(vars(assignment))
    return {
        name: torch.where(value >= 0, value + first_box, -1) if "gt_index" in name else value
        for name, value in parts.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_images_are_labelled_together_as_one_by_one(name):
    assigner, priors = CASES[name]
    scenes = [
        instances(*random_scene(0)),
        instances(torch.zeros(0, 4), []),
        instances(*random_scene(1, count=9)),
    ]
    together = fields(assigner.label_images(priors, scenes))
    first_box, alone = 0, []
    for scene in scenes:
        alone.append(fields(assigner(priors, scene), first_box))
        first_box += len(scene)
    assert (together[next(n for n in together if "gt_index" in n)] >= len(scenes[0])).any()
    for field, value in together.items():
        assert torch.equal(value, torch.cat([one[field] for one in alone])), field


def test_anchors_know_their_location_among_those_of_all_images():
    scenes = [instances(*random_scene(seed)) for seed in range(2)]
    together = semi_anchored().label_images(ANCHORS, scenes).anchor_location
    alone = semi_anchored()(ANCHORS, scenes[0]).anchor_location
    assert torch.equal(together, torch.cat([alone, alone + alone.max() + 1]))
