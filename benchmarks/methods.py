#!/usr/bin/env python
"""Compare all compression methods on one model, one data set, one seed and one budget of training.

    python benchmarks/methods.py squad --model FP32-CHECKPOINT --data DIR --name my-model -- --num_train_epochs 0.5
    python benchmarks/methods.py sst2 --model FP32-CHECKPOINT --data DIR --name my-model -- --num_train_epochs 1

Every method of benchmarks/methods.toml starts from the same FP32 checkpoint, which is also the teacher, and trains with
the flags that follow ``--``; each result is exported and judged in OpenVINO. The figures go to
benchmarks/measured/NAME.json; `make readme` renders them.
"""

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.harness import Scorer, circumstances, class_scorer, run, squad_scorer  # noqa: E402
from scripts.train import parse_with_extra, script_path  # noqa: E402

MEASURED = ROOT / "benchmarks" / "measured"
METHODS = ROOT / "benchmarks" / "methods.toml"
# So many rows at once for the throughput.
THROUGHPUT_ROWS = 16


def main() -> int:
    """Train and judge what is missing, and write the record."""
    args, extra = _parse()
    from nncf_transformers.checkpoint import write_text
    from nncf_transformers.data import sha256_of

    out = Path(args.out or ROOT / "runs" / "methods" / args.name)
    epochs = _epochs(extra)
    file = tomllib.loads(METHODS.read_text(encoding="utf-8"))
    methods = file["methods"]
    chosen = {name: method for name, method in methods.items() if not args.only or name in args.only}
    unknown = set(args.only or ()) - methods.keys()
    if unknown:
        raise SystemExit(f"error: --only: no method {', '.join(sorted(unknown))} in {METHODS.name}")
    path = MEASURED / f"{args.name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and args.reuse else {"results": {}}
    for name, method in chosen.items():
        folder = out / name
        if args.reuse and name in record["results"]:
            continue
        seconds = _train(
            args, extra, out, name, in_epochs(algorithms_of(file, name), epochs), method.get("untrained", False)
        )
        print(f"  {name} in OpenVINO …", flush=True)
        record["results"][name] = {"title": method["title"], "seconds": round(seconds), **_judge(args, folder)}
        files = _files(args)
        record |= {
            "name": args.name,
            "kind": "methods",
            "task": args.task,
            "title": args.title or args.name,
            "arguments": extra,
            "model": Path(args.model).name,
            "model_sha256": sha256_of(Path(args.model, "model.safetensors")),
            "methods_sha256": sha256_of(METHODS),
            "latency_length": args.latency_length,
            **circumstances(args.pin, files, args.seed),
        }
        # After each method: a comparison of hours must not be lost to the last of them.
        write_text(path, json.dumps(record, indent=1) + "\n")
    speeds = _speeds(args, {name: out / name for name in record["results"]})
    for name, speed in speeds.items():
        record["results"][name] |= speed
    write_text(path, json.dumps(record, indent=1) + "\n")
    print(f"\n{table(record)}\n\nwrote {path.relative_to(ROOT)} ({time.strftime('%H:%M')})")
    return 0


