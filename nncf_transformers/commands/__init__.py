"""The console scripts: each parses, calls what does the work, and prints."""

import argparse
import logging
import os
from collections.abc import Sequence

from nncf_transformers import excepthook


def begin(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; as the script itself (``argv`` is None), also set up its log and its last words."""
    args = parser.parse_args(argv)
    if argv is None:
        # No library behind this calls home, and no model is looked for on a hub.
        os.environ.update(HF_HUB_OFFLINE="1", OPENVINO_TELEMETRY_DISABLE="1", TOKENIZERS_PARALLELISM="false")
        logging.basicConfig(format="%(message)s")
        logging.getLogger("nncf_transformers").setLevel(logging.INFO)
        logging.getLogger("nncf").setLevel(logging.ERROR)
        excepthook.install()
    return args


def positive(text: str) -> int:
    """A flag's value that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value
