#!/usr/bin/env python
"""Compare adapters with full fine-tuning, FP32 and INT8: accuracy, trained parameters, bytes a task, time of a step.

    python benchmarks/adapter_rows.py --model ENCODER --data DIR --name my-encoder -- --max_steps 300

Every row of benchmarks/adapter_rows.toml trains on questions in SQuAD's format through the patched run_qa, with the
flags that follow ``--``; a row's share of ``--max_steps`` and its learning rate come on top. Each result is exported
and judged in OpenVINO. Then the steps of all kinds are timed in turns. The figures go to benchmarks/measured/NAME.json;
`make readme` renders them.
"""

import argparse
import json
import re
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.harness import circumstances, run, squad_scorer  # noqa: E402
from scripts.train import parse_with_extra, script_path  # noqa: E402

MEASURED = ROOT / "benchmarks" / "measured"
ROWS = ROOT / "benchmarks" / "adapter_rows.toml"
# What the weights of a checkpoint are in: of a model, of an adapter and of its head.
_WEIGHTS = ("model.safetensors", "adapter.safetensors", "model_head.safetensors")


def main() -> int:
    """Train and judge what is missing, time the steps, and write the record."""
    args, extra = _parse()
    from nncf_transformers.checkpoint import write_text
    from nncf_transformers.data import sha256_of

    out = Path(args.out or ROOT / "runs" / "adapters" / args.name)
    file = tomllib.loads(ROWS.read_text(encoding="utf-8"))
    path = MEASURED / f"{args.name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and args.reuse else {"results": {}}
    out.mkdir(parents=True, exist_ok=True)
    (out / "int8.json").write_text(json.dumps({"algorithms": [file["settings"]["int8"]]}) + "\n", encoding="utf-8")
    record |= {
        "name": args.name,
        "kind": "adapters",
        "task": "squad",
        "title": args.title or args.name,
        "arguments": extra,
        "model": Path(args.model).name,
        "model_sha256": sha256_of(Path(args.model, "model.safetensors")),
        "rows_sha256": sha256_of(ROWS),
        **circumstances(args.pin, _files(args), args.seed),
    }
    for name, row in file["rows"].items():
        if args.reuse and (name in record["results"] or (row.get("hidden") and (out / name / "model").is_dir())):
            continue
        seconds = _train(args, extra, out, name, row)
        if row.get("hidden"):
            continue
        print(f"  {name} in OpenVINO …", flush=True)
        record["results"][name] = {"title": row["title"], "seconds": round(seconds), **_judge(args, out, name, row)}
        # After each row: a comparison of hours must not be lost to the last of them.
        write_text(path, json.dumps(record, indent=1) + "\n")
    record["shared"] = _share(args, out, file["rows"])
    for name, ratio in _step_ratios(args, out, file).items():
        record["results"][name]["step_ratio"] = ratio
    write_text(path, json.dumps(record, indent=1) + "\n")
    print(f"\n{table(record)}\n\nwrote {path.relative_to(ROOT)} ({time.strftime('%H:%M')})")
    return 0


