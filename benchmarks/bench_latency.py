#!/usr/bin/env python
"""Latency and size of INT8 against FP32, in the same run.

    python benchmarks/bench_latency.py                       # MiniLM-L6 and BERT-base shapes, random weights
    python benchmarks/bench_latency.py --shape minilm --repeats 50 --json latency.json

Random weights of the published shapes: speed and size do not depend on what a model has learnt. The calls of all
models take turns, so a noisy machine slows them alike; medians are printed.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CONFIG = ROOT / "nncf_configs" / "nncf_bert_config_squad.json"
SHAPES = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert-base": {},
}


def main() -> int:
    """Print one block of figures a shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="may be given twice (default: both)")
    parser.add_argument("--sequence", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args()
    figures = {shape: measure(shape, args.sequence, args.repeats) for shape in args.shape or SHAPES}
    for shape, values in figures.items():
        print(f"{shape}, batch 1 x {args.sequence}")
        for key, value in values.items():
            print(f"  {key:34} {value:8.3f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(shape: str, sequence: int, repeats: int) -> dict[str, float]:
    """Export a model of this shape in FP32 and INT8, and time both in both runtimes (ms, MB, ratios)."""
    import torch
    from transformers import BertConfig, BertForQuestionAnswering

    from nncf_transformers.compression import Compression
    from nncf_transformers.config import parse_config
    from nncf_transformers.evaluation import latency_ms
    from nncf_transformers.export import export_model
    from nncf_transformers.inputs import synthetic_inputs
    from nncf_transformers.runtimes import Runtime, onnx_runtime, openvino_runtime

    logging.getLogger("nncf").setLevel(logging.ERROR)
    torch.manual_seed(0)
    model = BertForQuestionAnswering(BertConfig(**SHAPES[shape])).eval()
    loaders: dict[str, Callable[[], Runtime]] = {}
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("fp32", "int8"):
            if kind == "int8":
                # The SQuAD configuration; speed does not depend on how well it was calibrated.
                settings = json.loads(CONFIG.read_text(encoding="utf-8"))["algorithms"][0]
                config = parse_config({"algorithms": [settings | {"calibration_samples": 4}]}, CONFIG.name)
                Compression(config).start(model, [synthetic_inputs(model, 4, 64)])
            file, ir = Path(folder, f"{kind}.onnx"), Path(folder, kind)
            export_model(model, to_onnx=str(file), to_openvino=str(ir))
            figures[f"{kind} ONNX MB"] = file.stat().st_size / 1e6
            figures[f"{kind} OpenVINO MB"] = (ir / "openvino_model.bin").stat().st_size / 1e6
            xml = ir / "openvino_model.xml"
            loaders[f"{kind} ONNX Runtime ms"] = partial(onnx_runtime, file)
            # FP32 is computed in float32; left to itself, OpenVINO takes bfloat16 where the processor has it.
            loaders[f"{kind} OpenVINO ms"] = partial(openvino_runtime, xml, exact=kind == "fp32")
            if kind == "fp32":
                loaders["own choice OpenVINO ms"] = partial(openvino_runtime, xml)
        row = {name: tensor.numpy() for name, tensor in synthetic_inputs(model, 1, sequence).items()}
        row["attention_mask"].fill(1)
        # One runtime after the other: the idle threads of ONNX Runtime spin, and would slow OpenVINO's.
        for engine in ("OpenVINO", "ONNX Runtime"):
            figures |= latency_ms({name: run() for name, run in loaders.items() if engine in name}, row, repeats)
    for unit in ("ONNX MB", "OpenVINO MB", "ONNX Runtime ms", "OpenVINO ms"):
        figures[f"int8 / fp32 {unit.rsplit(' ', 1)[0]} {'size' if unit.endswith('MB') else 'time'}"] = (
            figures[f"int8 {unit}"] / figures[f"fp32 {unit}"]
        )
    own = figures["int8 OpenVINO ms"] / figures["own choice OpenVINO ms"]
    figures["int8 / own choice OpenVINO time"] = own
    return figures


if __name__ == "__main__":
    sys.exit(main())
