"""The trainer: anchorkit's step, checkpoints, data and evaluation in detectron2's loop of hooks."""

import contextlib
import logging
import os
import time
import weakref

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage, JSONWriter, TensorboardXWriter
from fvcore.nn.precise_bn import get_bn_modules

from .checkpoint import Checkpointer
from .closing import closing_note, stopping_note
from .data import build_test_loader, build_train_loader
from .data.image_batches import iterations_per_epoch
from .early_stopping import EarlyStopping
from .errors import UserError, outer_fault
from .evaluation import build_evaluator, evaluate
from .hooks import Evaluation, LogLine, PhaseSwitch, Stopping, WeightAverage
from .last_good import LastGoodState
from .modeling.compilation import compile_networks
from .solver import build_lr_scheduler, build_optimizer, is_lower_better, load_schedule
from .training_step import TrainingStep

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """detectron2's trainer with anchorkit's step, checkpoints, data and evaluation.

    Args:
        cfg: a config as :func:`setup` returns it. ``SEED`` -1 draws a seed and logs it.
        max_seconds: stop training this long after ``started``; None trains to the end.
        started: ``time.monotonic()`` of the run's start; None means now.
    """

    def __init__(
        self, cfg: CfgNode, *, max_seconds: float | None = None, started: float | None = None
    ):
        # Not DefaultTrainer.__init__: it reads data before the iteration to resume at is known,
        # and builds a DistributedDataParallel that cannot run on a CPU.
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self._is_seed_drawn = cfg.SEED < 0
        self.cfg = _with_seed(cfg)
        model = self.build_model(self.cfg)
        optimizer = self.build_optimizer(self.cfg, model)
        ddp_options = {} if next(model.parameters()).is_cuda else {"device_ids": None}
        self._trainer = TrainingStep(
            create_ddp_model(model, broadcast_buffers=False, **ddp_options),
            optimizer,
            accumulation_steps=self.cfg.SOLVER.ACCUMULATION_STEPS,
            use_amp=self.cfg.SOLVER.AMP.ENABLED,
            seed=self.cfg.SEED,
        )
        self.scheduler = self.build_lr_scheduler(self.cfg, optimizer)
        self.checkpointer = Checkpointer(model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.average = None
        if self.cfg.SOLVER.EMA.ENABLED:
            self.average = WeightAverage(model, self.cfg.SOLVER.EMA.DECAY)
            self.checkpointer.add_checkpointable("ema", self.average)
        solver = self.cfg.SOLVER
        self._early_stopping = EarlyStopping(
            solver.BEST_METRIC,
            solver.EARLY_STOP.PATIENCE,
            min_delta=solver.EARLY_STOP.MIN_DELTA,
            lower_is_better=is_lower_better(self.cfg),
        )
        if self._early_stopping.patience:
            self.checkpointer.add_checkpointable("early_stopping", self._early_stopping)
        self.start_iter = 0
        self.max_iter = self.cfg.SOLVER.MAX_ITER
        self.results = {}
        self.stop_reason = ""
        solver = self.cfg.SOLVER
        self._last_good = LastGoodState(
            self.checkpointer, solver.METRIC_PERIOD, solver.CHECKPOINT_PERIOD
        )
        started = time.monotonic() if started is None else started
        self._stopping = Stopping(max_seconds, started, self.cfg.SOLVER.METRIC_PERIOD)
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from ``last_checkpoint`` if ``resume`` and there is one; else load the weights."""
        if not self.checkpointer.has_checkpoint():
            if resume:
                logger.info("nothing to resume in %s: starting anew", self.cfg.OUTPUT_DIR)
            self.checkpointer.load_weights(self.cfg.MODEL.WEIGHTS)
        elif resume:
            self.checkpointer.resume()
            self.start_iter = self.iter + 1
        else:
            logger.warning(
                "%s holds checkpoints of an earlier run, which this one will overwrite; --resume "
                "would go on with it",
                self.cfg.OUTPUT_DIR,
            )
            self.checkpointer.load_weights(self.cfg.MODEL.WEIGHTS)

    def build_hooks(self) -> list:
        """The hooks, in the order in which they run after each iteration."""
        cfg = self.cfg
        chain = [hooks.IterationTimer(), hooks.LRScheduler(), self._build_phase_switch()]
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.checkpointer.model):
            chain.append(
                hooks.PreciseBN(
                    cfg.TEST.EVAL_PERIOD,
                    self.checkpointer.model,
                    self.build_train_loader(cfg),
                    cfg.TEST.PRECISE_BN.NUM_ITER,
                )
            )
        chain.append(self.average)
        if comm.is_main_process():
            chain.append(
                hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
            )
            chain.append(self._last_good)
        # After the checkpoint, so that a failing evaluation loses nothing.
        chain.append(
            Evaluation(
                cfg.TEST.EVAL_PERIOD,
                self.evaluate,
                self.checkpointer,
                cfg.SOLVER.BEST_METRIC,
                self._early_stopping,
            )
        )
        chain.append(self._stopping)
        if comm.is_main_process():
            chain.append(hooks.PeriodicWriter(self.build_writers(), cfg.SOLVER.METRIC_PERIOD))
        return [hook for hook in chain if hook is not None]

    def _build_phase_switch(self) -> PhaseSwitch | None:
        method = getattr(self.checkpointer.model, "method", None)
        if not hasattr(method, "activate"):
            return None
        keys = self.cfg.MODEL.OAT
        start = keys.PRETRAIN_EPOCHS * iterations_per_epoch(self.cfg)
        return PhaseSwitch(method, start, self._trainer.optimizer if keys.RESET_OPTIMIZER else None)

    def build_writers(self) -> list:
        """The log line, ``metrics.json`` and TensorBoard."""
        return [
            LogLine(self.max_iter),
            JSONWriter(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json")),
            TensorboardXWriter(self.cfg.OUTPUT_DIR),
        ]

    @classmethod
    def build_model(cls, cfg: CfgNode):
        model = super().build_model(cfg)
        if cfg.MODEL.CHANNELS_LAST:
            model = model.to(memory_format=torch.channels_last)
        if cfg.MODEL.COMPILE:
            compile_networks(model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer):
        return build_lr_scheduler(cfg, optimizer)

    # detectron2's names for these three; its ``DefaultTrainer.test`` calls the last two.
    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iter: int = 0):
        return build_train_loader(cfg, start_iter=start_iter)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str):
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(cfg, dataset_name, folder)

    def train(self) -> dict:
        """Run from ``start_iter`` to the end, or until told to stop.

        Returns:
            The results of the last evaluation, by data set (on the main process).

        Raises:
            FloatingPointError: a loss or a weight was not finite; the state of before is saved.
            UserError: the disk is full, or a process that loads data died.
        """
        if self.start_iter >= self.max_iter or self._early_stopping.is_over:
            logger.info(
                "training is finished: %d of SOLVER.MAX_ITER %d iterations are done; evaluating",
                self.start_iter,
                self.max_iter,
            )
            self.evaluate()
        else:
            self._run_iterations()
            if self._early_stopping.is_over and self.iter + 1 < self.max_iter:
                self.evaluate()
        if comm.is_main_process():
            if self.stop_reason:
                logger.info(stopping_note(self.cfg, self.iter + 1, self.stop_reason))
            else:
                final = os.path.join(self.cfg.OUTPUT_DIR, "model_final.pth")
                logger.info(closing_note(self.cfg, final))
                verify(self.cfg, self.results)
        return self.results

    def evaluate(self) -> dict:
        """Evaluate the weights, averaged ones if they are kept.

        The last time there are figures with ``TEST.AUG``, and pictures of a classifier.

        Returns:
            ``{task: {metric: value}}``, for several data sets ``{data set: {task: ...}}``.
        """
        is_last = self.iter + 1 >= self.max_iter or self._early_stopping.is_over
        averaged = self.average.applied() if self.average else contextlib.nullcontext()
        with averaged:
            self.results = evaluate(
                self.cfg,
                self.checkpointer.model,
                num_pictures=self.cfg.TEST.NUM_PICTURES,
                is_last=is_last,
            )
        return _of_single_dataset(self.results)

    def run_step(self) -> None:
        self._trainer.run(self.iter)
        done = self.iter + 1
        solver = self.cfg.SOLVER
        # Also before a checkpoint and an evaluation: neither is made once a loss is not finite.
        periods = (solver.METRIC_PERIOD, solver.CHECKPOINT_PERIOD, self.cfg.TEST.EVAL_PERIOD)
        if done == self.max_iter or any(period > 0 and done % period == 0 for period in periods):
            self._trainer.write_metrics(self.iter)

    def state_dict(self) -> dict:
        return {
            "iteration": self.iter,
            "scheduler": self.scheduler.state_dict(),
            **self._trainer.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        self._trainer.load_state_dict(state)
        load_schedule(self.scheduler, state["scheduler"])
        self.iter = state["iteration"]
        if self._is_seed_drawn:
            self.cfg = _with_seed(self.cfg, state["seed"])
            self._trainer.seed = state["seed"]

    def _run_iterations(self) -> None:
        logger.info("training from iteration %d to %d", self.start_iter, self.max_iter)
        self._trainer.start(self.build_train_loader(self.cfg, start_iter=self.start_iter))
        with EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                for iteration in range(self.start_iter, self.max_iter):
                    if self._early_stopping.is_over:
                        break
                    self.iter = iteration
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if self.stop_reason:
                        self._trainer.write_metrics(self.iter)
                        self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
                        break
            except FloatingPointError as error:
                note = f"{error}; {self._last_good.save()}"
                logger.error("training stopped: %s", note)
                raise FloatingPointError(note) from None
            except Exception as error:
                fault = outer_fault(error)
                if fault is not None:
                    error = UserError(f"{fault}; --resume goes on from the last checkpoint")
                if isinstance(error, UserError):
                    logger.error("training stopped at iteration %d: %s", self.iter, error)
                    raise error from None
                logger.exception("training failed at iteration %d", self.iter)
                raise
            finally:
                self.after_train()


def verify(cfg: CfgNode, results: dict) -> None:
    """End the program with status 1 if ``TEST.EXPECTED_RESULTS`` are given and not reached."""
    if len(cfg.TEST.EXPECTED_RESULTS) and results:
        verify_results(cfg, _of_single_dataset(results))


def _of_single_dataset(results: dict) -> dict:
    return next(iter(results.values())) if len(results) == 1 else results


def _with_seed(cfg: CfgNode, seed: int | None = None) -> CfgNode:
    """A frozen copy of the config whose ``SEED`` is a number from 0: its own, or a drawn one."""
    if cfg.SEED >= 0 and seed is None:
        return cfg
    if seed is None:
        seed = comm.shared_random_seed()
        logger.info("SEED is -1; drawn for this run: SEED %d", seed)
        seed_all_rng(seed + comm.get_rank())
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = seed
    cfg.freeze()
    return cfg
