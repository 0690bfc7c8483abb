"""How much more a training step costs with movement sparsity or distillation than quantization alone, on CPU.

    python benchmarks/bench_methods.py                      # both shapes
    python benchmarks/bench_methods.py --shape minilm --json methods.json

A step is that of bench_step.py; the models take turns in one process, and the printed ratios are those of the medians
to the QAT step. Movement sparsity is in its warm-up, with the structure of nncf_bert_config_squad_jpqd.json: scores,
masks, penalty, new masks after every step. The teacher is of the student's own size; with the cache its logits come
from the disk.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import BertForQuestionAnswering

from benchmarks.bench_step import (
    SHAPES,
    Shape,
    Variant,
    make_batch,
    make_step,
    measure,
    processor,
    summarise,
    write_records,
)
from nncf_transformers import Compression
from nncf_transformers.config import parse_config

QUANTIZATION = {"algorithm": "quantization", "preset": "mixed", "smooth_quant": 0.95, "calibration_samples": 1}
MOVEMENT = {
    "algorithm": "movement_sparsity",
    "warmup_start_epoch": 0,
    "warmup_end_epoch": 1,
    "importance_regularization_factor": 0.02,
    "ignored_scopes": ["qa_outputs"],
    "sparse_structure_by_scopes": [
        {"mode": "block", "sparse_factors": [32, 32], "target_scopes": ["{re}attention"]},
        {"mode": "per_dim", "axis": 0, "target_scopes": ["{re}intermediate"]},
        {"mode": "per_dim", "axis": 1, "target_scopes": [r"{re}layer\.\d+\.output"]},
    ],
}
DISTILLATION = {"algorithm": "distillation", "teacher": "self"}


def run(shape: Shape, steps: int) -> dict[str, Any]:
    """Build the models, take the steps, and return everything that belongs to the record."""
    batch = make_batch(shape, shape.config().vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        variants = {
            "qat": [QUANTIZATION],
            "qat + movement sparsity": [MOVEMENT, QUANTIZATION],
            "qat + distillation, cached": [QUANTIZATION, {**DISTILLATION, "cache": folder}],
            "qat + distillation": [QUANTIZATION, DISTILLATION],
            "jpqd, cached": [MOVEMENT, QUANTIZATION, {**DISTILLATION, "cache": folder}],
        }
        made = {name: Variant(_step(shape, batch, algorithms)) for name, algorithms in variants.items()}
        results = {name: summarise(measurements) for name, measurements in measure(made, steps).items()}
    reference = results["qat"]["median"]["total"]
    for result in results.values():
        result["ratio"] = round(result["median"]["total"] / reference, 3)
    return {
        "shape": asdict(shape),
        "variants": results,
        "threads": torch.get_num_threads(),
        "machine": processor(),
        "torch": torch.__version__,
    }


def _step(shape: Shape, batch: dict[str, torch.Tensor], algorithms: list[dict[str, Any]]) -> Any:
    # The same weights for all, or the cache would be another teacher's.
    torch.manual_seed(0)
    model = BertForQuestionAnswering(shape.config())
    compression = Compression(parse_config({"algorithms": algorithms}, "bench"))
    compression.start(model, [batch])
    return make_step(
        model,
        batch,
        lambda optimizer: compression.add_to(optimizer, model, steps_per_epoch=100_000, total_steps=100_000),
    )


def render(record: dict[str, Any]) -> str:
    """The record as a table for people."""
    lines = [f"{record['machine']}, {record['threads']} threads, torch {record['torch']}; times in ms"]
    for name, result in record["variants"].items():
        m = result["median"]
        lines.append(
            f"{name:<28}{m['total']:>8.0f}{m['forward']:>8.0f}{m['backward']:>8.0f}{m['optimizer']:>8.0f}"
            f"{result['ratio']:>8.3f} x"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="may be given twice (default: both)")
    parser.add_argument("--steps", type=int, default=10, help="of each variant (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the records")
    arguments = parser.parse_args(argv)
    if arguments.steps < 1:
        parser.error(f"--steps {arguments.steps}: at least one step is needed")
    records = {}
    for name in arguments.shape or SHAPES:
        records[name] = run(SHAPES[name], arguments.steps)
        print(f"{name}\n{render(records[name])}", flush=True)
    if arguments.json:
        write_records(records, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
