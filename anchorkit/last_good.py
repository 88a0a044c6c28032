"""The state of a run before its losses stopped being finite, kept in memory to be written then."""

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from .checkpoint import Checkpointer

# A copy of a large model takes some 0.1 s; it is not made more often than this.
MIN_ITERATIONS = 200


class LastGoodState(HookBase):
    """Copies the state after iterations whose losses and weights are known to be finite.

    They are looked at every ``metric_period`` iterations and before each checkpoint. Where the last
    look was a checkpoint's, its file is the last good state and no copy is kept.

    Args:
        checkpointer: what is copied, and where it is written.
        metric_period: iterations between two looks at the losses.
        checkpoint_period: iterations between two checkpoints.
    """

    FILE = "model_last_good"

    def __init__(self, checkpointer: Checkpointer, metric_period: int, checkpoint_period: int):
        self.checkpointer = checkpointer
        self.period = metric_period * -(-MIN_ITERATIONS // metric_period)
        self.checkpoint_period = checkpoint_period
        self._state = None

    def before_train(self):
        if self.trainer.start_iter == 0:  # otherwise the run goes on from a file
            self._copy(-1)

    def after_step(self):
        done = self.trainer.iter + 1
        if done % self.checkpoint_period == 0:
            self._state = None
        elif done % self.period == 0:
            self._copy(self.trainer.iter)

    def save(self) -> str:
        """Write the state, and say what can be done with it; all ranks must call it."""
        if self._state is not None and comm.is_main_process():
            self.checkpointer.write(self.FILE, self._state)
        comm.synchronize()  # no rank ends the run before the file is whole
        return (
            f"the last good state is {self.checkpointer.get_checkpoint_file()}: --resume goes on "
            "from it with the rates that it had, and MODEL.WEIGHTS begins anew with its weights"
        )

    def _copy(self, iteration: int) -> None:
        if not comm.is_main_process():
            return
        self._state = _copied({**self.checkpointer.state(), "iteration": iteration})
        self._state["trainer"]["iteration"] = iteration


def _copied(value):
    """A copy of nested dicts and lists on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value
