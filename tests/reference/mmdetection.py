"""mmdetection's anchor-free detectors, layer by layer from a state dict of its names."""

import torch
import torch.nn.functional as F
from torchvision.models import resnet18

STRIDES = (8, 16, 32, 64, 128)


def random_state(
    *, channels=64, num_classes=3, prefix="conv", norm=True, bias=False, scales=True,
    centerness=True, p6_channels=None,
):  # fmt: skip
    """A state dict of ResNet-18, FPN and head with the names that mmdetection gives them."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape, spread=1.0):
        return spread * torch.randn(*shape, generator=generator)

    def conv(name, out_channels, in_channels, kernel, with_bias=True):
        fan_in = in_channels * kernel**2
        state[f"{name}.weight"] = random(
            out_channels, in_channels, kernel, kernel, spread=(2 / fan_in) ** 0.5
        )
        if with_bias:
            state[f"{name}.bias"] = random(out_channels, spread=0.1)

    torch.manual_seed(0)
    state = {
        f"backbone.{name}": value
        for name, value in resnet18(weights=None).state_dict().items()
        if not name.startswith("fc.")
    }
    for name, value in state.items():
        if name.endswith(("running_mean", "running_var")):
            state[name] = value + random(*value.shape, spread=0.1).abs()
    for level, width in enumerate((128, 256, 512)):
        conv(f"neck.lateral_convs.{level}.conv", channels, width, 1)
        conv(f"neck.fpn_convs.{level}.conv", channels, channels, 3)
    conv("neck.fpn_convs.3.conv", channels, p6_channels or channels, 3)
    conv("neck.fpn_convs.4.conv", channels, channels, 3)
    for tower in ("cls_convs", "reg_convs"):
        for index in range(4):
            name = f"bbox_head.{tower}.{index}"
            conv(f"{name}.conv", channels, channels, 3, with_bias=bias or not norm)
            if norm:
                state[f"{name}.gn.weight"] = 1 + random(channels, spread=0.1)
                state[f"{name}.gn.bias"] = random(channels, spread=0.1)
    conv(f"bbox_head.{prefix}_cls", num_classes, channels, 3)
    conv(f"bbox_head.{prefix}_reg", 4, channels, 3)
    if centerness:
        conv(f"bbox_head.{prefix}_centerness", 1, channels, 3)
    if scales:
        for level in range(5):
            state[f"bbox_head.scales.{level}.scale"] = torch.tensor(1.0 + 0.1 * level)
    return state


def pyramid(state, pixels, *, relu_before_extra_convs):
    """P3 to P7 of normalised images (N, 3, H, W)."""
    body = resnet18(weights=None).eval()
    weights = {k.removeprefix("backbone."): v for k, v in state.items() if "backbone." in k}
    body.load_state_dict(weights | {k: v for k, v in body.state_dict().items() if "fc." in k})
    x = body.maxpool(body.relu(body.bn1(body.conv1(pixels))))
    c2 = body.layer1(x)
    c3 = body.layer2(c2)
    c4 = body.layer3(c3)
    c5 = body.layer4(c4)

    def conv(name, x, stride=1):
        weight, bias = state[f"neck.{name}.conv.weight"], state[f"neck.{name}.conv.bias"]
        return F.conv2d(x, weight, bias, stride=stride, padding=weight.shape[-1] // 2)

    laterals = [conv(f"lateral_convs.{i}", x) for i, x in enumerate((c3, c4, c5))]
    for i in (1, 0):
        higher = F.interpolate(laterals[i + 1], size=laterals[i].shape[2:], mode="nearest")
        laterals[i] = laterals[i] + higher
    maps = [conv(f"fpn_convs.{i}", x) for i, x in enumerate(laterals)]
    from_c5 = state["neck.fpn_convs.3.conv.weight"].shape[1] == c5.shape[1]
    p6 = conv("fpn_convs.3", c5 if from_c5 else maps[2], stride=2)
    p7 = conv("fpn_convs.4", p6.relu() if relu_before_extra_convs else p6, stride=2)
    return [*maps, p6, p7]


def tower(state, name, x):
    for index in range(4):
        place = f"bbox_head.{name}.{index}"
        x = F.conv2d(x, state[f"{place}.conv.weight"], state.get(f"{place}.conv.bias"), padding=1)
        if f"{place}.gn.weight" in state:
            x = F.group_norm(x, 32, state[f"{place}.gn.weight"], state[f"{place}.gn.bias"])
        x = x.relu()
    return x


def outputs(state, maps, *, prefix="conv", centerness_on_reg=False):
    """For each level logits, box outputs times their scale, and centerness or None."""

    def last(name, x):
        name = f"bbox_head.{prefix}_{name}"
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    levels = []
    for level, x in enumerate(maps):
        class_feature, box_feature = tower(state, "cls_convs", x), tower(state, "reg_convs", x)
        boxes = last("reg", box_feature) * state.get(f"bbox_head.scales.{level}.scale", 1.0)
        centerness = None
        if f"bbox_head.{prefix}_centerness.weight" in state:
            centerness = last("centerness", box_feature if centerness_on_reg else class_feature)
        levels.append((last("cls", class_feature), boxes, centerness))
    return levels


def boxes(box_outputs, *, units, offset, relu):
    """Boxes (N, H W, 4) of each level, point by point."""
    result = []
    for values, stride, unit in zip(box_outputs, STRIDES, units, strict=True):
        height, width = values.shape[-2:]
        distances = (values.relu() if relu else values.exp()) * unit
        rows = []
        for y in range(height):
            for x in range(width):
                px, py = (x + offset) * stride, (y + offset) * stride
                left, top, right, bottom = distances[:, :, y, x].unbind(1)
                rows.append(torch.stack([px - left, py - top, px + right, py + bottom], dim=1))
        result.append(torch.stack(rows, dim=1))
    return result
