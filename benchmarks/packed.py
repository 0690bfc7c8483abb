#!/usr/bin/env python
"""From a large model to a packed one to INT8: accuracy, size and latency at every step.

    python benchmarks/packed.py qa --model QA-CHECKPOINT --data DIR --name my-model
    python benchmarks/packed.py embeddings --model ENCODER --data DIR --name my-model

Runs the commands of benchmarks/packed.toml in turn, then judges in OpenVINO what each has exported. A command
that is done already, with the same parameters, is not run again; one that was interrupted goes on. The figures go to
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

from benchmarks.harness import circumstances, run  # noqa: E402

MEASURED = ROOT / "benchmarks" / "measured"
ROWS = ROOT / "benchmarks" / "packed.toml"


def main() -> int:
    """Train what is missing, judge, and write the record."""
    args = _parse()
    from nncf_transformers.checkpoint import write_text
    from nncf_transformers.data import sha256_of

    chain = tomllib.loads(ROWS.read_text(encoding="utf-8"))[args.task]
    out = (args.out or ROOT / "runs" / "packed" / args.name).resolve()
    path = MEASURED / f"{args.name}.json"
    # A model that is there already took the time that the record knows, if it does.
    known = json.loads(path.read_text(encoding="utf-8"))["results"] if path.is_file() else {}
    results: dict[str, Any] = {row["name"]: {"title": row["title"]} for row in chain["rows"]}
    for row in chain["rows"]:
        there = (out / row["name"] / "training_args.txt").is_file()
        seconds = round(_make(args, row, out))
        seconds = known.get(row["name"], {}).get("seconds") if there else seconds
        if seconds:
            results[row["name"]]["seconds"] = seconds
    for row in chain["rows"]:
        name = row["name"]
        print(f"  {name} in OpenVINO …", flush=True)
        results[name] |= _judge(args, chain["metric"], out / name)
    for name, latency in _latencies(args, out, results).items():
        results[name]["latency_ms"] = latency
    record = {
        "name": args.name,
        "kind": "packed",
        "task": args.task,
        "title": f"{chain['title']}, {args.title}",
        "arguments": [f"benchmarks/packed.toml (sha256 {sha256_of(ROWS)[:12]}…)"],
        "model": Path(args.model).name,
        "model_sha256": sha256_of(Path(args.model, "model.safetensors")),
        "rows": chain["rows"],
        "latency_length": args.latency_length,
        "results": results,
        **circumstances(None, _files(args), 42),
    }
    write_text(path, json.dumps(record, indent=1) + "\n")
    print(f"\n{table(record)}\n\nwrote {path.relative_to(ROOT)} ({time.strftime('%H:%M')})")
    return 0


def table(record: Mapping[str, Any]) -> str:
    """Render a record as a Markdown table, one line a model."""
    results = record["results"]
    metrics = list(next(iter(results.values()))["metrics"])
    head = ["model", *metrics, "parameters M", "IR MB", f"latency ms (1 × {record['latency_length']})"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for result in results.values():
        figures = (f"{result['metrics'][name]:.2f}" for name in metrics)
        sizes = (f"{result['parameters'] / 1e6:.2f}", f"{result['ir_mb']:.1f}", f"{result['latency_ms']:.1f}")
        lines.append([result["title"], *figures, *sizes])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _make(args: argparse.Namespace, row: Mapping[str, Any], out: Path) -> float:
    """Make one row's model and its exports; return the seconds it took."""
    folder = out / row["name"]
    folders = {"large": Path(args.model)}
    if "script" not in row:
        return _export(args.model, folder, row.get("pooling"))
    command = [sys.executable, ROOT / "scripts" / f"{row['script']}.py", "--output_dir", folder]
    for flag in ("student", "teacher"):
        if flag in row:
            command += [f"--model_{flag}", folders.get(row[flag], out / row[flag])]
    files = _files(args)
    command += ["--squad_train_data", files["train"], "--squad_dev_data", files["dev"]]
    for name, value in row["arguments"].items():
        command += [f"--{name}", str(value)]
    return run(command, out / f"{row['name']}.log")


