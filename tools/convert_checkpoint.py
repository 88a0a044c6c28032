#!/usr/bin/env python
"""Convert the weights of other libraries to those of a model of here.

    python tools/convert_checkpoint.py vgg16 weights/vgg16_ssd.pth
    python tools/convert_checkpoint.py resnet50 weights/resnet50.pth \\
        --config-file configs/COCO-Detection/fcos_R_50_FPN_1x.yaml
    python tools/convert_checkpoint.py fcos_r50.pth weights/fcos_r50.safetensors \\
        --config-file configs/COCO-Detection/fcosv2_R_50_FPN_1x.yaml
    python tools/convert_checkpoint.py output/model_final.pth weights/mine.safetensors --half \\
        --config-file output/config.yaml

The first argument is a file, or the name of a model whose weights torchvision then downloads. What
it is, is told by the names of its tensors:

- torchvision's ResNet, ResNeXt and Wide ResNet (also in ResNet-18 to -152 of detectron2 under an
  FPN), VGG-16 (for SSD), SSD300, RetinaNet (both versions) and FCOS; any classifier of torchvision
  or timm for an image classifier whose body it is;
- Caffe2's ResNets of the model zoos: R-50.pkl, R-101.pkl, X-101-32x8d.pkl;
- mmdetection's FCOS and FoveaBox, and DSLA's files;
- what was trained here: the weights alone are kept, the averaged ones if there are any.

Not converted, since no model here has such parts: torchvision's two-stage detectors, bodies with
group normalisation, deformable convolutions, and a P6 from a lateral map. torchvision's RetinaNet
rounds its anchors to whole pixels, so that boxes differ by up to a pixel; logits and deltas do not.

With --config-file every tensor is compared with the model's; the report says what matched, what did
not, and which config keys belong to the weights. Without it only VGG-16 and SSD300 are converted.
Nothing is written unless all fits; a classifier of other classes is left out, and the report says
so. The exit status is 2 for a mistake in the command line or in the file.
"""

import argparse
import difflib
import functools
import hashlib
import os
import sys
from collections.abc import Sequence

import anchorkit  # noqa: F401  first: it hides a warning that importing detectron2 raises

# isort: split
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_model
from torchvision.models import get_model_weights

from anchorkit.checkpoint import read_checkpoint, write_weights
from anchorkit.config import check_choice, load_config
from anchorkit.conversion import Conversion, convert, convertible_names, format_report, halve
from anchorkit.conversion.report import assignment, same
from anchorkit.data import register_datasets
from anchorkit.errors import UserError, exit_status, quoted


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="FILE", help="weights, or torchvision's name of a model")
    parser.add_argument("target", metavar="OUTPUT", help="for MODEL.WEIGHTS: .pth or .safetensors")
    parser.add_argument(
        "--config-file", default="", metavar="F", help="of the model that the weights are for"
    )
    parser.add_argument("--half", action="store_true", help="write weights in half precision")
    parser.add_argument(
        "--trust-pickle", action="store_true",
        help="read Python objects in FILE, which can run any code: only for files you trust",
    )  # fmt: skip
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE",
        help="config keys to override; must come last",
    )  # fmt: skip
    return parser


def main(args: argparse.Namespace) -> None:
    if args.opts and not args.config_file:
        raise UserError("--opts changes keys of a config; name one with --config-file")
    cfg = load_target(args.config_file, args.opts) if args.config_file else None
    model = None if cfg is None else build_model(cfg)
    if os.path.isfile(args.source):
        content, sha256 = load(args.source, trust_pickle=args.trust_pickle)
    else:
        content, sha256 = download(args.source, convertible_names(model))
    conversion = convert(content, model, sha256=sha256)
    differing = compare(conversion, cfg) if cfg is not None else []
    if conversion.problem:
        hint = f"; such weights need {' '.join(differing)}" if differing else ""
        raise UserError(f"{args.source}: {conversion.problem}{hint}")
    weights = halve(conversion.weights) if args.half else conversion.weights
    write_weights(args.target, weights)
    count = sum(weight.numel() for weight in conversion.weights.values())
    print(f"{args.target}: {len(conversion.weights)} tensors, {count:,} numbers")


def load_target(path: str, overrides: Sequence[str]) -> CfgNode:
    """The config of the model, on the CPU, with the user's own data sets known by name."""
    cfg = load_config(path, overrides)
    cfg.MODEL.DEVICE = "cpu"
    for key, name, registry in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
    ):
        check_choice(key, name, [known for known, _ in registry])
    register_datasets(cfg)
    return cfg


def load(path: str, *, trust_pickle: bool) -> tuple[dict, str]:
    """What a file holds, and its sha256."""
    content = read_checkpoint(path, trust_pickle=trust_pickle)
    with open(path, "rb") as file:
        return content, hashlib.file_digest(file, "sha256").hexdigest()


def download(name: str, known: Sequence[str]) -> tuple[dict, str]:
    """The state dict that torchvision has for one of these models, and digits of its sha256."""
    if name not in known:
        nearest = difflib.get_close_matches(os.path.basename(name), known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known are {quoted(known)}"
        raise UserError(f"no file {name}, and no such model of torchvision fits this one; {hint}")
    weights = get_model_weights(name).DEFAULT
    try:
        content = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{weights.url}: cannot be fetched ({error}); download it, and give its path"
        ) from error
    return content, weights.url.rsplit("-")[-1].removesuffix(".pth")


def compare(conversion: Conversion, cfg: CfgNode) -> list[str]:
    """Print the report; returns the keys of the model's structure that ought to be changed."""
    name_map = conversion.name_map
    current = {
        key: functools.reduce(getattr, key.split("."), cfg)
        for key in (*name_map.structure, *name_map.settings)
    }
    print(format_report(conversion, current))
    return [
        assignment(key, value)
        for key, value in name_map.structure.items()
        if not same(value, current[key])
    ]


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return exit_status("convert_checkpoint", lambda: main(argument_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(run())
