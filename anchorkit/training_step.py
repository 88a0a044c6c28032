"""One optimizer step: accumulation, mixed precision, and metrics that do not stall the device."""

import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn


class TrainingStep:
    """Forward and backward over ``accumulation_steps`` batches, then one optimizer step.

    detectron2's own trainers neither accumulate gradients nor, in v0.6, let the metrics wait; this
    class behaves alike under v0.6 and today's main.

    Args:
        model: takes a batch of the loader, returns a dict of scalar losses, all of which are
            summed.
        optimizer: as built by detectron2; its ``step`` clips the gradients if the config says so.
        accumulation_steps: batches whose gradients are averaged before a step.
        use_amp: run the model under autocast: float16 with a gradient scaler on CUDA, bfloat16
            (which has float32's range and needs none) on a CPU.
        seed: the random generators are set anew for every iteration from this seed, the rank and
            the iteration, so that a resumed run draws what an uninterrupted one would have drawn.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        accumulation_steps: int,
        use_amp: bool,
        seed: int,
    ):
        self.model = model
        self.optimizer = optimizer
        self.data_loader = None
        self.seed = seed
        self.accumulation_steps = accumulation_steps
        self.use_amp = use_amp
        self.device_type = next(model.parameters()).device.type
        on_cuda = self.device_type == "cuda"
        self.amp_dtype = torch.float16 if on_cuda else torch.bfloat16
        self.scaler = torch.amp.GradScaler("cuda", enabled=use_amp and on_cuda)
        self._start_window()

    def start(self, data_loader) -> None:
        """Take batches from ``data_loader`` from now on."""
        self.data_loader = data_loader
        self._batches = iter(data_loader)
        self.model.train()

    def run(self, iteration: int) -> None:
        """Do the step of iteration ``iteration`` (from 0); the losses stay on the device."""
        started = time.perf_counter()
        self.optimizer.zero_grad()
        total = 0.0
        for index in range(self.accumulation_steps):
            batch = self._next_batch()
            if index == 0:
                _seed_generators(self.seed, comm.get_rank(), iteration)
            is_last = index == self.accumulation_steps - 1
            with self._no_sync(is_last), self._scripts_as_written():
                with self._autocast():
                    losses = self.model(batch)
                    loss = sum(losses.values()) / self.accumulation_steps
                self.scaler.scale(loss).backward()
            for name, value in losses.items():
                self._loss_sums[name] += value.detach().float()
            total = total + loss.detach().float()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._totals.append(total)
        self._seconds += time.perf_counter() - started

    def write_metrics(self, iteration: int) -> None:
        """Average the losses since the last call over iterations and ranks and log them.

        Every rank must call it at the same iteration.

        Raises:
            FloatingPointError: a loss since the last call was not finite, or a weight is not now;
                names the iteration and the images of its batch.
        """
        if not self._totals:
            return
        started = time.perf_counter()
        num_iterations = len(self._totals)
        names = list(self._loss_sums)
        largest = torch.stack([one.detach().abs().max() for one in self.model.parameters()]).max()
        sums = (self._loss_sums[name] for name in names)
        *values, largest = torch.stack([*sums, *self._totals, largest.float()]).tolist()
        self._seconds += time.perf_counter() - started  # reading them waited for the device
        num_batches = num_iterations * self.accumulation_steps
        means = [value / num_batches for value in values[: len(names)]]
        mine = {
            "losses": dict(zip(names, means, strict=True)),
            "fault": self._first_fault(values[len(names) :], largest, iteration),
            "data_time": self._data_seconds / num_iterations,
            "images": self._num_images,
            "seconds": self._seconds,
        }
        self._start_window()
        ranks = comm.all_gather(mine)
        for rank in ranks:
            if rank["fault"]:
                raise FloatingPointError(rank["fault"])
        if comm.is_main_process():
            self._put_scalars(ranks)

    def state_dict(self) -> dict:
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])

    def _next_batch(self):
        started = time.perf_counter()
        batch = next(self._batches)
        self._data_seconds += time.perf_counter() - started
        self._num_images += len(batch)
        self._batch_names.append(_names_of(batch))
        return batch

    def _no_sync(self, is_last: bool):
        # DistributedDataParallel averages gradients over ranks in each backward pass: once is
        # enough, at the last batch of a step.
        if is_last or not hasattr(self.model, "no_sync"):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _scripts_as_written(self):
        # torch.jit rewrites a scripted loss after its first calls, which changes the rounding: a
        # resumed run would differ in the last bit. On CUDA the rewriting saves memory and stays.
        if self.device_type == "cpu":
            return torch.jit.optimized_execution(False)
        return contextlib.nullcontext()

    def _autocast(self):
        return torch.autocast(self.device_type, dtype=self.amp_dtype, enabled=self.use_amp)

    def _start_window(self) -> None:
        self._loss_sums = defaultdict(float)
        self._totals = []
        self._batch_names = []
        self._num_images = 0
        self._seconds = 0.0
        self._data_seconds = 0.0

    def _first_fault(
        self, totals: list[float], largest_weight: float, iteration: int
    ) -> str | None:
        for index, total in enumerate(totals):
            if not np.isfinite(total):
                return self._describe_fault("loss", total, iteration, index - len(totals) + 1)
        if not np.isfinite(largest_weight):
            return self._describe_fault("largest weight", largest_weight, iteration, 0)
        return None

    def _describe_fault(self, what: str, value: float, iteration: int, offset: int) -> str:
        """``offset``, 0 or less, is from the last iteration to the one that is told."""
        steps = self.accumulation_steps
        end = len(self._batch_names) + offset * steps
        batches = self._batch_names[end - steps : end]
        images = ", ".join(name for names in batches for name in names())
        return (
            f"the {what} became {value} at iteration {iteration + offset} with images {images}; "
            "look at these images, or lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS or set "
            "SOLVER.CLIP_GRADIENTS.ENABLED True"
        )

    def _put_scalars(self, ranks: list[dict]) -> None:
        storage = get_event_storage()
        names = sorted({name for rank in ranks for name in rank["losses"]})
        losses = {
            name: float(np.mean([rank["losses"].get(name, 0.0) for rank in ranks]))
            for name in names
        }
        storage.put_scalars(
            total_loss=sum(losses.values()),
            **{name: value for name, value in losses.items() if name != "total_loss"},
            smoothing_hint=False,
        )
        slowest = max(rank["seconds"] for rank in ranks)
        images = sum(rank["images"] for rank in ranks)
        storage.put_scalar("data_time", max(rank["data_time"] for rank in ranks))
        storage.put_scalar("images_per_second", images / slowest, smoothing_hint=False)


def _names_of(batch) -> Callable[[], list[str]]:
    """Names of a batch's images for a message, made when asked for; keeps no pixels."""
    if not isinstance(batch, list):
        return batch.namer()
    ids = [(image.get("image_id"), image.get("file_name")) for image in batch]
    return lambda: [f"{image_id} ({file_name})" for image_id, file_name in ids]


def _seed_generators(seed: int, rank: int, iteration: int) -> None:
    """Set Python's, numpy's and torch's generators for one iteration."""
    value = int(np.random.SeedSequence([seed, rank, iteration]).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    # torch.manual_seed does the same, and formats the call stack for devices that are not there.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
