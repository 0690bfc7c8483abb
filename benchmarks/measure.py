#!/usr/bin/env python
"""Measure FP32, post-training quantization and quantization-aware training on local data, through a patched script.

    python benchmarks/measure.py squad --model FP32-CHECKPOINT --data DIR --name my-model
    python benchmarks/measure.py xnli --model ENCODER --train-fp32 --data DIR --language en --name my-model

Every model is trained, evaluated and exported by the patched script of the pin; then each export is judged in torch,
ONNX Runtime and OpenVINO. The figures go to benchmarks/measured/NAME.json with all that is needed to repeat them;
`make readme` renders them. What follows ``--`` goes to the training runs as it is.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.harness import Scorer, Variant, circumstances, class_scorer, judge, run, squad_scorer, table  # noqa: E402
from scripts.train import parse_with_extra, script_path  # noqa: E402

MEASURED = ROOT / "benchmarks" / "measured"


def main() -> int:
    """Run what the command line asks for, and write the record."""
    args, extra = _parse()
    started = _record_head(args, extra)
    out = Path(args.out or ROOT / "runs" / "measure" / args.name)
    script = script_path(args.pin, "run_xnli" if args.task == "xnli" else "run_qa")
    common = [sys.executable, script, *_data_flags(args), "--seed", args.seed, "--report_to", "none"]
    path = MEASURED / f"{args.name}.json"
    kept = args.reuse and path.is_file()
    seconds = json.loads(path.read_text(encoding="utf-8"))["seconds"] if kept else {}

    def produce(name: str, model: Path, *flags: Any) -> Variant:
        variant = Variant(name, out / name.lower().replace(" ", "-"))
        if not variant.openvino.is_dir() or not args.reuse:
            exports = ["--to-onnx", variant.onnx, "--to-openvino", variant.openvino]
            command = [*common, "--model_name_or_path", model, "--output_dir", variant.checkpoint, *flags, *exports]
            seconds[name] = round(run(command, out / f"{variant.checkpoint.name}.log"), 1)
        return variant

    model = Path(args.model)
    untrained = ["--num_train_epochs", "0", "--max_steps", "-1"]
    training = ["--do_train", "--overwrite_output_dir", "--save_strategy", "no", *extra]
    if args.train_fp32:
        fp32 = produce("FP32", model, *training, *args.train_fp32.split())
        model = fp32.checkpoint
    else:
        # No epochs: the checkpoint as it is, saved and exported by the same path as the others.
        fp32 = produce("FP32", model, *training, *untrained)
    ptq = produce("INT8 PTQ", model, *training, "--nncf-config", args.config, *untrained)
    qat = produce("INT8 QAT", model, *training, "--nncf-config", args.config)

    head, scorer, files = _judging(args, fp32.checkpoint)
    results = judge([fp32, ptq, qat], head, scorer, args.latency_length)
    record = {**started, **circumstances(args.pin, files, args.seed), "seconds": seconds, "results": results}
    if args.compare_on:
        record["compared"] = _compare(args, head, qat)
    MEASURED.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    names = list(results["FP32"]["metrics"]["torch"])
    print(f"\n{table(results, names)}\n\nwrote {path.relative_to(ROOT)} ({time.strftime('%H:%M')})")
    return 0


def _record_head(args: argparse.Namespace, extra: list[str]) -> dict[str, Any]:
    """What the command line says of the measurement; made before the work, so that a mistake shows before it."""
    from nncf_transformers.data import sha256_of

    weights = Path(args.model, "model.safetensors")
    config = Path(args.config).resolve()
    return {
        "name": args.name,
        "task": args.task,
        "title": args.title or args.name,
        "config": str(config.relative_to(ROOT) if config.is_relative_to(ROOT) else config.name),
        "config_sha256": sha256_of(config),
        "arguments": [*extra, *(["FP32:", args.train_fp32] if args.train_fp32 else [])],
        "model": Path(args.model).name,
        "model_sha256": sha256_of(weights) if weights.is_file() else None,
    }


def _data_flags(args: argparse.Namespace) -> list[Any]:
    if args.task == "xnli":
        return ["--data_dir", args.data, "--language", args.language, "--max_seq_length", args.max_seq_length]
    files = ["--train_file", _squad_file(args, "train"), "--validation_file", _squad_file(args, "dev")]
    return [*files, "--max_seq_length", args.max_seq_length, "--doc_stride", "128"]


def _judging(args: argparse.Namespace, checkpoint: Path) -> tuple[Any, Scorer, dict[str, Path]]:
    """The model class, the scorer, and the files that the figures come from."""
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer

    from nncf_transformers.data import load_dataset, set_local_data

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if args.task == "squad":
        files = {split: _squad_file(args, split) for split in ("train", "dev")}
        return AutoModelForQuestionAnswering, squad_scorer(tokenizer, files["dev"], max_seq_length=384), files
    set_local_data(Path(args.data), need_test=False)
    dataset = load_dataset("xnli", args.language, split="validation")
    scorer = class_scorer(tokenizer, dataset, ("premise", "hypothesis"), args.max_seq_length)
    return AutoModelForSequenceClassification, scorer, {k: Path(args.data, f"{k}.tsv") for k in ("train", "dev")}


def _compare(args: argparse.Namespace, head: Any, variant: Variant) -> dict[str, Any]:
    """Judge one model's runtimes on another file: more questions than a held-out part has, less chance in them."""
    from transformers import AutoTokenizer

    from nncf_transformers.data import sha256_of

    scorer = squad_scorer(AutoTokenizer.from_pretrained(variant.checkpoint), args.compare_on, max_seq_length=384)
    (result,) = judge([variant], head, scorer, args.latency_length).values()
    figures = {"metrics": result["metrics"], "same_as_torch": result["same_as_torch"]}
    return {"model": variant.name, "file": args.compare_on.name, "sha256": sha256_of(args.compare_on), **figures}


def _squad_file(args: argparse.Namespace, split: str) -> Path:
    return Path(args.data, f"{split}-v1.1.json")


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("squad", "xnli"))
    parser.add_argument("--name", required=True, help="of the record and of the output folder")
    parser.add_argument("--title", help="what the figures are of, for the README")
    parser.add_argument("--model", required=True, help="FP32 checkpoint, or an encoder with --train-fp32")
    parser.add_argument("--train-fp32", metavar="FLAGS", help="train FP32 first, with these flags besides the others")
    parser.add_argument("--pin", default="v4.57")
    parser.add_argument("--config", default=str(ROOT / "nncf_configs" / "nncf_bert_config_squad.json"))
    parser.add_argument("--data", required=True, help="folder with {train,dev}-v1.1.json, or {train,dev}.tsv for xnli")
    parser.add_argument("--language", default="zh", help="xnli: language code (default: %(default)s)")
    parser.add_argument("--max_seq_length", type=int, default=256)
    parser.add_argument("--latency-length", type=int, default=384)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", help="folder for checkpoints and exports")
    parser.add_argument("--reuse", action="store_true", help="keep the models that are there already")
    parser.add_argument(
        "--compare-on",
        type=Path,
        metavar="FILE",
        help="squad: compare the runtimes of the QAT model on this larger file, too; it may be the training data, as "
        "only their agreement counts",
    )
    args, extra = parse_with_extra(parser)
    if args.compare_on and (args.task != "squad" or not args.compare_on.is_file()):
        parser.error(f"--compare-on {args.compare_on}: takes an existing file in SQuAD's format, for squad only")
    return args, extra


if __name__ == "__main__":
    sys.exit(main())