def table(record: Mapping[str, Any]) -> str:
    """Render a record as a Markdown table, one line a method."""
    results = record["results"]
    metrics = list(next(iter(results.values()))["metrics"])
    rows = f"{THROUGHPUT_ROWS} × {record['latency_length']}"
    head = [
        "method",
        *metrics,
        "non-zero parameters M",
        "block weights left %",
        "IR MB",
        "latency ms",
        f"rows/s ({rows})",
    ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for result in results.values():
        lines.append(
            [
                result["title"],
                *(f"{result['metrics'][name]:.2f}" for name in metrics),
                f"{result['parameters'] / 1e6:.2f}",
                f"{100 * result['block_weights_left']:.1f}",
                f"{result['ir_mb']:.1f}",
                f"{result['latency_ms']:.1f}",
                f"{result['rows_per_second']:.1f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _train(
    args: argparse.Namespace, extra: list[str], out: Path, name: str, algorithms: list[dict[str, Any]], untrained: bool
) -> float:
    """Run the patched script for one method; return the seconds it took."""
    script, folder = script_path(args.pin, "run_qa" if args.task == "squad" else "run_glue"), out / name
    command = [sys.executable, script, *_data_flags(args), "--seed", args.seed, "--report_to", "none", *extra]
    command += ["--model_name_or_path", args.model, "--output_dir", folder / "model", "--do_train"]
    command += ["--overwrite_output_dir", "--save_strategy", "no", "--to-openvino", folder / "ir"]
    folder.mkdir(parents=True, exist_ok=True)
    if algorithms:
        config = folder / "config.json"
        config.write_text(json.dumps({"algorithms": algorithms}, indent=1) + "\n", encoding="utf-8")
        command += ["--nncf-config", config]
    if any(algorithm["algorithm"] == "distillation" for algorithm in algorithms):
        # One teacher for all methods, and the same data in the same order: its logits are computed once.
        command += ["--teacher_model_or_path", args.model, "--distillation_cache", out / "teacher"]
    if untrained:
        command += ["--num_train_epochs", "0", "--max_steps", "-1"]
    return run(command, folder / "log")


def algorithms_of(file: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The algorithms of a method of benchmarks/methods.toml, its own changes included."""
    method = file["methods"][name]
    return [file["settings"][part] | method.get(part, {}) for part in method.get("use", ())]


def in_epochs(value: Any, epochs: float) -> Any:
    """Replace every ``"30%"`` by that part of the training, in epochs."""
    if isinstance(value, str) and value.endswith("%"):
        return float(value[:-1]) / 100 * epochs
    if isinstance(value, list):
        return [in_epochs(item, epochs) for item in value]
    if isinstance(value, dict):
        return {key: in_epochs(item, epochs) for key, item in value.items()}
    return value


def _epochs(extra: list[str]) -> float:
    if "--num_train_epochs" not in extra[:-1] or "--max_steps" in extra:
        raise SystemExit("error: give the budget after -- as --num_train_epochs N; the schedules are parts of it")
    return float(extra[extra.index("--num_train_epochs") + 1])


def _judge(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Metrics in OpenVINO, parameters and size of one method's result."""
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    from nncf_transformers.compression import Compression
    from nncf_transformers.loading import load_model
    from nncf_transformers.runtimes import openvino_runtime
    from nncf_transformers.summary import describe

    head = AutoModelForQuestionAnswering if args.task == "squad" else AutoModelForSequenceClassification
    model = load_model(head, folder / "model")
    now, before = describe(model), describe(load_model(head, args.model))
    quantized = Compression.of(model) is not None and any(a == "quantization" for a in _algorithms(folder))
    # FP32 models compute in float32; left to itself, OpenVINO takes bfloat16 where the processor has it.
    runtime = openvino_runtime(folder / "ir" / "openvino_model.xml", exact=not quantized)
    metrics, _ = _scorer(args, folder / "model")(runtime)
    return {
        "metrics": metrics,
        "parameters": now["parameters"] - now["zeros"],
        "block_weights_left": (now["block_weights"] - now["block_zeros"]) / before["block_weights"],
        "ir_mb": round((folder / "ir" / "openvino_model.bin").stat().st_size / 1e6, 2),
        "exact": not quantized,
    }


def _speeds(args: argparse.Namespace, folders: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """Latency of one row, and rows a second of many, the models taking turns."""
    import numpy as np

    from nncf_transformers.evaluation import latency_ms
    from nncf_transformers.runtimes import openvino_runtime

    record = json.loads((MEASURED / f"{args.name}.json").read_text(encoding="utf-8"))["results"]
    runtimes = {
        name: openvino_runtime(folder / "ir" / "openvino_model.xml", exact=record[name]["exact"])
        for name, folder in folders.items()
    }
    generator = np.random.default_rng(0)

    def batch(rows: int) -> dict[str, np.ndarray]:
        ids = generator.integers(1000, 20000, (rows, args.latency_length))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}

    single, many = latency_ms(runtimes, batch(1)), latency_ms(runtimes, batch(THROUGHPUT_ROWS), repeats=10, warm_up=1)
    return {
        name: {
            "latency_ms": round(single[name], 2),
            "rows_per_second": round(1e3 * THROUGHPUT_ROWS / many[name], 2),
        }
        for name in runtimes
    }


def _algorithms(folder: Path) -> list[str]:
    return list(json.loads((folder / "model" / "statistics.json").read_text(encoding="utf-8"))["algorithms"])


def _data_flags(args: argparse.Namespace) -> list[Any]:
    if args.task == "sst2":
        return ["--task_name", "sst2", "--data-dir", args.data, "--max_seq_length", args.max_seq_length]
    files = _files(args)
    lengths = ["--max_seq_length", args.max_seq_length, "--doc_stride", args.max_seq_length // 3]
    return ["--train_file", files["train"], "--validation_file", files["dev"], *lengths]


def _files(args: argparse.Namespace) -> dict[str, Path]:
    ending = "-v1.1.json" if args.task == "squad" else ".tsv"
    return {split: Path(args.data, f"{split}{ending}") for split in ("train", "dev")}


def _scorer(args: argparse.Namespace, checkpoint: Path) -> Scorer:
    from transformers import AutoTokenizer

    from nncf_transformers.data import load_dataset, set_local_data

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if args.task == "squad":
        return squad_scorer(tokenizer, _files(args)["dev"], max_seq_length=384)
    set_local_data(Path(args.data), need_test=False)
    return class_scorer(tokenizer, load_dataset("glue", "sst2", split="validation"), ("sentence",), args.max_seq_length)


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("squad", "sst2"))
    parser.add_argument("--name", required=True, help="of the record and of the output folder")
    parser.add_argument("--title", help="what the figures are of, for the README")
    parser.add_argument("--model", required=True, help="FP32 checkpoint: where all start, and the teacher")
    parser.add_argument("--pin", default="v4.57")
    parser.add_argument("--data", required=True, help="folder with {train,dev}-v1.1.json, or {train,dev}.tsv")
    parser.add_argument("--max_seq_length", type=int, default=256)
    parser.add_argument("--latency-length", type=int, default=384)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", help="folder for checkpoints and exports")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="these methods of benchmarks/methods.toml")
    parser.add_argument("--reuse", action="store_true", help="keep the results that the record has already")
    return parse_with_extra(parser)


if __name__ == "__main__":
    sys.exit(main())
