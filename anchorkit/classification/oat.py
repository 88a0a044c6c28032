"""Online Anchor-based Training: learn how far labels are from the batch's centre, in per cent."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce as differentiable_all_reduce

from .base import ClassificationMethod
from .standard import CrossEntropy

ANCHORS = ("softmax_mean", "mean", "uniform")
REDUCTIONS = ("mean", "sum_classes")


def center_terms(outputs: Tensor, kind: str) -> Tensor:
    """(B, K) whose mean over a batch is its centre, for raw outputs (B, K), float32.

    Args:
        outputs: raw outputs.
        kind: "softmax_mean": their softmax (the authors' code); "mean": themselves (eq. 1 as
            printed); "uniform": zeros, so that every anchor is 1 / K (ablation).
    """
    if kind == "softmax_mean":
        return outputs.softmax(dim=1)
    return outputs if kind == "mean" else torch.zeros_like(outputs)


def anchor_at(center: Tensor, epsilon: float = 0.0) -> Tensor:
    """Eq. 1: the anchor, softmax of a centre (..., K), with no entry below ``epsilon``."""
    anchor = center.softmax(dim=-1)
    return anchor.clamp(min=epsilon) if epsilon > 0 else anchor


def encode(labels: Tensor, anchor: Tensor) -> Tensor:
    """Eq. 2: relative change from the anchor (..., K) to labels (..., K) in [0, 1]."""
    return labels / anchor - 1


def decode(outputs: Tensor, anchor: Tensor) -> Tensor:
    """Eq. 4: the labels that outputs (..., K), as changes relative to the anchor, stand for."""
    return anchor * (outputs + 1)


class OAT(ClassificationMethod):
    """Cross entropy first, then regression onto changes relative to the batch's anchor (eqs 1-4).

    The phase and the running centre are buffers: a checkpoint is decoded as it was trained.

    Args:
        num_classes: K.
        anchor: "softmax_mean" (the authors' code), "mean" (eq. 1 as printed: unstable) or
            "uniform" (1 / K whatever the batch is).
        epsilon: no entry of the anchor is below it; matters for "mean" alone.
        detach: stop the gradient at the anchor. The authors' code does not.
        reduction: squared errors are averaged over B K ("mean"), or over B and summed over K
            ("sum_classes", eq. 3 as printed).
        global_center: one centre over the batches of all processes, not one for each.
        momentum: m of the running centre: (1 - m) old + m new, of this process's batches.
        label_smoothing: share of each label that is spread over all classes, in both phases.
        test_batch: images that share an anchor in the "batch" protocol.
        test_seed: the "batch" protocol cuts the permutations of this seed, the next one, ...
        num_permutations: ... so many of them.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        anchor: str = "softmax_mean",
        epsilon: float = 0.0,
        detach: bool = False,
        reduction: str = "mean",
        global_center: bool = False,
        momentum: float = 0.01,
        label_smoothing: float = 0.0,
        test_batch: int = 32,
        test_seed: int = 0,
        num_permutations: int = 5,
    ):
        super().__init__()
        self.pretraining = CrossEntropy(label_smoothing=label_smoothing)
        self.num_classes = num_classes
        self.anchor = anchor
        self.epsilon = epsilon
        self.detach = detach
        self.reduction = reduction
        self.global_center = global_center
        self.momentum = momentum
        self.label_smoothing = label_smoothing
        self.test_batch = test_batch
        self.test_seed = test_seed
        self.num_permutations = num_permutations
        self.register_buffer("is_active", torch.tensor(False))
        start = 1.0 / num_classes if anchor == "softmax_mean" else 0.0
        self.register_buffer("running_center", torch.full((num_classes,), start))
        # ``is_active`` on the host: a step does not wait for the device to read it.
        self._is_active = False
        self.register_load_state_dict_post_hook(_read_phase)

    def activate(self) -> bool:
        """End the pre-training with cross entropy; False if that was done before."""
        was_active, self._is_active = self._is_active, True
        self.is_active.fill_(True)
        return not was_active

    def losses(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if not self._is_active:
            return self.pretraining.losses(model, images, labels)
        # Targets reach K and their squares K^2: more than float16 holds.
        outputs = model.head(model.features(images)).float()
        labels = soft_labels(labels, self.num_classes, self.label_smoothing)
        return {"loss_class": self._squared_error(outputs, labels)}

    def _squared_error(self, outputs: Tensor, labels: Tensor) -> Tensor:
        center = self._batch_center(outputs)
        self.running_center.lerp_(center.detach(), self.momentum)
        anchor = anchor_at(center, self.epsilon)
        targets = encode(labels, anchor.detach() if self.detach else anchor)
        loss = F.mse_loss(outputs, targets)
        return loss if self.reduction == "mean" else loss * self.num_classes

    def _batch_center(self, outputs: Tensor) -> Tensor:
        terms = center_terms(outputs, self.anchor)
        if not (self.global_center and dist.is_available() and dist.is_initialized()):
            return terms.mean(dim=0)
        # Its backward pass sums the gradients of all processes, which DistributedDataParallel
        # then divides by their number: those of the mean of all losses.
        count = terms.new_full((1,), len(terms))
        total = differentiable_all_reduce(torch.cat([terms.sum(dim=0), count]))
        return total[:-1] / total[-1].detach()

    def scores(self, outputs: Tensor) -> Tensor:
        outputs = outputs.float()
        if not self._is_active:
            return outputs.softmax(dim=1)
        # At the optimum f_c + 1 is P(c | x) times a factor that is the same for balanced classes.
        shares = (outputs + 1).clamp(min=0)
        total = shares.sum(dim=1, keepdim=True)
        return torch.where(total > 0, shares / total.clamp(min=1e-12), outputs.softmax(dim=1))

    @torch.no_grad()
    def decodings(self, outputs: Tensor) -> dict[str, Tensor]:
        """The raw outputs, and eq. 4 with anchors of chunks, of each image, and of the whole set.

        Returns:
            "": the raw outputs, whose order is that of "single" wherever one exceeds -1.
            "batch": (R, N, K), the paper's protocol, for R permutations. Images that stand in the
            order of their classes would give their labels away, so they never are decoded so.
            "single": each image is its own batch. "dataset": one centre of all test images.
            "running": the running centre of the training.
        """
        if not self._is_active:
            return {"": outputs}
        outputs = outputs.float()
        terms = center_terms(outputs, self.anchor)
        permuted = [
            decode(outputs, anchor_at(self._chunk_centers(terms, seed), self.epsilon))
            for seed in range(self.test_seed, self.test_seed + self.num_permutations)
        ]
        running = self.running_center.to(outputs.device)
        return {
            "": outputs,
            "batch": torch.stack(permuted),
            "single": decode(outputs, anchor_at(terms, self.epsilon)),
            "dataset": decode(outputs, anchor_at(terms.mean(dim=0), self.epsilon)),
            "running": decode(outputs, anchor_at(running, self.epsilon)),
        }

    def _chunk_centers(self, terms: Tensor, seed: int) -> Tensor:
        """(N, K) centre of the chunk that each image falls into; the last one may be smaller."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(terms), generator=generator).to(terms.device)
        chunk = torch.empty_like(order)
        chunk[order] = torch.arange(len(terms), device=terms.device) // self.test_batch
        num_chunks = -(-len(terms) // self.test_batch)
        sums = terms.new_zeros(num_chunks, terms.shape[1]).index_add_(0, chunk, terms)
        sizes = torch.bincount(chunk, minlength=num_chunks).to(terms)
        return (sums / sizes[:, None])[chunk]


def soft_labels(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """(B, K) float32 targets for class indices (B,) or for targets (B, K)."""
    if labels.dim() == 1:
        labels = F.one_hot(labels, num_classes)
    labels = labels.float()
    return labels * (1 - smoothing) + smoothing / num_classes if smoothing > 0 else labels


def _read_phase(method: OAT, _incompatible_keys) -> None:
    method._is_active = bool(method.is_active)
