"""Networks turned into machine code with ``torch.compile``."""

import os
import shutil

from torch import nn

from ..errors import UserError


def compile_networks(model: nn.Module) -> None:
    """Compile body and head in place when they first run; names of weights stay as they are.

    Labels, losses and detections, whose sizes change with every image, stay as they are.

    Args:
        model: a detector or a classifier, on its device.

    Raises:
        UserError: on a CPU, which needs a C++ compiler, without one.
    """
    compiler = os.environ.get("CXX", "g++")
    if next(model.parameters()).device.type == "cpu" and shutil.which(compiler) is None:
        raise UserError(
            f"MODEL.COMPILE needs a C++ compiler on a CPU, but there is no {compiler!r}; install "
            "one, name another in the environment variable CXX, or leave MODEL.COMPILE False"
        )
    for name in ("backbone", "body", "head"):
        network = getattr(model, name, None)
        if network is not None:
            network.compile()
