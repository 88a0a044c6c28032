"""What every dense detector must do, whatever its method. Tests of each detector call these.

A detector is built to give detections without training: its score threshold must be low enough
that :func:`check_detections` sees some.
"""

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from tests.reference.scenes import instances

BOXES = [[8.0, 8.0, 40.0, 36.0], [20.0, 16.0, 60.0, 60.0]]


def make_input(
    boxes=BOXES, classes=None, *, num_classes, size=(64, 64), original_size=None, seed=0
):
    """One image of noise, as detectron2's data loader hands it over.

    Args:
        boxes: M boxes in pixels of the network's input, none for an empty image.
        classes: M classes; 0, 1, 2 ... in turn unless given.
        size: height and width of the network's input.
        original_size: height and width of the file, in which detections are expected.
    """
    generator = torch.Generator().manual_seed(seed)
    if classes is None:
        classes = [i % num_classes for i in range(len(boxes))]
    height, width = original_size or size
    return {
        "image": torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8),
        "height": height,
        "width": width,
        "image_id": seed,
        "instances": instances(boxes, classes, size),
    }


def training_losses(model, inputs):
    """The dict of losses of one training step, checked: finite scalars that have a graph."""
    model.train()
    with EventStorage():
        losses = model(inputs)
    assert isinstance(losses, dict) and losses
    for name, loss in losses.items():
        assert name.startswith("loss"), f"{name}: detectron2 adds up what a model returns"
        assert loss.shape == (), f"{name} has shape {tuple(loss.shape)}"
        assert loss.dtype == torch.float32, f"{name} is {loss.dtype}"
        assert torch.isfinite(loss), f"{name} is {loss.item()}"
        assert loss.requires_grad, f"{name} has no graph"
    return losses


def check_gradients(model, inputs):
    """Every parameter that is trained gets a finite gradient; DDP waits for all of them."""
    model.zero_grad(set_to_none=True)
    losses = training_losses(model, inputs)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} has no gradient"
            assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"
    return losses


def check_empty_images(model, *, num_classes):
    """Batches with no box at all, and with boxes in some of the images, can be learnt from."""
    empty = make_input([], num_classes=num_classes)
    full = make_input(num_classes=num_classes, seed=1)
    check_gradients(model, [empty, empty])
    losses = check_gradients(model, [empty, full])
    swapped = training_losses(model, [full, empty])
    for name in losses:
        torch.testing.assert_close(losses[name], swapped[name], rtol=1e-4, atol=1e-5)


def detect(model, inputs):
    """Detections of a batch, in evaluation."""
    model.eval()
    with torch.no_grad():
        return model(inputs)


def check_detections(model, *, num_classes):
    """Detections are in pixels of the original images, in order of score, of known classes."""
    inputs = [
        make_input(num_classes=num_classes, size=(64, 64), original_size=(128, 96)),
        make_input(num_classes=num_classes, size=(40, 72), original_size=(20, 36), seed=1),
    ]
    outputs = detect(model, inputs)
    assert len(outputs) == len(inputs)
    for output, one_input in zip(outputs, inputs, strict=True):
        found = output["instances"]
        height, width = found.image_size
        assert (height, width) == (one_input["height"], one_input["width"])
        assert len(found) > 0, "build the detector with a score threshold that lets something pass"
        boxes = found.pred_boxes.tensor
        assert boxes.shape == (len(found), 4) and boxes.dtype == torch.float32
        assert (boxes >= 0).all() and (boxes[:, 0::2] <= width).all()
        assert (boxes[:, 1::2] <= height).all() and (boxes[:, :2] <= boxes[:, 2:]).all()
        assert found.scores.shape == (len(found),) and found.scores.dtype == torch.float32
        assert (found.scores.diff() <= 0).all() and found.scores.max() <= 1
        assert found.pred_classes.shape == (len(found),)
        assert found.pred_classes.dtype == torch.int64
        assert ((found.pred_classes >= 0) & (found.pred_classes < num_classes)).all()
        assert not found.scores.requires_grad and not boxes.requires_grad


def check_detections_need_no_ground_truth(model, *, num_classes):
    """Evaluation looks neither at the boxes of its input nor at the rest of its batch."""
    first, second = (make_input(num_classes=num_classes, seed=seed) for seed in (0, 1))
    bare = {key: value for key, value in first.items() if key != "instances"}
    alone, with_truth = detect(model, [bare])[0], detect(model, [first])[0]
    in_batch = detect(model, [second, first])[1]
    assert_same_detections(alone, with_truth)
    assert_same_detections(alone, in_batch, tolerance=1e-3)


def assert_same_detections(first, second, tolerance=0.0):
    """The best ten detections are the same; ``tolerance`` in pixels and in score."""
    first, second = first["instances"][:10], second["instances"][:10]
    assert first.pred_classes.tolist() == second.pred_classes.tolist()
    options = {"rtol": 0.0, "atol": tolerance}
    torch.testing.assert_close(first.scores, second.scores, **options)
    torch.testing.assert_close(first.pred_boxes.tensor, second.pred_boxes.tensor, **options)


def check_modes(model, *, num_classes):
    """Training gives losses, evaluation gives detections, and one does not disturb the other."""
    inputs = [make_input(num_classes=num_classes)]
    first = detect(model, inputs)
    assert isinstance(first, list) and set(first[0]) == {"instances"}
    momenta = [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # or the step would change the statistics, as it should
    assert isinstance(training_losses(model, inputs), dict)
    assert_same_detections(first[0], detect(model, inputs)[0])
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum


def check_repeatable(model, *, num_classes):
    """The same input gives the same losses and the same detections, to the last bit."""
    inputs = [make_input(num_classes=num_classes), make_input(num_classes=num_classes, seed=1)]
    first, second = training_losses(model, inputs), training_losses(model, inputs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    before = detect(model, inputs)
    for one, other in zip(before, detect(model, inputs), strict=True):
        assert_same_detections(one, other)


def check_autocast(model, *, num_classes):
    """Under bfloat16 autocast the losses are float32, finite and close to those without it."""
    inputs = [make_input(num_classes=num_classes), make_input([], num_classes=num_classes, seed=1)]
    plain = training_losses(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = training_losses(model, inputs)
    for name, loss in plain.items():
        torch.testing.assert_close(mixed[name], loss, rtol=0.1, atol=0.02)


def check_autocast_detections(model, *, num_classes):
    """Under bfloat16 autocast boxes and scores are float32: half precision makes scores tie."""
    inputs = [make_input(num_classes=num_classes)]
    with torch.autocast("cpu", torch.bfloat16):
        found = detect(model, inputs)[0]["instances"]
    assert len(found) > 0
    assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32


def check_learns_one_batch(model, *, num_classes, steps=8, learning_rate=1e-3):
    """The loss falls on a batch that is seen again and again."""
    inputs = [make_input(num_classes=num_classes), make_input(num_classes=num_classes, seed=1)]
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    totals = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(training_losses(model, inputs).values())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < 0.8 * totals[0], totals


CONTRACTS = (
    check_empty_images,
    check_detections,
    check_detections_need_no_ground_truth,
    check_modes,
    check_repeatable,
    check_autocast,
    check_autocast_detections,
    check_learns_one_batch,
)
