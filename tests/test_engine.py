"""The parts of the training command, each alone: step, average, checkpoints, evaluation, launch."""

import argparse
import json
import os
import pickle
import platform
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from anchorkit.checkpoint import Checkpointer, read_checkpoint, write_atomically
from anchorkit.config import load_config
from anchorkit.errors import UserError
from anchorkit.evaluation import build_evaluator, write_tables
from anchorkit.hooks import Evaluation, Stopping, WeightAverage
from anchorkit.launch import launch
from anchorkit.training_step import TrainingStep


class Regressor(nn.Module):
    """A model with detectron2's contract: list of dicts in, dict of losses out."""

    def __init__(self, num_outputs: int = 2):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.GroupNorm(2, 8), nn.ReLU())
        self.head = nn.Linear(8, num_outputs)
        self.seen_dtypes = set()

    def forward(self, images):
        outputs = self.head(self.body(torch.stack([image["x"] for image in images])))
        self.seen_dtypes.add(outputs.dtype)
        return {"loss_square": (outputs.float() ** 2).mean(), "loss_sum": outputs.float().mean()}


def make_images(count, bad=()):
    generator = torch.Generator().manual_seed(0)
    images = []
    for index in range(count):
        x = torch.randn(3, generator=generator)
        if index in bad:
            x = x * float("nan")
        images.append({"x": x, "image_id": index, "file_name": f"image_{index}.png"})
    return images


def make_step(model, batches, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments = {"accumulation_steps": 1, "use_amp": False, "seed": 0, **options}
    step = TrainingStep(model, optimizer, **arguments)
    step.start(batches)
    return step


def make_model(num_outputs: int = 2) -> Regressor:
    torch.manual_seed(0)
    return Regressor(num_outputs)


def test_accumulating_four_batches_equals_one_batch_four_times_as_large():
    images = make_images(8)
    large, small = make_model(), make_model()
    make_step(large, [images]).run(0)
    make_step(small, [images[i : i + 2] for i in (0, 2, 4, 6)], accumulation_steps=4).run(0)
    initial = make_model().state_dict()
    for name, value in large.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], value)
        assert not torch.equal(value, initial[name])


def test_logged_losses_are_means_over_iterations_and_batches():
    images = make_images(4)
    model = make_model()
    step = make_step(model, [images[:2], images[2:]] * 2, accumulation_steps=2)
    step.optimizer.param_groups[0]["lr"] = 0.0
    with torch.no_grad():
        expected = np.mean([float(model(images[i : i + 2])["loss_square"]) for i in (0, 2)])
    with EventStorage() as storage:
        step.run(0)
        step.run(1)
        step.write_metrics(1)
    logged = {name: value for name, (value, _) in storage.latest().items()}
    assert logged["loss_square"] == pytest.approx(expected, rel=1e-5)
    assert logged["total_loss"] == pytest.approx(logged["loss_square"] + logged["loss_sum"])
    assert logged["images_per_second"] > 0


def test_a_loss_that_is_not_finite_is_found_later_with_its_iteration_and_images():
    images = make_images(6, bad={3})
    step = make_step(make_model(), [images[0:2], images[2:4], images[4:6]])
    with EventStorage():
        for iteration in (10, 11, 12):
            step.run(iteration)
        with pytest.raises(FloatingPointError) as error:
            step.write_metrics(12)
    assert "iteration 11 " in str(error.value)
    assert "2 (image_2.png), 3 (image_3.png);" in str(error.value)


def test_a_weight_that_is_not_finite_is_found_though_the_losses_are():
    model = make_model()
    step = make_step(model, [make_images(2)] * 2)
    with EventStorage():
        step.run(5)
        step.run(6)
        with torch.no_grad():
            model.head.bias[1] = float("inf")
        with pytest.raises(FloatingPointError, match=r"largest weight became inf at iteration 6 w"):
            step.write_metrics(6)


def test_mixed_precision_runs_on_a_cpu_in_bfloat16_and_keeps_float32_weights():
    model = make_model()
    step = make_step(model, [make_images(4)] * 3, use_amp=True)
    for iteration in range(3):
        step.run(iteration)
    assert model.seen_dtypes == {torch.bfloat16}
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert all(value.isfinite().all() for value in model.parameters())


