"""What happens around a training step: averaged weights, evaluation, stopping, the log line."""

import contextlib
import datetime
import logging
import math
import os
import signal
import time
from collections.abc import Callable

import torch
from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage
from torch import nn

from .checkpoint import Checkpointer, read_checkpoint
from .early_stopping import EarlyStopping, is_better

logger = logging.getLogger(__name__)


class WeightAverage(HookBase):
    """Exponential moving average of a model's weights and floating-point buffers.

    Update k (from 0) keeps ``min(decay, (1 + k) / (10 + k))`` of the average, so that it follows
    closely while it is young. Buffers that are not floating point are copied.

    Args:
        model: the model as trained, not wrapped by DistributedDataParallel.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self.decay = decay
        self.num_updates = 0
        self.average = {}

    def before_train(self):
        if not self.average:
            self.restart()

    @torch.no_grad()
    def after_step(self):
        keep = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1.0 - keep)
            else:
                self.average[name].copy_(value)
        self.num_updates += 1

    def restart(self) -> None:
        """Begin a new average at the model's present weights."""
        self.num_updates = 0
        self.average = {
            name: value.detach().clone() for name, value in self.model.state_dict().items()
        }

    @contextlib.contextmanager
    def applied(self):
        """Within this context the model has the averaged weights."""
        raw = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        try:
            yield
        finally:
            self.model.load_state_dict(raw)

    def state_dict(self) -> dict:
        return {"model": self.average, "num_updates": self.num_updates}

    def load_state_dict(self, state: dict) -> None:
        self.restart()
        for name, value in state["model"].items():
            self.average[name].copy_(value)
        self.num_updates = state["num_updates"]


class PhaseSwitch(HookBase):
    """Ends a classifier's pre-training before an iteration.

    Args:
        method: has ``activate()``, which tells whether it was not active before.
        iteration: the first one of the new phase.
        optimizer: forgets what it has gathered, such as momentum; None: it does not.
    """

    def __init__(self, method: nn.Module, iteration: int, optimizer: torch.optim.Optimizer | None):
        self.method = method
        self.iteration = iteration
        self.optimizer = optimizer

    def before_step(self):
        if self.trainer.iter < self.iteration or not self.method.activate():
            return
        logger.info("iteration %d: pre-training is over", self.trainer.iter)
        if self.optimizer is not None:
            self.optimizer.state.clear()


class Evaluation(HookBase):
    """Evaluate every ``period`` iterations and after the last one; keep the best checkpoint.

    The best value is read from ``model_best.pth`` itself, so it holds over a resume.

    Args:
        period: iterations between evaluations; 0 means only at the end.
        evaluate: returns nested results on the main process and {} on the others.
        checkpointer: writes ``model_best.pth``, and ``model_final.pth`` of a run that ends early.
        best_metric: flattened name of the metric; "" keeps none.
        early_stopping: is told of its values, and says which ones are better.
    """

    FILE = "model_best"

    def __init__(
        self,
        period: int,
        evaluate: Callable[[], dict],
        checkpointer: Checkpointer,
        best_metric: str,
        early_stopping: EarlyStopping | None = None,
    ):
        self.period = period
        self.evaluate = evaluate
        self.checkpointer = checkpointer
        self.best_metric = best_metric
        self.early_stopping = early_stopping or EarlyStopping(best_metric, patience=0)
        self.best = None

    def before_train(self):
        path = os.path.join(self.checkpointer.save_dir, f"{self.FILE}.pth")
        done = self.trainer.start_iter
        if done > 0 and self.best_metric and comm.is_main_process() and os.path.isfile(path):
            best = read_checkpoint(path).get("best", {})
            if best.get("metric") == self.best_metric:
                self.best = best["value"]
                logger.info("best %s so far: %.4g", self.best_metric, self.best)
        # A checkpoint is written before the evaluation at the same iteration.
        stopping = self.early_stopping
        if stopping.patience and self._is_due(done) and stopping.num_seen < done:
            logger.info("evaluating the checkpoint: early stopping has not seen its result")
            self.trainer.storage.iter = done - 1
            self._evaluate(done)
            self.trainer.storage.iter = done

    def after_step(self):
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or self._is_due(done):
            self._evaluate(done)

    def _is_due(self, done: int) -> bool:
        return done > 0 and self.period > 0 and done % self.period == 0

    def _evaluate(self, done: int) -> None:
        results = flatten_results_dict(self.evaluate() or {})
        if results:
            # Not-a-number (no object of that size, no detections) is not valid JSON.
            finite = {name: value for name, value in results.items() if math.isfinite(value)}
            self.trainer.storage.put_scalars(**finite, smoothing_hint=False)
        value = results.get(self.best_metric)
        if results and self.best_metric:
            self._keep_best(value, results, done)
        comm.synchronize()
        # What the main process knows, so that all stop or none.
        self.early_stopping.update(comm.all_gather(value)[0], done)
        if self.early_stopping.is_over and done < self.trainer.max_iter:
            logger.info("%s", self.early_stopping.reason(done, self.trainer.max_iter))
            self.checkpointer.save("model_final", iteration=done - 1)

    def _keep_best(self, value: float | None, results: dict, done: int) -> None:
        if value is None:
            consequence = "no best checkpoint is kept"
            if self.early_stopping.patience:
                consequence += ", and early stopping does nothing"
            logger.warning(
                "SOLVER.BEST_METRIC %r is not among the results, %s; known are: %s",
                self.best_metric, consequence, ", ".join(results),
            )  # fmt: skip
            return
        value = float(value)
        lower = self.early_stopping.lower_is_better
        if not math.isfinite(value) or not is_better(value, self.best, lower):
            return
        self.best = value
        best = {"metric": self.best_metric, "value": value, "iteration": done - 1}
        self.checkpointer.save(self.FILE, tag=False, best=best, iteration=done - 1)