def table(record: Mapping[str, Any]) -> str:
    """Render a record as Markdown: a table with one line a row, and what several tasks cost together."""
    head = ["model", "f1", "exact_match", "trained parameters", "checkpoint of a task MB", "step time"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for result in record["results"].values():
        ratio = result.get("step_ratio")
        lines.append(
            [
                result["title"],
                *(f"{result['metrics'][name]:.2f}" for name in ("f1", "exact_match")),
                f"{result['trained']:,}",
                f"{result['task_mb']:.2f}",
                f"{ratio:.2f} ×" if ratio is not None else "",
            ]
        )
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    shared = record["shared"]
    count, whole = len(shared["tasks"]), shared["whole_mb"]
    names = " and ".join(f"{task['name']} {task['bytes'] / 1e6:.2f} MB" for task in shared["tasks"])
    return (
        f"{text}\n\nExported with one INT8 base for all (`scripts/export_adapters.py`): {shared['base_mb']:.2f} MB for "
        f"the base, and for each task its own file, {names}: {count} tasks are {shared['sum_mb']:.2f} MB, as {count} "
        f"files of their own {whole:.2f} MB."
    )


def _train(args: argparse.Namespace, extra: list[str], out: Path, name: str, row: Mapping[str, Any]) -> float:
    """Run the patched script for one row; return the seconds it took."""
    folder, files = out / name, _files(args)
    command = [sys.executable, script_path(args.pin, "run_qa"), "--train_file", files["train"]]
    command += ["--validation_file", files["dev"], "--max_seq_length", args.max_seq_length]
    command += ["--doc_stride", args.max_seq_length // 3, "--seed", args.seed, "--report_to", "none", *extra]
    command += ["--output_dir", folder / "model", "--do_train", "--overwrite_output_dir", "--save_strategy", "no"]
    command += ["--to-openvino", folder / "ir", "--learning_rate", row["rate"]]
    command += ["--model_name_or_path", _start(args, out, row)]
    folder.mkdir(parents=True, exist_ok=True)
    if row.get("quantize"):
        command += ["--nncf-config", out / "int8.json"]
    if "adapter" in row:
        command += ["--train_adapter", "--adapter_config", row["adapter"], "--adapter_name", "squad"]
    if "load" in row:
        command += ["--load_adapter", out / row["load"] / "model"]
    steps = round(row.get("share", 1.0) * _steps(extra))
    command += ["--max_steps", steps] if steps else ["--max_steps", "-1", "--num_train_epochs", "0"]
    return run(command, folder / "log")


def _start(args: argparse.Namespace, out: Path, row: Mapping[str, Any]) -> Path:
    """The model that a row starts from."""
    if "merged" in row:
        merged = out / f"{row['merged']}-merged"
        if not merged.is_dir():
            words = ["--model", args.model, "--adapter", out / row["merged"] / "model", "--output", merged]
            run([sys.executable, ROOT / "scripts" / "merge_adapter.py", *words], out / "merge.log")
        return merged
    return out / row["from"] / "model" if "from" in row else Path(args.model)


def _judge(args: argparse.Namespace, out: Path, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics in OpenVINO, parameters that were trained, and size of what a task needs."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    from nncf_transformers.checkpoint import is_compressed
    from nncf_transformers.loading import load_model
    from nncf_transformers.runtimes import openvino_runtime

    folder = out / name
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    int8 = row.get("quantize") or row.get("from") == "base-int8"
    runtime = openvino_runtime(folder / "ir" / "openvino_model.xml", exact=not int8)
    metrics, _ = squad_scorer(tokenizer, _files(args)["dev"], max_seq_length=384)(runtime)
    weights = [path for path in (folder / "model").rglob("*") if path.name in _WEIGHTS]
    if "adapter" not in row:
        model = load_model(AutoModelForQuestionAnswering, folder / "model")
        trained = sum(p.numel() for n, p in model.named_parameters() if "__nncf_hooks" not in n)
    else:
        trained = _trained(folder / "model")
    whole = is_compressed(folder / "model")
    return {
        "metrics": metrics,
        "trained": trained,
        # An INT8 model is kept as it is deployed; its checkpoint for training has the weights in FP32.
        "task_mb": (folder / "ir" / "openvino_model.bin").stat().st_size / 1e6
        if whole
        else sum(path.stat().st_size for path in weights) / 1e6,
        "latency_exact": not int8,
    }


def _trained(folder: Path) -> int:
    """Number of parameters of an adapter and its head."""
    from safetensors import safe_open

    total = 0
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="np") as tensors:
            every = tensors.keys()
            names = [key for key in every if re.search(r"\.adapters\.|\.loras\.|^qa_outputs", key)]
            total += sum(tensors.get_tensor(name).size for name in names)
    return total


def _share(args: argparse.Namespace, out: Path, rows: Mapping[str, Any]) -> dict[str, Any]:
    """Export all adapters of the INT8 base together, and add up."""
    tasks = [name for name, row in rows.items() if row.get("from") == "base-int8"]
    target = out / "tasks"
    for name in tasks:
        # A task is named after its folder.
        link = out / "named" / name
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.symlink_to(out / name / "model", target_is_directory=True)
    from nncf_transformers.adapter.share import WEIGHTS_FILE, export_adapters

    done = export_adapters(str(out / "base-int8" / "model"), [str(out / "named" / name) for name in tasks], str(target))
    base = (target / WEIGHTS_FILE).stat().st_size
    return {
        "tasks": [{"name": task.name, "bytes": task.bytes} for task in done],
        "base_mb": base / 1e6,
        "sum_mb": (base + sum(task.bytes for task in done)) / 1e6,
        "whole_mb": sum(task.whole for task in done) / 1e6,
    }


def _step_ratios(args: argparse.Namespace, out: Path, file: Mapping[str, Any]) -> dict[str, float]:
    """Median time of a training step as a multiple of that of full fine-tuning in FP32, the models taking turns."""
    from benchmarks.bench_step import SHAPES, Variant, make_batch, make_step, measure, summarise

    variants = {}
    for name, row in file["rows"].items():
        # The merged model trains as any other.
        if not row.get("hidden") and "merged" not in row:
            model = _model_to_time(_start(args, out, row), row, file["settings"]["int8"])
            variants[name] = Variant(make_step(model, make_batch(SHAPES["minilm"], model.config.vocab_size)))
    results = {name: summarise(taken)["median"]["total"] for name, taken in measure(variants, args.timed_steps).items()}
    return {name: round(value / results["full"], 3) for name, value in results.items()}


def _model_to_time(start: Path, row: Mapping[str, Any], int8: dict[str, Any]) -> Any:
    """The model of a row, as its training has it at its first step."""
    import torch
    from transformers import AutoModelForQuestionAnswering

    from nncf_transformers.adapter.config import read_config
    from nncf_transformers.adapter.flags import AdapterPlan
    from nncf_transformers.adapter.model import install
    from nncf_transformers.checkpoint import is_compressed
    from nncf_transformers.compression import Compression, compression_parameters
    from nncf_transformers.config import parse_config
    from nncf_transformers.inputs import synthetic_inputs
    from nncf_transformers.loading import restore

    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_pretrained(start)
    if "adapter" in row:
        config = read_config("adapter", row["adapter"])
        install(model, AdapterPlan("squad", config, True, None, None, None), default_name=None, trains=True)
    if is_compressed(start):
        restore(model, start)
        for parameter in compression_parameters(model):
            parameter.requires_grad_(False)
    if row.get("quantize"):
        # One sample: the time of a step does not depend on the ranges.
        config = parse_config({"algorithms": [int8 | {"calibration_samples": 1}]}, "benchmark")
        Compression(config).start(model, [synthetic_inputs(model, 1, 64)])
    return model


def _steps(extra: list[str]) -> int:
    if "--max_steps" not in extra[:-1]:
        raise SystemExit("error: give the budget after -- as --max_steps N; the rows take parts of it")
    return int(extra[extra.index("--max_steps") + 1])


def _files(args: argparse.Namespace) -> dict[str, Path]:
    return {split: Path(args.data, f"{split}-v1.1.json") for split in ("train", "dev")}


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the record and of the output folder")
    parser.add_argument("--title", help="what the figures are of, for the README")
    parser.add_argument("--model", required=True, help="encoder that all rows start from")
    parser.add_argument("--pin", default="v4.57")
    parser.add_argument("--data", required=True, help="folder with {train,dev}-v1.1.json")
    parser.add_argument("--max_seq_length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--timed-steps", type=int, default=8, help="of each kind (default: %(default)s)")
    parser.add_argument("--out", help="folder for checkpoints and exports")
    parser.add_argument("--reuse", action="store_true", help="keep the results that the record has already")
    return parse_with_extra(parser)


if __name__ == "__main__":
    sys.exit(main())
