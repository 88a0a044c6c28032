"""When to end a training: its metric has not become better for some evaluations."""

import logging
import math

logger = logging.getLogger(__name__)


def is_better(
    value: float, best: float | None, lower_is_better: bool, min_delta: float = 0.0
) -> bool:
    """Whether a metric improved on the best value by more than ``min_delta``; None is no value."""
    return best is None or (best - value if lower_is_better else value - best) > min_delta


class EarlyStopping:
    """Counts evaluations since the best one. Its state lies in every checkpoint.

    Args:
        metric: its name, for messages.
        patience: evaluations in a row without a better value that end the training; 0: none do.
        min_delta: a value is better if it is so by more than this.
        lower_is_better: the best value is the smallest one.

    Attributes:
        num_seen: iterations that were done at the last evaluation.
    """

    def __init__(
        self, metric: str, patience: int, *, min_delta: float = 0.0, lower_is_better: bool = False
    ):
        self.metric = metric
        self.patience = patience
        self.min_delta = min_delta
        self.lower_is_better = lower_is_better
        self.best = None
        self.num_worse = 0
        self.num_seen = 0

    @property
    def is_over(self) -> bool:
        """Whether the training is to end; a larger patience lets it go on."""
        return 0 < self.patience <= self.num_worse

    def update(self, value: float | None, done: int) -> None:
        """Take in an evaluation.

        Args:
            value: of the metric; None, where it is not known, changes nothing. A value that is not
                finite is not better.
            done: iterations of the training until then.
        """
        self.num_seen = done
        if value is None:
            return
        if math.isfinite(value) and is_better(
            value, self.best, self.lower_is_better, self.min_delta
        ):
            self.best, self.num_worse = float(value), 0
        else:
            self.num_worse += 1

    def reason(self, done: int, max_iter: int) -> str:
        """One line about the end."""
        best = "was finite" if self.best is None else f"was better than {self.best:.4g}"
        margin = f" by more than {self.min_delta:g}" if self.min_delta else ""
        return (
            f"early stopping after {done} of {max_iter} iterations: in {self.num_worse} "
            f"evaluations no {self.metric} {best}{margin} (SOLVER.EARLY_STOP)"
        )

    def state_dict(self) -> dict:
        names = ("metric", "best", "num_worse", "num_seen")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict) -> None:
        """Go on counting; of another metric only ``num_seen`` is taken over."""
        self.num_seen = state["num_seen"]
        if state["metric"] != self.metric:
            logger.warning("early stopping counts anew: the metric was %s", state["metric"])
            return
        self.best, self.num_worse = state["best"], state["num_worse"]
