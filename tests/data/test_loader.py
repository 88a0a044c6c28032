import itertools
import logging
import random

import numpy as np
import pytest
import torch
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm
from PIL import Image

from anchorkit.data import build_test_loader, build_train_loader
from anchorkit.data.loader import TrainBatches
from anchorkit.errors import UserError


def signatures(loader, num_batches):
    """What a model would see of the first batches: ids, pixels and boxes."""
    batches = []
    for batch in itertools.islice(iter(loader), num_batches):
        batches.append(
            [
                (
                    sample["image_id"],
                    tuple(sample["image"].shape),
                    int(sample["image"].sum()),
                    sample["instances"].gt_boxes.tensor.tolist(),
                )
                for sample in batch
            ]
        )
    return batches


def test_the_stream_is_the_same_with_and_without_worker_processes(make_set):
    cfg = make_set(7).cfg
    without = signatures(build_train_loader(cfg), 9)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert signatures(build_train_loader(cfg), 9) == without
    cfg.SEED = 4
    assert signatures(build_train_loader(cfg), 9) != without


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_start_at_iteration_n_continues_the_stream(make_set, grouping, accumulation):
    cfg = make_set(7).cfg
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    cfg.SOLVER.ACCUMULATION_STEPS = accumulation
    whole = signatures(build_train_loader(cfg), 12)
    assert (
        signatures(build_train_loader(cfg, start_iter=4), 2)
        == (whole[4 * accumulation : 4 * accumulation + 2])
    )


def test_the_stream_does_not_depend_on_or_change_global_random_states(make_set):
    cfg = make_set(7).cfg
    np.random.seed(1)
    random.seed(1)
    before = np.random.get_state()[1].tolist(), random.getstate()
    first = signatures(build_train_loader(cfg), 4)
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before
    np.random.seed(2)
    random.seed(2)
    assert signatures(build_train_loader(cfg), 4) == first


def test_augmentation_differs_from_epoch_to_epoch(make_set):
    cfg = make_set(2).cfg
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    shapes = {sample[1:3] for batch in signatures(build_train_loader(cfg), 10) for sample in batch}
    assert len(shapes) > 4


def indices(batches, number):
    return [[index for _, index in batch] for batch in itertools.islice(iter(batches), number)]


