"""Anchor-centred training methods for detectron2. Importing it registers everything."""

import warnings

__version__ = "0.1.0"

# detectron2 and fvcore script some functions on import, which recent torch calls deprecated.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)

from . import data, modeling  # noqa: E402

__all__ = ["data", "modeling"]