def test_generators_do_not_depend_on_what_ran_before_the_iteration():
    class Drawing(Regressor):
        def forward(self, images):
            self.drawn = (torch.rand(1).item(), np.random.rand())
            return super().forward(images)

    first, second = Drawing(), Drawing()
    make_step(first, [make_images(2)]).run(7)
    torch.rand(5)
    np.random.rand(3)
    make_step(second, [make_images(2)]).run(7)
    assert first.drawn == second.drawn
    make_step(second, [make_images(2)]).run(8)
    assert first.drawn != second.drawn


def test_gradients_are_clipped_as_the_config_says():
    cfg = load_config("", ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.BASE_LR", "1.0"])
    cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"])
    cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5, "SOLVER.WEIGHT_DECAY", 0.0])
    model = nn.Linear(3, 1, bias=False)
    optimizer = build_optimizer(cfg, model)
    before = model.weight.detach().clone()
    model.weight.grad = torch.full_like(model.weight, 100.0)
    optimizer.step()
    assert (model.weight - before).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_weight_average_follows_its_formula_and_gives_the_raw_weights_back():
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, decay=0.2)
    average.before_train()
    expected = np.ones(2)
    for update in range(6):
        with torch.no_grad():
            model.weight.fill_(float(update))
            model.num_batches_tracked.fill_(update)
        average.after_step()
        keep = min(0.2, (1 + update) / (10 + update))
        expected = keep * expected + (1 - keep) * update
    with average.applied():
        np.testing.assert_allclose(model.weight.detach().numpy(), expected, rtol=1e-6)
        assert model.num_batches_tracked.item() == 5
    assert model.weight.tolist() == [5.0, 5.0]


def test_weight_average_survives_being_saved_and_loaded():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, decay=0.9)
    average.before_train()
    average.after_step()
    state = average.state_dict()
    other = WeightAverage(nn.Linear(2, 2), decay=0.9)
    other.load_state_dict(state)
    other.before_train()
    assert other.num_updates == 1
    assert all(torch.equal(other.average[name], average.average[name]) for name in average.average)


def test_a_write_that_fails_leaves_the_earlier_file_whole(tmp_path):
    path = str(tmp_path / "model.pth")
    write_atomically(path, lambda file: file.write(b"first"))

    def fail(file):
        file.write(b"sec")
        raise OSError("disk full")

    with pytest.raises(UserError, match=r"model\.pth: cannot be written: disk full; files written"):
        write_atomically(path, fail)
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("model.pth", b"first")]


def test_a_checkpoint_loads_without_running_code_and_is_the_one_to_resume_from(tmp_path):
    model = make_model()
    Checkpointer(model, str(tmp_path)).save("model_0000003", iteration=3)
    content = torch.load(tmp_path / "model_0000003.pth", weights_only=True)
    assert content["iteration"] == 3
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    other = Regressor()
    Checkpointer(other, str(tmp_path)).resume()
    assert all(
        torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items()
    )


def test_a_best_checkpoint_is_not_the_one_to_resume_from(tmp_path):
    checkpointer = Checkpointer(make_model(), str(tmp_path))
    checkpointer.save("model_0000003")
    checkpointer.save("model_best", tag=False)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm_was_done",)


@pytest.mark.parametrize("ending", ["pth", "pkl"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, monkeypatch, ending):
    monkeypatch.chdir(tmp_path)
    path = f"weights.{ending}"
    if ending == "pth":
        torch.save({"model": Harmful()}, path)
    else:
        with open(path, "wb") as file:
            pickle.dump({"model": Harmful()}, file)
    with pytest.raises(UserError, match=rf"^{path}: refused.*\.mkdir "):
        read_checkpoint(path)
    assert not os.path.exists("harm_was_done")


def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path):
    checkpointer = Checkpointer(make_model(), str(tmp_path))
    checkpointer.save("model_0000003")
    path = tmp_path / "model_0000003.pth"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"model_0000003\.pth: damaged.*last_checkpoint"):
        checkpointer.resume()