class Stopping(HookBase):
    """Ends training early, after a whole iteration: at a time limit, on SIGTERM, or on Ctrl-C.

    A second Ctrl-C ends it at once.

    Args:
        max_seconds: time limit, or None.
        started: ``time.monotonic()`` at which the time starts.
        period: with several processes they agree on stopping every so many iterations, since
            all have to stop at the same one.
    """

    def __init__(self, max_seconds: float | None, started: float, period: int):
        self.max_seconds = max_seconds
        self.started = started
        self.period = period
        self._received = ""
        self._previous = {}

    def before_train(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not the main thread: a caller's own business
                self._previous[number] = signal.signal(number, self._on_signal)

    def after_step(self):
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (comm.get_world_size() > 1 and done % self.period):
            return
        reasons = comm.all_gather(self._reason())
        self.trainer.stop_reason = next((reason for reason in reasons if reason), "")

    def after_train(self):
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _on_signal(self, number, _frame):
        self._received = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    def _reason(self) -> str:
        if self._received:
            return f"{self._received} was received"
        if self.max_seconds is not None and time.monotonic() - self.started >= self.max_seconds:
            return f"--max-time {self.max_seconds:g} s is over"
        return ""


class LogLine(EventWriter):
    """One line on progress, the same under every detectron2: ETA, losses, rate, throughput."""

    def __init__(self, max_iter: int):
        self.max_iter = max_iter
        self._last_written = -1

    def write(self):
        storage = get_event_storage()
        histories = storage.histories()
        _, measured_at = storage.latest().get("images_per_second", (0.0, -1))
        if measured_at <= self._last_written:
            return  # nothing new since the last line
        self._last_written = measured_at
        latest = {name: value for name, (value, _) in storage.latest().items()}
        parts = [f"iter: {storage.iter + 1}/{self.max_iter}"]
        parts += [f"{name}: {latest[name]:.4g}" for name in histories if _is_training_loss(name)]
        if "time" in histories:
            seconds = histories["time"].median(1000) * (self.max_iter - storage.iter - 1)
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            parts.insert(0, f"eta: {datetime.timedelta(seconds=int(seconds))}")
            parts.append(f"time: {histories['time'].global_avg():.4f}")
        parts.append(f"data_time: {latest['data_time']:.4f}")
        parts.append(f"images/s: {latest['images_per_second']:.1f}")
        if "lr" in latest:
            parts.append(f"lr: {latest['lr']:.4g}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        logger.info("  ".join(parts))


def _is_training_loss(name: str) -> bool:
    """Names with "/" are an evaluation's."""
    return "loss" in name and "/" not in name