def _export(model: str, folder: Path, pooling: str | None) -> float:
    """Export a model as it is, in the layout that the scripts give theirs."""
    from nncf_transformers.training.data import encode_texts
    from nncf_transformers.training.models import load_student, load_tokenizer, write_result

    if (folder / "openvino" / "openvino_model.xml").is_file():
        return 0.0
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    student, tokenizer = (
        load_student(model, None, embedding=pooling is not None, pooling=pooling),
        load_tokenizer(model),
    )
    samples = encode_texts(tokenizer, [f"A text of {'many ' * i}words." for i in range(4)], 64)
    write_result(student.eval(), tokenizer, folder, samples, None)
    return time.perf_counter() - start


def _judge(args: argparse.Namespace, metric: str, folder: Path) -> dict[str, Any]:
    """Metrics in OpenVINO, parameters and size of one model."""
    from transformers import AutoTokenizer

    from nncf_transformers.checkpoint import HOOK_PREFIX, read_weights
    from nncf_transformers.runtimes import openvino_runtime
    from nncf_transformers.training.data import read_questions, retrieval_of
    from nncf_transformers.training.evaluation import Answers, Found

    tokenizer = AutoTokenizer.from_pretrained(folder)
    file = _files(args)["dev"]
    examples = read_questions(file, train=False)
    if metric == "answers":
        lengths = {"max_question": 64, "max_length": 384, "stride": 128}
        judge: Any = Answers(str(file), examples, tokenizer, script=None, batch_size=16, **lengths)
    else:
        judge = Found(retrieval_of(examples, file), tokenizer, max_question=32, max_context=384, batch_size=16)
    quantized = (folder / "nncf_config.json").is_file()
    # FP32 models compute in float32; left to itself, OpenVINO takes bfloat16 where the processor has it.
    scores = judge(openvino_runtime(folder / "openvino" / "openvino_model.xml", exact=not quantized))
    wanted = ("f1", "exact_match", "top1", "top5", "top10")
    return {
        "metrics": {k: v for k, v in scores.items() if k.split("_neg")[0] in wanted},
        "parameters": sum(t.numel() for name, t in read_weights(folder) if not name.startswith(HOOK_PREFIX)),
        "ir_mb": round((folder / "openvino" / "openvino_model.bin").stat().st_size / 1e6, 2),
        "exact": not quantized,
    }


def _latencies(args: argparse.Namespace, out: Path, results: Mapping[str, Any]) -> dict[str, float]:
    """Median milliseconds of one row, the models taking turns."""
    import numpy as np

    from nncf_transformers.evaluation import latency_ms
    from nncf_transformers.runtimes import openvino_runtime

    runtimes = {
        name: openvino_runtime(out / name / "openvino" / "openvino_model.xml", exact=result["exact"])
        for name, result in results.items()
    }
    ids = np.random.default_rng(0).integers(1000, 20000, (1, args.latency_length))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: round(value, 2) for name, value in latency_ms(runtimes, batch).items()}


def _files(args: argparse.Namespace) -> dict[str, Path]:
    return {split: Path(args.data, f"{split}-v1.1.json") for split in ("train", "dev")}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("qa", "embeddings"))
    parser.add_argument("--name", required=True, help="of the record and of the output folder")
    parser.add_argument("--title", required=True, help="which model and which data, for the README")
    parser.add_argument("--model", required=True, help="qa: a trained model; embeddings: an encoder")
    parser.add_argument("--data", required=True, help="folder with train-v1.1.json and dev-v1.1.json")
    parser.add_argument("--latency-length", type=int, default=384)
    parser.add_argument("--out", type=Path, help="folder for checkpoints and exports")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