def test_a_last_checkpoint_that_was_deleted_is_named(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(UserError, match=r"no checkpoint file .*model_0000009\.pth"):
        Checkpointer(make_model(), str(tmp_path)).resume()


def test_resuming_with_another_class_count_is_refused_naming_the_layer(tmp_path):
    Checkpointer(make_model(2), str(tmp_path)).save("model_0000003")
    with pytest.raises(UserError, match=r"head\.weight \(\[2, 8\] in the file, \[5, 8\]"):
        Checkpointer(make_model(5), str(tmp_path)).resume()


def test_weights_with_another_class_count_leave_the_head_initial_and_say_so(tmp_path, caplog):
    source, model = make_model(2), make_model(5)
    with torch.no_grad():
        source.body[0].weight.fill_(3.0)
    Checkpointer(source, str(tmp_path)).save("model_final")
    head = model.head.weight.detach().clone()
    with caplog.at_level("INFO", logger="anchorkit"):
        Checkpointer(model).load_weights(str(tmp_path / "model_final.pth"))
    assert torch.equal(model.head.weight, head)
    assert (model.body[0].weight == 3.0).all()
    assert "4 of the model's 6 tensors matched, 0 missing, 0 unexpected, 2 of" in caplog.text
    assert "head.bias ([2] in the file, [5] in the model)" in caplog.text


def test_weights_none_of_which_fits_are_refused(tmp_path):
    torch.save({"something.else": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="none of the weights fits the model"):
        Checkpointer(make_model()).load_weights(str(tmp_path / "other.pth"))


def test_numpy_weights_of_a_model_zoo_file_are_read(tmp_path):
    model = make_model()
    arrays = {name: np.full(value.shape, 2.0, "float32") for name, value in
              model.state_dict().items()}
    with open(tmp_path / "zoo.pkl", "wb") as file:
        pickle.dump({"model": arrays, "__author__": "someone", "matching_heuristics": True}, file)
    Checkpointer(model).load_weights(str(tmp_path / "zoo.pkl"))
    assert all((value == 2.0).all() for value in model.state_dict().values())


def test_averaged_weights_are_loaded_where_asked_for(tmp_path):
    model = make_model()
    average = WeightAverage(model, decay=0.5)
    average.before_train()
    checkpointer = Checkpointer(model, str(tmp_path), ema=average)
    raw = model.head.bias.detach().clone()
    average.average["head.bias"].fill_(9.0)
    checkpointer.save("model_final")
    other = Checkpointer(make_model())
    other.load_weights(str(tmp_path / "model_final.pth"))
    assert torch.equal(other.model.head.bias, raw)
    other.load_weights(str(tmp_path / "model_final.pth"), use_average=True)
    assert (other.model.head.bias == 9.0).all()


def run_evaluations(folder, values, start_iter=0, metric="bbox/AP"):
    """Evaluate after each iteration with these values of AP; returns the hook."""
    results = iter(values)
    hook = Evaluation(
        1, lambda: {"bbox": {"AP": next(results)}}, Checkpointer(nn.Linear(1, 1), folder), metric
    )
    with EventStorage(start_iter) as storage:
        trainer = types.SimpleNamespace(storage=storage, start_iter=start_iter, max_iter=100)
        hook.trainer = trainer
        hook.before_train()
        for trainer.iter in range(start_iter, start_iter + len(values)):
            hook.after_step()
    return hook


def test_the_best_checkpoint_is_of_the_largest_value_and_never_of_nan(tmp_path):
    run_evaluations(str(tmp_path), [float("nan"), 3.0, 5.0, float("nan"), 4.0])
    best = read_checkpoint(str(tmp_path / "model_best.pth"))
    assert best["best"] == {"metric": "bbox/AP", "value": 5.0, "iteration": 2}


def test_the_best_value_holds_over_a_resume_but_not_over_a_new_run(tmp_path):
    run_evaluations(str(tmp_path), [5.0])
    run_evaluations(str(tmp_path), [4.0], start_iter=50)
    assert read_checkpoint(str(tmp_path / "model_best.pth"))["best"]["value"] == 5.0
    run_evaluations(str(tmp_path), [4.5])
    assert read_checkpoint(str(tmp_path / "model_best.pth"))["best"]["value"] == 4.5


def test_an_unknown_best_metric_is_a_warning_that_lists_the_known_ones(tmp_path, caplog):
    run_evaluations(str(tmp_path), [5.0], metric="bbox/ap")
    assert "'bbox/ap' is not among the results" in caplog.text
    assert "known are: bbox/AP" in caplog.text
    assert not (tmp_path / "model_best.pth").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_iteration_and_the_handler_is_put_back(number):
    before = signal.getsignal(number)
    hook = Stopping(None, 0.0, period=20)
    hook.trainer = trainer = types.SimpleNamespace(iter=3, max_iter=10, stop_reason="")
    hook.before_train()
    hook.after_step()
    assert trainer.stop_reason == ""
    os.kill(os.getpid(), number)
    hook.after_step()
    assert trainer.stop_reason == f"{number.name} was received"
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):  # the second Ctrl-C
            os.kill(os.getpid(), number)
    hook.after_train()
    assert signal.getsignal(number) == before


@pytest.fixture
def coco_set(tmp_path):
    """A registered data set of one image whose annotations have no area and no iscrowd."""
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({
        "images": [{"id": 7, "file_name": "a.png", "width": 64, "height": 64}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [8, 8, 20, 20]}],
        "categories": [{"id": 1, "name": "thing"}],
    }))
    name = "test_engine_coco"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(
        json_file=str(path),
        evaluator_type="coco",
        thing_classes=["thing"],
        thing_dataset_id_to_contiguous_id={1: 0},
    )
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def evaluate_boxes(name, folder, boxes):
    instances = Instances((64, 64))
    instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.scores = torch.ones(len(boxes))
    instances.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
    evaluator = build_evaluator(load_config(""), name, str(folder))
    evaluator.reset()
    evaluator.process([{"image_id": 7}], [{"instances": instances}])
    return evaluator.evaluate()


