"""Training labels of several detectors on one image, and those of the FCOS family alone."""

import pytest
import torch
from detectron2.data import DatasetMapper

from anchorkit.visualization import draw_label_comparison, label_levels

POINTS = ("MODEL.FCOS.NUM_CONVS", "1", "MODEL.FCOS.SIZE_RANGE_ENDS", "[16.,32.,64.,128.]")


@pytest.fixture
def sample(make_image):
    image = make_image(boxes=((4, 4, 60, 44), (50, 30, 88, 68)), classes=[0, 2])
    return DatasetMapper(is_train=True, augmentations=[], image_format="RGB")(image)


def draw(models, sample):
    labels = [(name, label_levels(model, sample)) for name, model in models]
    pixels = sample["image"].permute(1, 2, 0).numpy()
    return labels, draw_label_comparison(pixels, labels, ["a", "b", "c"], title="one image")


def test_each_detector_has_a_row_with_a_cell_for_each_positive_location(build_small, sample):
    models = [
        ("hard", build_small("FCOS", *POINTS)),
        ("smooth", build_small("FCOS", *POINTS, "MODEL.DSLA.ENABLED", "True")),
    ]
    labels, figure = draw(models, sample)
    # A box is two frames and, in the first column, a plate.
    num_levels = len(figure.axes) // 2
    cells = sum(len(axes.patches) for axes in figure.axes) - 2 * (num_levels * 2 * 2 + 2)
    positives = [int(lv.is_positive.sum()) for _, image in labels for lv in image.levels]
    assert cells == sum(positives) > 0


def test_labels_of_the_fcos_family_are_the_assigners(build_small, sample):
    hard = label_levels(build_small("FCOS", *POINTS), sample)
    smooth = label_levels(build_small("FCOS", *POINTS, "MODEL.DSLA.ENABLED", "True"), sample)
    values = torch.cat([level.scores[level.is_positive] for level in hard.levels])
    assert (values == 1).all()
    values = torch.cat([level.scores[level.is_positive] for level in smooth.levels])
    assert values.max() == 1 and 0 < values.min() < 0.5
    assert hard.best_iou.isnan().all() and all(level.num_anchors == 0 for level in hard.levels)
    assert [tuple(level.labels.shape) for level in hard.levels] == [
        (12, 12), (6, 6), (3, 3), (2, 2), (1, 1)
    ]  # fmt: skip


def test_shares_of_anchors_are_not_training_labels(build_small, sample):
    labels = label_levels(build_small("SemiAnchoredRetinaNet"), sample)
    for level in labels.levels:
        assert torch.equal(labels.training_labels(level), level.is_positive.float())


def test_detectors_with_other_levels_are_refused(build_small, sample):
    four = ("MODEL.FCOS.IN_FEATURES", "['p3','p4','p5','p6']",
            "MODEL.FCOS.SIZE_RANGE_ENDS", "[16.,32.,64.]")  # fmt: skip
    models = [("five", build_small("FCOS", *POINTS)), ("four", build_small("FCOS", *four))]
    with pytest.raises(ValueError, match="the detectors' levels differ"):
        draw(models, sample)
