#!/usr/bin/env python
"""Train or evaluate a model from a config file.

    python tools/train_net.py --config-file configs/quick/semi_anchored_retinanet_digit_scenes.yaml

``--help`` lists the arguments; ``KEY VALUE`` pairs at the end override config keys. The exit
status is 0 when done, 2 for a mistake in the command line, the config or the data, and 1 otherwise.
"""

import sys

from anchorkit.engine import argument_parser, launch, main
from anchorkit.errors import exit_status


def run() -> int:
    """Run the command line; returns the exit status."""
    args = argument_parser().parse_args()
    try:
        return exit_status("train_net", lambda: launch(main, args))
    except FloatingPointError as error:
        print(f"train_net: stopped: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(run())