def test_a_perfect_detection_has_ap_100_with_bare_annotations(coco_set, tmp_path):
    results = evaluate_boxes(coco_set, tmp_path, [[8.0, 8.0, 28.0, 28.0]])
    assert results["bbox"]["AP"] == pytest.approx(100.0)


def test_an_evaluation_without_any_detection_gives_a_table_of_dashes(coco_set, tmp_path):
    results = evaluate_boxes(coco_set, tmp_path, [])
    table = write_tables({coco_set: results}, str(tmp_path))
    with open(table) as file:
        assert f"| {coco_set} | — | — | — | — | — | — |" in file.read()
    figures = json.loads((tmp_path / "results.json").read_text())
    assert figures[coco_set]["bbox"]["AP"] is None


def test_a_data_set_with_no_known_evaluator_is_named(coco_set, tmp_path):
    MetadataCatalog.remove(coco_set)
    MetadataCatalog.get(coco_set).evaluator_type = "citiscapes"
    with pytest.raises(UserError, match="'test_engine_coco' has evaluator_type 'citiscapes'"):
        build_evaluator(load_config(""), coco_set, str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_gpus": 0}, "--num-gpus 0"),
        ({"machine_rank": 2}, "--machine-rank 2: must be from 0"),
        ({"num_machines": 2}, "needs --dist-url tcp://HOST:PORT"),
    ],
)
def test_process_arguments_that_cannot_be_are_told(arguments, message):
    args = argparse.Namespace(
        **{"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto", **arguments}
    )
    with pytest.raises(UserError, match=message):
        launch(lambda args: None, args)


def test_more_gpus_than_there_are_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    args = argparse.Namespace(num_gpus=4, num_machines=1, machine_rank=0, dist_url="auto")
    with pytest.raises(UserError, match=r"--num-gpus 4: this machine shows 1 GPU"):
        launch(lambda args: None, args)


STEPS = """
import resource, torch
from anchorkit.engine import _keep_freed_memory
def step():
    return [torch.ones(5_000_000) for _ in range(4)]
_keep_freed_memory()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_memory_of_a_step_is_used_again_by_the_next():
    """Without it five steps of 80 MB bring some 97,000 page faults."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STEPS], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 1000
