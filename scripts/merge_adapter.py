#!/usr/bin/env python
"""Merge an adapter into the weights of its model: the result is a plain model, as large and as fast as the base.

    python scripts/merge_adapter.py --model google-bert/bert-base-uncased --adapter runs/squad-lora --output runs/merged
    make squad-int8 MODEL=runs/merged                       # quantization-aware training of the merged model

--adapter is an adapter's folder, or the output folder of the run that trained it; --model is the model that it was
trained on. The LoRA family can be merged (lora, ia3, dora, vera, …); bottlenecks and prefixes are layers of their own
and cannot. Merging changes weights, so the model must not be quantized: quantize the merged one.
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
    """Merge and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR", help="the model that the adapter was trained on")
    parser.add_argument("--adapter", required=True, metavar="DIR", help="the adapter, or the run that trained it")
    parser.add_argument("--output", required=True, metavar="DIR", help="where to write the merged model")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from nncf_transformers.adapter.flags import check_library

    check_library("merge_adapter.py")
    from nncf_transformers.adapter.merge import merge_adapter

    merge_adapter(args.model, args.adapter, args.output)


if __name__ == "__main__":
    excepthook.install()
    main()
