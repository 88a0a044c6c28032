"""Small network parts that several heads share."""

import math
from collections.abc import Sequence

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn
from torchvision.ops import DeformConv2d


def conv_tower(
    channels: int, num_convs: int, norm: str, *, bias: bool = False, deformable: bool = False
) -> nn.Sequential:
    """``num_convs`` times 3x3 convolution, normalisation, ReLU, shared by all feature levels.

    Args:
        channels: of the input and of every convolution.
        num_convs: 0 gives an empty tower that returns its input.
        norm: "GN" (32 groups), or "" for none. Batch normalisation shared by levels would mix
            their statistics and is refused.
        bias: of convolutions that a normalisation follows; the others always have one.
        deformable: the last convolution is a :class:`DeformHeadConv`.

    Raises:
        ValueError: a normalisation other than "GN" or "".
    """
    if norm not in ("GN", ""):
        raise ValueError(f"towers are shared by feature levels: norm is 'GN' or '', not {norm!r}")
    layers: list[nn.Module] = []
    for index in range(num_convs):
        is_deformed = deformable and index == num_convs - 1
        kind = DeformHeadConv if is_deformed else head_conv
        layers.append(kind(channels, channels, bias=bias or not norm))
        if norm:
            layers.append(get_norm(norm, channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def head_conv(in_channels: int, out_channels: int, bias: bool = True, prior: float = 0.5):
    """3x3 convolution initialised as RetinaNet's heads are: weights N(0, 0.01).

    Args:
        prior: the probability that the sigmoid of the output starts with (0.5 is a zero bias).
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)
    nn.init.normal_(conv.weight, std=0.01)
    if bias:
        nn.init.constant_(conv.bias, math.log(prior / (1 - prior)))
    return conv


class DeformConv(DeformConv2d):
    """Deformable convolution; torchvision's operator, since detectron2's must be compiled.

    Another convolution says for each output where the kernel's samples are taken (Dai et al., 2017)
    and, if it is modulated, how much each of them counts (Zhu et al., 2019).

    Args:
        modulated: samples are weighted.
        arguments, options: as of torchvision's DeformConv2d.
    """

    def __init__(self, *arguments, modulated: bool, **options):
        super().__init__(*arguments, **options)
        self.modulated = modulated

    def forward(self, x: Tensor, sampling: Tensor) -> Tensor:
        """The convolution of maps (N, D, H, W).

        Args:
            sampling: (N, S, H', W'), H' x W' being the size of the output. For each of G groups of
                channels and each of the kernel's k places it holds how far the sample is taken
                below and to the right of the place, in pixels of the map; then, if modulated, for
                each group and place the logit of the sample's weight. S is 2 G k, or 3 G k.
        """
        # The operator knows no half precision on CPUs, and on GPUs computes in float32, too.
        offset, mask = sampling.float(), None
        if self.modulated:
            third = sampling.shape[1] // 3
            offset, logits = offset.split([2 * third, third], dim=1)
            mask = logits.sigmoid()
        return super().forward(x.float(), offset, mask).to(x.dtype)


class DeformHeadConv(DeformConv):
    """Modulated 3x3 convolution initialised as :func:`head_conv`, with its own sampling.

    At first nothing is shifted and all samples count one half, which group normalisation undoes.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias, modulated=True)
        nn.init.normal_(self.weight, std=0.01)
        if bias:
            nn.init.zeros_(self.bias)
        self.sampling = nn.Conv2d(in_channels, 3 * 9, kernel_size=3, padding=1)
        nn.init.zeros_(self.sampling.weight)
        nn.init.zeros_(self.sampling.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, out_channels, H, W) of maps (N, in_channels, H, W)."""
        return super().forward(x, self.sampling(x))


def evaluation_order(x: Tensor) -> Tensor:
    """Maps (N, D, H, W) in channels-last order where that is faster: on a CPU without gradients.

    There oneDNN's convolutions otherwise turn every map around, and back. All that follows keeps
    the order.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return x
    return x.contiguous(memory_format=torch.channels_last)


def flatten_levels(maps: Sequence[Tensor], size: int) -> Tensor:
    """Join maps (N, A size, H_l, W_l) of all levels to (N, sum of H_l W_l A, size)."""
    return torch.cat(
        [
            level.view(len(level), -1, size, *level.shape[-2:])
            .permute(0, 3, 4, 1, 2)
            .reshape(len(level), -1, size)
            for level in maps
        ],
        dim=1,
    )