def test_every_epoch_shows_every_image_once_over_all_processes():
    size, world_size = 10, 3
    streams = []
    for rank in range(world_size):
        batches = TrainBatches(np.ones(size), 1, seed=0, rank=rank, world_size=world_size)
        streams.append([batch[0] for batch in itertools.islice(iter(batches), 20)])
    merged = sorted(itertools.chain(*streams))
    assert [position for position, _ in merged] == list(range(60))
    epochs = [[index for _, index in merged[10 * e : 10 * e + 10]] for e in range(6)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_a_batch_holds_images_of_one_orientation():
    is_wide = np.arange(11) % 3 == 0
    for batch in indices(TrainBatches(np.ones(11), 4, seed=0, is_wide=is_wide), 50):
        assert len({bool(is_wide[index]) for index in batch}) == 1


def test_repeat_factors_are_the_mean_numbers_of_repeats():
    factors = np.array([1.0, 2.0, 1.5])
    stream = itertools.chain(*indices(TrainBatches(factors, 9, seed=0), 500))
    shares = np.bincount(list(stream)) / 4500
    assert shares == pytest.approx(factors / factors.sum(), abs=0.01)


def test_rare_classes_are_repeated_by_the_repeat_factor_sampler(make_set):
    def make_rare(content):
        for annotation in content["annotations"][1:]:
            annotation["category_id"] = 3
        content["annotations"][0]["category_id"] = 7

    cfg = make_set(16, change=make_rare).cfg
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 1.0
    factors = build_train_loader(cfg).batch_sampler.repeat_factors
    assert factors[0] == pytest.approx(4.0) and factors[1:].max() < 1.1


def test_an_unknown_sampler_and_an_indivisible_batch_are_user_errors(make_set, monkeypatch):
    cfg = make_set().cfg
    cfg.DATALOADER.SAMPLER_TRAIN = "NoSuchSampler"
    with pytest.raises(UserError, match="DATALOADER.SAMPLER_TRAIN is 'NoSuchSampler'"):
        build_train_loader(cfg)
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(UserError, match="SOLVER.IMS_PER_BATCH is 2; .* multiple of the 3"):
        build_train_loader(cfg)


def test_the_processes_share_a_batch(make_set, monkeypatch):
    cfg = make_set(8).cfg
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    seen = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        seen += [s[0] for batch in signatures(build_train_loader(cfg), 2) for s in batch]
    assert sorted(seen) == [10 * i + 5 for i in range(8)]


def test_images_without_boxes_are_filtered_as_the_config_says(make_set):
    cfg = make_set(6, change=lambda content: content["annotations"].pop(0)).cfg
    assert len(build_train_loader(cfg).dataset) == 5
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert len(build_train_loader(cfg).dataset) == 6


def test_a_set_without_any_box_is_a_user_error(make_set):
    cfg = make_set(2, change=lambda content: content["annotations"].clear()).cfg
    with pytest.raises(UserError, match="has no image with a usable box"):
        build_train_loader(cfg)


def test_strict_stops_at_an_unusable_annotation(make_set):
    cfg = make_set(change=lambda c: c["annotations"][1].update(bbox=[1, 1, 0, 4])).cfg
    assert len(build_train_loader(cfg).dataset) == 5
    cfg.DATASETS.STRICT = True
    with pytest.raises(UserError, match="DATASETS.STRICT allows none"):
        build_train_loader(cfg)


def break_files(made):
    """Damage four of the image files in different ways; returns their names."""
    folder = made.folder
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "1.png").write_bytes(b"")
    (folder / "2.png").unlink()
    Image.new("RGB", (50, 50)).save(folder / "3.png")
    return [str(folder / f"{i}.png") for i in range(4)]


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_replaced_named_once_and_counted(make_set, caplog, workers):
    made = make_set(10)
    names = break_files(made)
    made.cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_train_loader(made.cfg)
    with caplog.at_level(logging.WARNING, logger="anchorkit"):
        batches = signatures(loader, 30)
    assert all(len(batch) == 2 for batch in batches)
    seen = {sample[0] for batch in batches for sample in batch}
    assert seen == {10 * i + 5 for i in range(4, 10)}
    assert loader.dataset.num_broken == 4
    if workers == 0:  # records of worker processes go to their own handlers
        assert len(caplog.records) == 4
        assert all(name in caplog.text for name in names)
        assert "broken files so far: 4" in caplog.text
    assert signatures(build_train_loader(made.cfg), 30) == batches


def test_only_broken_images_are_a_user_error(make_set):
    made = make_set(2)
    for path in made.folder.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="images in a row could not be read"):
        next(iter(build_train_loader(made.cfg)))


def test_a_fault_of_the_mapper_is_not_taken_for_a_broken_image(make_set):
    loader = build_train_loader(make_set().cfg)
    mapper = loader.dataset.mapper

    def fail(record):
        raise ZeroDivisionError("a mistake in an augmentation")

    fail.image_format = mapper.image_format
    loader.dataset.mapper = fail
    with pytest.raises(ZeroDivisionError):
        next(iter(loader))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_evaluation_sees_every_image_once_in_order_and_passes_over_broken_ones(
    make_set, caplog, batch_size
):
    made = make_set(10)
    made.cfg.TEST.IMS_PER_BATCH = batch_size
    loader = build_test_loader(made.cfg, made.name)
    ids = [[sample["image_id"] for sample in batch] for batch in loader]
    assert sum(ids, []) == [10 * i + 5 for i in range(10)]
    assert max(map(len, ids)) == batch_size and len(loader) == len(ids)

    names = break_files(made)
    loader = build_test_loader(made.cfg, made.name)
    batches = []

    class Collect(DatasetEvaluator):
        def process(self, inputs, outputs):
            batches.append([sample["image_id"] for sample in inputs])

    with caplog.at_level(logging.WARNING, logger="anchorkit"):
        inference_on_dataset(torch.nn.Identity(), loader, Collect())
    assert sum(batches, []) == [10 * i + 5 for i in range(4, 10)] and all(batches)
    assert loader.dataset.num_broken == 4
    assert all(name in caplog.text for name in names)
    assert "evaluated as an image without detections" in caplog.text
