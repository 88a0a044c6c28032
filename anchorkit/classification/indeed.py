"""INDeeD: pairs of multi-label images, taken apart into what they share and what they do not."""

import math

import torch
from torch import Tensor, nn

from ..errors import UserError
from .base import ClassificationMethod
from .standard import binary_losses

MASKS = ("minmax", "l2")
PAIRINGS = ("matching", "independent")
DEFAULT_PAIRS = ("self_no_disparate", "self", "skip")


def valid_pairs(labels: Tensor) -> Tensor:
    """Eqs 1 and 2: (B, B) bool, images that share a label and differ in one, for labels (B, K).

    What is not known (-1) or mixed counts as not there.
    """
    labels = (labels == 1).float()
    shared = labels @ labels.T
    sizes = labels.sum(dim=1)
    return (shared > 0) & (sizes[:, None] + sizes > 2 * shared)


def random_matching(valid: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Partners (B,) of a random maximal matching of the pairs ``valid`` (B, B); alone: itself.

    Every pair gets a random weight; pairs that are the best of both are matched, until none is
    left. No round waits for a device: there are more of them than random weights need.
    """
    number = len(valid)
    weights = torch.rand(number, number, generator=generator, device=valid.device).triu(1)
    weights = torch.where(valid, weights + weights.T + 1e-9, 0.0)
    images = torch.arange(number, device=valid.device)
    partner = images.clone()
    is_free = torch.ones_like(images, dtype=torch.bool)
    for _ in range(4 + math.ceil(math.log2(max(number, 2))) * 2):
        weight, best = (weights * (is_free[:, None] & is_free)).max(dim=1)
        is_matched = (weight > 0) & (best[best] == images)
        partner = torch.where(is_matched, best, partner)
        is_free = is_free & ~is_matched
    return partner


def random_partners(valid: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(B,) for each image one of its partners in ``valid`` (B, B), with replacement; or itself."""
    has_partner = valid.any(dim=1)
    chances = valid.float() + torch.diag(~has_partner).float()
    return torch.multinomial(chances, 1, generator=generator)[:, 0]


def mask_of(product: Tensor, kind: str, epsilon: float = 1e-6) -> Tensor:
    """Eqs 3 and 4: (B, D) mask of the products (B, D) of two features that are not negative."""
    if kind == "l2":
        return product / product.norm(dim=1, keepdim=True).clamp(min=epsilon)
    low, high = product.amin(dim=1, keepdim=True), product.amax(dim=1, keepdim=True)
    return (product - low) / (high - low).clamp(min=epsilon)


class INDeeD(ClassificationMethod):
    """Sigmoid cross entropy on images, and on what pairs of them share and do not (eqs 5 to 11).

    An image i with its partner q contributes, through the same last layer, its own loss, that of
    the identical part m f_i towards the labels that both have, and that of the disparate part
    (1 - m) f_i towards those that q lacks; m is the mask of f_i f_q. The sum over images is the
    paper's sum over pairs. At inference nothing of this runs.

    Args:
        mask: "minmax" (eq. 4) or "l2" (eq. 3).
        weight: lambda of eq. 6.
        ramp_steps: training steps in which the weight rises linearly from 0.
        pairing: "matching": each image is in one pair at most, as many as can be; "independent":
            each draws a partner among all that are valid.
        default_pair: what an image without a partner contributes, paired with itself:
            "self_no_disparate" its identical part, "self" both, "skip" neither.
        default_pair_weight: of all losses of such an image.
        identical, disparate: switches of the two parts (Tables 4 and 5).
        detach_mask: no gradient through the mask.
        epsilon: divisors of the masks are at least this.
        label_smoothing: see :func:`~.standard.binary_losses`.
    """

    is_multi_label = True

    def __init__(
        self,
        *,
        mask: str = "minmax",
        weight: float = 1.0,
        ramp_steps: int = 0,
        pairing: str = "matching",
        default_pair: str = "self_no_disparate",
        default_pair_weight: float = 1.0,
        identical: bool = True,
        disparate: bool = True,
        detach_mask: bool = False,
        epsilon: float = 1e-6,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        self.mask = mask
        self.weight = weight
        self.ramp_steps = ramp_steps
        self.pairing = pairing
        self.default_pair = default_pair
        self.default_pair_weight = default_pair_weight
        self.identical = identical
        self.disparate = disparate
        self.detach_mask = detach_mask
        self.epsilon = epsilon
        self.label_smoothing = label_smoothing
        self.register_buffer("num_steps", torch.tensor(0))
        self._is_checked = False

    def losses(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See the base class.

        Raises:
            UserError: features are negative (looked for in the first batch): the masks need
                those of a ReLU.
        """
        features = model.features(images)
        with torch.autocast(features.device.type, enabled=False):
            features, labels = features.float(), labels.float()
            self._check(features)
            weight = self._next_weight()
            pair = random_matching if self.pairing == "matching" else random_partners
            partner = pair(valid_pairs(labels))
            is_alone = partner == torch.arange(len(partner), device=partner.device)
            theirs = labels[partner]
            losses = {"loss_class": self._loss(model.head(features), labels, is_alone, True)}
            if not (self.identical or self.disparate):
                return losses
            mask = mask_of(features * features[partner], self.mask, self.epsilon)
            if self.detach_mask:
                mask = mask.detach()
            if self.identical:
                outputs = model.head(mask * features)
                counts_alone = self.default_pair != "skip"
                loss = self._loss(outputs, _shared(labels, theirs), is_alone, counts_alone)
                losses["loss_identical"] = weight * loss
            if self.disparate:
                outputs = model.head((1 - mask) * features)
                counts_alone = self.default_pair == "self"
                loss = self._loss(outputs, _lacking(labels, theirs), is_alone, counts_alone)
                losses["loss_disparate"] = weight * loss
            return losses

    def _loss(
        self, outputs: Tensor, labels: Tensor, is_alone: Tensor, counts_alone: bool
    ) -> Tensor:
        terms = binary_losses(outputs, labels, self.label_smoothing)
        weight_alone = self.default_pair_weight if counts_alone else 0.0
        if weight_alone != 1.0:
            terms = torch.where(is_alone, weight_alone * terms, terms)
        return terms.mean()

    def _check(self, features: Tensor) -> None:
        """Once: later batches do not wait for the device."""
        if self._is_checked:
            return
        self._is_checked = True
        lowest = float(features.detach().min())
        if lowest < 0:
            raise UserError(
                f"INDeeD takes products of features apart, which must not be negative; this body "
                f"gives {lowest:.3g}: choose one that ends with a ReLU"
            )

    def _next_weight(self) -> Tensor | float:
        if self.ramp_steps == 0:
            return self.weight
        share = (self.num_steps.float() / self.ramp_steps).clamp(max=1.0)
        self.num_steps += 1
        return self.weight * share

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid()


def _shared(own: Tensor, theirs: Tensor) -> Tensor:
    """(B, K) 1 for classes that both have, 0 for the others, -1 where that is not known."""
    is_unknown = ((own < 0) & (theirs != 0)) | ((theirs < 0) & (own != 0))
    return torch.where(is_unknown, -1.0, own * theirs)


def _lacking(own: Tensor, theirs: Tensor) -> Tensor:
    """(B, K) 1 for own classes that the other lacks, 0 for all others, -1 if not known."""
    is_unknown = ((own < 0) & (theirs != 1)) | ((theirs < 0) & (own != 0))
    return torch.where(is_unknown, -1.0, own * (1 - theirs))
