"""Labels level by level, checked against plain loops, and the pictures and counts of them."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import nn

from anchorkit.errors import UserError
from anchorkit.visualization import (
    AssignmentStatistics,
    ImageLabels,
    draw_assignment,
    label_levels,
    level_labels,
    save_figure,
)
from anchorkit.visualization.level_labels import feature_maps

BOXES = [[8.0, 10.0, 30.0, 34.0], [40.0, 20.0, 100.0, 90.0], [50.0, 55.0, 62.0, 69.0]]
CLASSES = [0, 2, 1]
NAMES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def semi_anchored(build_small):
    return build_small("SemiAnchoredRetinaNet")


@pytest.fixture(scope="module")
def retinanet(build_small):
    return build_small("BaselineRetinaNet")


def sample_of(boxes=BOXES, classes=CLASSES, size=(96, 120)):
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    image = torch.full((3, *size), 80, dtype=torch.uint8)
    return {"image": image, "instances": instances}


def picture_of(labels, **options):
    image = np.full((96, 120, 3), 80, dtype=np.uint8)
    figure = draw_assignment(image, labels, NAMES, **options)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


@pytest.mark.parametrize("size", [(96, 120), (65, 33)])
def test_feature_maps_have_the_shapes_of_the_real_ones(semi_anchored, size):
    image = torch.zeros(3, *size)
    images = semi_anchored.preprocess_image([{"image": image}])
    with torch.no_grad():
        features = semi_anchored.backbone(images.tensor)
    expected = [features[name].shape for name in semi_anchored.head_in_features]
    assert [maps.shape for maps in feature_maps(semi_anchored, image)] == expected


def test_semi_anchored_levels_hold_the_assigners_labels_and_the_shares_of_eq_1(semi_anchored):
    sample = sample_of()
    anchors = semi_anchored.grid_anchors(feature_maps(semi_anchored, sample["image"]))
    assignment = semi_anchored.assigner(anchors, sample["instances"])
    labels = label_levels(semi_anchored, sample)
    flat = torch.cat([level.labels.flatten() for level in labels.levels])
    assert torch.equal(flat, assignment.locations.labels)
    scores = torch.cat([level.scores.flatten() for level in labels.levels])
    for location, label in enumerate(flat.tolist()):
        votes = assignment.anchors.labels[assignment.anchor_location == location].tolist()
        expected = votes.count(label) / len(votes) if label < 3 else 0.0
        assert scores[location].item() == pytest.approx(expected)
    assert (flat < 3).sum() >= 5


@pytest.mark.parametrize("kind", ["semi_anchored", "retinanet"])
def test_the_best_anchor_is_that_of_highest_iou_at_the_location(kind, request):
    model, sample = request.getfixturevalue(kind), sample_of()
    labels = label_levels(model, sample)
    features = feature_maps(model, sample["image"])
    num_seen = 0
    for level, anchors in zip(labels.levels, model.anchor_generator(features), strict=True):
        height, width = level.labels.shape
        table = pairwise_iou(anchors, sample["instances"].gt_boxes).view(height, width, -1, 3)
        for row, column in level.is_positive.nonzero().tolist():
            iou = table[row, column, :, level.gt_index[row, column]]
            assert level.best_iou[row, column].item() == pytest.approx(iou.max().item(), abs=1e-6)
            box = Boxes(level.best_boxes[row, column][None])
            gt_box = sample["instances"].gt_boxes[int(level.gt_index[row, column])]
            assert pairwise_iou(box, gt_box).item() == pytest.approx(iou.max().item(), abs=1e-6)
            x, y = level.centers[row, column].tolist()
            assert box.get_centers()[0].tolist() == pytest.approx([x, y], abs=1e-3)
            num_seen += 1
        assert level.best_boxes[~level.is_positive].isnan().all()
    assert num_seen >= 5
    table = torch.stack([
        pairwise_iou(boxes, sample["instances"].gt_boxes).max(dim=0).values
        for boxes in model.anchor_generator(features)
    ])  # fmt: skip
    assert torch.allclose(labels.best_iou, table.max(dim=0).values, atol=1e-6)


def test_a_retinanet_location_is_positive_where_one_of_its_anchors_is(retinanet):
    sample = sample_of()
    labels = label_levels(retinanet, sample)
    anchors = retinanet.anchor_generator(feature_maps(retinanet, sample["image"]))
    (anchor_labels,), _ = retinanet.label_anchors(anchors, [sample["instances"]])
    table = anchor_labels.view(-1, 6)
    for location, votes in enumerate(table.tolist()):
        flat = torch.cat([level.labels.flatten() for level in labels.levels])
        classes = {vote for vote in votes if 0 <= vote < 3}
        got = flat[location].item()
        assert (got in classes) if classes else got == (-1 if -1 in votes else 3)
    positive = int(((table >= 0) & (table < 3)).sum())
    assert sum(level.num_positive_anchors for level in labels.levels) == positive > 0


def test_labels_by_fcos_have_the_score_of_their_training_label(build_small):
    model = build_small("SemiAnchoredRetinaNet", "MODEL.SEMI_ANCHORED.LABELING", "fcos")
    labels = label_levels(model, sample_of())
    scores = torch.cat([level.scores[level.is_positive] for level in labels.levels])
    assert len(scores) > 10 and (scores == 1).all()


def test_a_box_that_no_anchor_touches_has_no_location_and_is_listed(semi_anchored):
    far = [[5000.0, 5000.0, 5010.0, 5010.0]]
    labels = label_levels(semi_anchored, sample_of(BOXES + far, [*CLASSES, 0]))
    assert labels.has_location.tolist() == [True, True, True, False]
    assert labels.best_iou[3] == 0
    listed = picture_of(labels)
    complete = picture_of(label_levels(semi_anchored, sample_of()))
    assert listed.shape[0] > complete.shape[0]


@pytest.mark.parametrize("kind", ["semi_anchored", "retinanet"])
def test_an_image_without_boxes_has_no_positive_location_and_can_be_drawn(kind, request):
    labels = label_levels(request.getfixturevalue(kind), sample_of([], []))
    assert not any(level.is_positive.any() for level in labels.levels)
    assert picture_of(labels).std() > 0


def test_another_kind_of_model_is_named():
    with pytest.raises(UserError, match="Linear cannot be drawn; those of .*RetinaNet"):
        label_levels(nn.Linear(1, 1), {})


def test_pictures_are_the_same_for_the_same_labels_and_differ_otherwise(semi_anchored):
    first = picture_of(label_levels(semi_anchored, sample_of()))
    assert first.dtype == np.uint8 and first.shape[1] == 504 and first.shape[2] == 3
    assert np.array_equal(first, picture_of(label_levels(semi_anchored, sample_of())))
    for boxes, classes in (
        (BOXES, [1, 2, 1]),
        ([[16.0, 10.0, 38.0, 34.0], *BOXES[1:]], CLASSES),
        (BOXES[:2], CLASSES[:2]),
    ):
        other = picture_of(label_levels(semi_anchored, sample_of(boxes, classes)))
        assert other.shape != first.shape or not np.array_equal(first, other)


def test_fewer_columns_make_a_higher_page(semi_anchored):
    labels = label_levels(semi_anchored, sample_of())
    assert picture_of(labels, columns=2).shape[0] > 1.5 * picture_of(labels).shape[0]


def test_a_detector_without_anchors_is_drawn_from_labels_and_soft_scores():
    ys, xs = torch.meshgrid(torch.arange(12) * 8 + 4.0, torch.arange(15) * 8 + 4.0, indexing="ij")
    centers = torch.stack([xs, ys], dim=2)
    gt_index = torch.full((180,), -1)
    gt_index[[20, 21, 36]] = 0
    labels, scores = torch.where(gt_index == 0, 0, 3), torch.where(gt_index == 0, 0.4, 0.0)
    scores[21], labels[50] = 0.9, -1
    gt_instances = sample_of(BOXES[:1], [0])["instances"]
    level = level_labels("p3", 8, centers, labels, scores, gt_index, gt_instances)
    assert level.num_anchors == 0 and (level.best_iou == 0).all()
    image = ImageLabels(
        [level], gt_instances.gt_boxes.tensor, gt_instances.gt_classes, torch.zeros(1),
        torch.ones(1, dtype=torch.bool), "its label",
    )  # fmt: skip
    soft = picture_of(image)
    level.scores[level.is_positive] = 0.6
    assert not np.array_equal(soft, picture_of(image))


@pytest.mark.parametrize("ending, start", [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_a_figure_is_written_in_the_format_of_its_name(ending, start, semi_anchored, tmp_path):
    image = np.full((96, 120, 3), 80, dtype=np.uint8)
    figure = draw_assignment(image, label_levels(semi_anchored, sample_of()), NAMES, title="50$ 1$")
    path = tmp_path / f"figure.{ending}"
    save_figure(figure, str(path))
    content = path.read_bytes()
    assert content.startswith(start)
    # Type 3 fonts are pictures of letters, which publishers refuse.
    assert ending == "png" or (b"/CIDFontType2" in content and b"/Type3" not in content)


def test_statistics_add_up_over_images(semi_anchored):
    statistics = AssignmentStatistics()
    labels = label_levels(semi_anchored, sample_of())
    for image in (labels, label_levels(semi_anchored, sample_of([], []))):
        statistics.add(image)
    assert (statistics.num_images, statistics.num_boxes) == (2, 3)
    positive = sum(int(level.is_positive.sum()) for level in labels.levels)
    locations = 2 * sum(level.labels.numel() for level in labels.levels)
    anchors = sum(level.num_positive_anchors for level in labels.levels)
    assert sum(counts.positive for counts in statistics.levels.values()) == positive
    table = statistics.table()
    assert f"1 : {locations / positive:.0f}" in table
    assert f"1 : {6 * locations / anchors:.0f}" in table
    assert f"1 : {anchors / positive:.2f}" in table
    poor = int((labels.best_iou < 0.5).sum())
    assert f"{poor} ({100 * poor / 3:.1f} %)" in table


def test_statistics_of_no_positive_at_all_are_a_table_too(semi_anchored):
    statistics = AssignmentStatistics()
    statistics.add(label_levels(semi_anchored, sample_of([], [])))
    assert "0 : " in statistics.table()
