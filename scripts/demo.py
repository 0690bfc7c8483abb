#!/usr/bin/env python
"""The whole way on a small model: FP32 training, INT8 in two ways, reload, export, and one table.

    make demo
    python scripts/demo.py --out runs/demo --seed 0

Data and model are our own (see demo/), made here from a seed; nothing is downloaded. The upstream is the embedded
stand-in (see embedded/), patched like any other. Figures from generated data say that the machinery works and what INT8
costs on it; they say nothing about accuracy on a real data set.
"""

import argparse
import logging
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"

from benchmarks.harness import Variant, class_scorer, judge, run, squad_scorer, table  # noqa: E402
from scripts.train import script_path  # noqa: E402

PIN = "embedded"
# Marks a folder that an earlier demo made, and a new one may therefore delete.
MARKER = ".nncf-demo"
CONFIG = ROOT / "demo" / "int8.json"
SEQUENCE = 64
# Enough for the small model to learn the task: loss and F1 move late, and then fast.
SQUAD_STEPS = 1500
SQUAD_RATE = 1e-3
# The lowest F1 of the FP32 model with which the comparison means anything.
LEAST_F1 = 85.0


def main() -> int:
    """Run the demo; the exit code is 1 if the FP32 model has not learnt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny learns nothing; for tests")
    args = parser.parse_args()
    start = time.perf_counter()
    out = args.out.resolve()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).is_file())):
        parser.error(f"--out {args.out}: holds something else than a demo; choose another folder")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARKER).touch()
    run([sys.executable, "apply_patch.py", "apply", "--pin", PIN], out / "apply.log")
    data = out / "data"
    run([sys.executable, "-m", "demo.data", "--out", data, "--seed", args.seed, "--size", args.size], out / "data.log")

    results = squad(out, data, args.seed, args.size == "tiny")
    print(f"\nQuestion answering on generated data, {SEQUENCE} tokens:\n")
    print(table(results, ("f1", "exact_match")))
    for title, accuracy in (("Inference", xnli(out, data, args.seed)), ("Sentiment", sst2(out, data, args.seed))):
        print(f"\n{title} on generated data:\n")
        print(table(accuracy, ("accuracy",)))
    print(f"\nThe demo took {(time.perf_counter() - start) / 60:.1f} minutes; its files are in {out}")
    f1 = results["FP32"]["metrics"]["torch"]["f1"]
    if args.size == "full" and f1 < LEAST_F1:
        print(f"error: the FP32 model has F1 {f1:.1f}, less than {LEAST_F1}: nothing was learnt", file=sys.stderr)
        return 1
    return 0


def squad(out: Path, data: Path, seed: int, tiny: bool) -> dict[str, Any]:
    """FP32 and both INT8 models of the question-answering task, judged in every runtime."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    files = ["--train_file", data / "squad/train-v1.1.json", "--predict_file", data / "squad/dev-v1.1.json"]
    common = [sys.executable, script_path(PIN, "run_squad"), "--model_type", "bert", *files, "--do_train", "--no_cuda"]
    common += ["--max_seq_length", SEQUENCE, "--doc_stride", 16, "--max_query_length", 24, "--seed", seed]
    common += ["--per_gpu_train_batch_size", 32, "--logging_steps", 100, "--save_steps", 0]
    steps = 20 if tiny else SQUAD_STEPS
    fp32_flags = ["--max_steps", steps, "--warmup_steps", steps // 12, "--learning_rate", SQUAD_RATE]
    fp32 = _train(common, "FP32", out / "squad-fp32", data / "model", *fp32_flags)
    start = fp32.checkpoint
    # No epochs: calibration only, which is post-training quantization.
    ptq = _train(common, "INT8 PTQ", out / "squad-ptq", start, "--num_train_epochs", 0, "--nncf-config", CONFIG)
    qat_flags = ["--max_steps", steps // 6, "--learning_rate", SQUAD_RATE / 10, "--nncf-config", CONFIG]
    qat = _train(common, "INT8 QAT", out / "squad-qat", start, *qat_flags)
    # The scripts evaluate by themselves; here the saved checkpoints and exports are loaded anew and judged alike.
    scorer = squad_scorer(AutoTokenizer.from_pretrained(start), files[3], SEQUENCE)
    return judge([fp32, ptq, qat], AutoModelForQuestionAnswering, scorer, SEQUENCE)


def xnli(out: Path, data: Path, seed: int) -> dict[str, Any]:
    """A shorter run of the inference task: FP32, then INT8 by training."""
    common = [sys.executable, script_path(PIN, "run_xnli"), "--language", "en", "--data_dir", data / "xnli" / "en"]
    return _classes(out / "xnli", common, data, seed, ("xnli", "en"), ("premise", "hypothesis"))


def sst2(out: Path, data: Path, seed: int) -> dict[str, Any]:
    """A shorter run of the sentiment task: FP32, then INT8 by training."""
    folder = data / "glue" / "SST-2"
    common = [sys.executable, script_path(PIN, "run_glue"), "--task_name", "sst2", "--data_dir", folder]
    return _classes(out / "sst2", common, data, seed, ("glue", "sst2"), ("sentence",))


def _classes(
    out: Path, common: list[Any], data: Path, seed: int, name: tuple[str, str], columns: tuple[str, ...]
) -> dict[str, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from nncf_transformers.data import load_dataset, set_local_data

    common += ["--do_train", "--max_seq_length", 48, "--seed", seed, "--save_strategy", "no", "--use_cpu"]
    common += ["--per_device_train_batch_size", 32, "--logging_steps", 20, "--report_to", "none"]
    common += ["--disable_tqdm", True]
    fp32 = _train(
        common,
        "FP32",
        out.with_name(f"{out.name}-fp32"),
        data / "model",
        "--learning_rate",
        "1e-3",
        "--num_train_epochs",
        2,
    )
    int8 = _train(
        common,
        "INT8 QAT",
        out.with_name(f"{out.name}-int8"),
        fp32.checkpoint,
        "--learning_rate",
        "1e-4",
        "--num_train_epochs",
        1,
        "--nncf-config",
        CONFIG,
    )
    set_local_data(Path(common[common.index("--data_dir") + 1]), need_test=False)
    dev = load_dataset(*name, split="validation")
    scorer = class_scorer(AutoTokenizer.from_pretrained(fp32.checkpoint), dev, columns, 48)
    return judge([fp32, int8], AutoModelForSequenceClassification, scorer, 48)


def _train(common: list[Any], name: str, out: Path, model: Path, *flags: Any) -> Variant:
    variant = Variant(name, out)
    exports = ["--to-onnx", variant.onnx, "--to-openvino", variant.openvino]
    run([*common, "--model_name_or_path", model, "--output_dir", out, *flags, *exports], out.with_suffix(".log"))
    return variant


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
