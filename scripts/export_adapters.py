#!/usr/bin/env python
"""Export the adapters of one base: a small ONNX file for each task, and the base's weights once.

    python scripts/export_adapters.py --model runs/base-int8 --adapters runs/squad runs/news --output tasks

    tasks/base.weights            the weights of the base, INT8 if it is
    tasks/squad.onnx              the graph, the adapter and the head of one task
    tasks/news.onnx

Both ONNX Runtime and OpenVINO read tasks/squad.onnx as it is, if base.weights lies beside it. A task has the name of
its folder. A later call with the same base and the same output adds tasks. Every file is run against the model in
memory before it is put in place.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OPENVINO_TELEMETRY_DISABLE", "1")

from nncf_transformers import excepthook  # noqa: E402


def main() -> None:
    """Export, and print what it costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR", help="the model that the adapters were trained on")
    parser.add_argument(
        "--adapters", required=True, nargs="+", metavar="DIR", help="adapters, or the runs that trained them"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where to write")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from nncf_transformers.adapter.flags import check_library

    check_library("export_adapters.py")
    from nncf_transformers.adapter.share import WEIGHTS_FILE, export_adapters

    tasks = export_adapters(args.model, args.adapters, args.output)
    base = Path(args.output, WEIGHTS_FILE).stat().st_size
    own, whole = sum(task.bytes for task in tasks), sum(task.whole for task in tasks)
    print(
        f"{len(tasks)} tasks: {(base + own) / 1e6:.2f} MB ({base / 1e6:.2f} MB shared), "
        f"{whole / 1e6:.2f} MB as files of their own"
    )


if __name__ == "__main__":
    excepthook.install()
    main()
