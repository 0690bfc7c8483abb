"""The flags that the overlay adds to a script, once as dataclass fields and once for argparse."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

from nncf_transformers.config import CompressionConfig, load_config
from nncf_transformers.errors import UsageError
from nncf_transformers.export import check_targets


@dataclass
class CompressionFlags:
    """What the user asked for; every flag is also accepted with hyphens."""

    nncf_config: str | None = field(
        default=None,
        metadata={"help": "Compression configuration (JSON). Without it the script behaves as it does upstream."},
    )
    to_onnx: str | None = field(
        default=None, metadata={"help": "Write the trained or loaded model to this ONNX file and check it."}
    )
    to_openvino: str | None = field(
        default=None, metadata={"help": "Write the trained or loaded model to this folder as OpenVINO IR and check it."}
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Read the data set that the script would download from this folder."}
    )

    def check(self) -> CompressionConfig | None:
        """Check every flag before any work is done, and read the configuration.

        Raises:
            UsageError: in one line, what is wrong with which flag.
        """
        check_targets(self.to_onnx, self.to_openvino)
        if self.data_dir is not None and not Path(self.data_dir).is_dir():
            raise UsageError(f"--data-dir {self.data_dir}: no such folder")
        return load_config(self.nncf_config) if self.nncf_config is not None else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a script that uses argparse, in both spellings; one that it already has gets the other spelling.

    Each is checked as it is parsed, hence before the script does any work.
    """
    for flag in fields(CompressionFlags):
        spellings = [f"--{flag.name}", f"--{flag.name.replace('_', '-')}"]
        existing = parser._option_string_actions.get(spellings[0])
        if existing is not None:
            parser._option_string_actions.setdefault(spellings[1], existing)
        else:
            parser.add_argument(*spellings, default=None, type=_checked(flag.name), help=flag.metadata["help"])


def _checked(name: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        CompressionFlags(**{name: value}).check()
        return value

    return check


def flags_of(args: argparse.Namespace) -> CompressionFlags:
    """Collect the flags from parsed arguments; a script's own ``--data_dir`` stays the script's."""
    return CompressionFlags(nncf_config=args.nncf_config, to_onnx=args.to_onnx, to_openvino=args.to_openvino)
