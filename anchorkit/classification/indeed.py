"""INDeeD: pairs of multi-label images, taken apart into what they share and what they do not."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import ClassificationMethod

MASKS = ("minmax", "l2")
PAIRINGS = ("matching", "independent")
DEFAULT_PAIRS = ("self_no_disparate", "self", "skip")


def valid_pairs(labels: Tensor) -> Tensor:
    """Eqs 1 and 2: (B, B) bool, images that share a label and differ in one, for labels (B, K)."""
    labels = labels.float()
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


def binary_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """Eq. 10: (B,) sigmoid cross entropy summed over the classes."""
    return F.binary_cross_entropy_with_logits(outputs, labels, reduction="none").sum(dim=1)


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
        identical, disparate: switches of the two parts (Tables 4 and 5).
        detach_mask: no gradient through the mask.
    """

    def __init__(
        self,
        *,
        mask: str = "minmax",
        weight: float = 1.0,
        ramp_steps: int = 0,
        pairing: str = "matching",
        default_pair: str = "self_no_disparate",
        identical: bool = True,
        disparate: bool = True,
        detach_mask: bool = False,
    ):
        super().__init__()
        self.mask = mask
        self.weight = weight
        self.ramp_steps = ramp_steps
        self.pairing = pairing
        self.default_pair = default_pair
        self.identical = identical
        self.disparate = disparate
        self.detach_mask = detach_mask
        self.register_buffer("num_steps", torch.tensor(0))

    def losses(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        features = model.features(images)
        with torch.autocast(features.device.type, enabled=False):
            features, labels = features.float(), labels.float()
            weight = self._next_weight()
            pair = random_matching if self.pairing == "matching" else random_partners
            partner = pair(valid_pairs(labels))
            mask = mask_of(features * features[partner], self.mask)
            if self.detach_mask:
                mask = mask.detach()
            is_alone = partner == torch.arange(len(partner), device=partner.device)
            theirs = labels[partner]
            losses = {"loss_class": binary_losses(model.head(features), labels).mean()}
            if self.identical:
                terms = binary_losses(model.head(mask * features), labels * theirs)
                terms = terms.masked_fill(is_alone, 0.0) if self.default_pair == "skip" else terms
                losses["loss_identical"] = weight * terms.mean()
            if self.disparate:
                terms = binary_losses(model.head((1 - mask) * features), labels * (1 - theirs))
                terms = terms if self.default_pair == "self" else terms.masked_fill(is_alone, 0.0)
                losses["loss_disparate"] = weight * terms.mean()
            return losses

    def _next_weight(self) -> Tensor | float:
        if self.ramp_steps == 0:
            return self.weight
        share = (self.num_steps.float() / self.ramp_steps).clamp(max=1.0)
        self.num_steps += 1
        return self.weight * share

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid()
