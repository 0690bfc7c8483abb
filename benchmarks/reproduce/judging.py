"""Judge a trained model: metrics in every runtime, sizes, what it is like inside, and its speed beside the others."""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import RUNTIMES, Scorer, class_scorer, open_runtime, sizes_mb, squad_scorer
from benchmarks.reproduce.jobs import Job, Judging

# So many rows at once for the throughput.
THROUGHPUT_ROWS = 16
# What results call the files of a runtime.
FILES = {"torch": "torch", "ONNX Runtime": "ONNX", "OpenVINO": "IR"}


def judge(job: Job) -> dict[str, Any]:
    """Load what a job has made, and measure all but its speed.

    Returns:
        ``measured``, by runtime the metrics; ``size_mb``, by file; ``parameters`` and ``zeros``; ``quantizers`` and
        ``sparsity`` (see :mod:`nncf_transformers.inspection`), None where there are none; ``curve``, the training loss
        by step; ``quantized``.
    """
    curve, measured = _curve(job.variant.checkpoint), {}
    if job.judging.kind == "script":
        return {"measured": {"torch": _by_script(job.variant.checkpoint)}, "curve": curve}
    from nncf_transformers.inspection import layer_sparsity, quantizer_ranges
    from nncf_transformers.summary import describe

    model = _load(job)
    ranges, described = quantizer_ranges(model), describe(model)
    scorer = _scorer(job)
    for name in RUNTIMES:
        print(f"  {job.name} in {name} …", flush=True)
        runtime = open_runtime(name, job.variant, model, exact=not ranges)
        measured[name] = {metric: round(value, 4) for metric, value in scorer(runtime)[0].items()}
    return {
        "measured": measured,
        "size_mb": {FILES[name]: size for name, size in sizes_mb(job.variant).items()},
        "parameters": described["parameters"],
        "zeros": described["zeros"],
        "quantizers": ranges or None,
        "sparsity": (layer_sparsity(model) or None) if described["block_zeros"] else None,
        "curve": curve,
        "quantized": bool(ranges),
    }


def speeds(jobs: Sequence[Job], quantized: Mapping[str, bool]) -> dict[str, Any]:
    """Latency of one row and rows a second of many, the models taking turns in each runtime.

    Args:
        jobs: of one task.
        quantized: by job's name.

    Returns:
        By job's name: ``latency_ms`` (median), ``latency_spread_ms`` (quartiles) and ``throughput``, by runtime; and
        ``load``, of the whole machine meanwhile (the average of a minute) beside its ``cores``.
    """
    names = ("latency_ms", "latency_spread_ms", "throughput")
    results: dict[str, Any] = {job.name: {name: {} for name in names} for job in jobs}
    loads = []
    length = jobs[0].judging.latency_length
    models = {job.name: _load(job) for job in jobs}
    for name in RUNTIMES:
        print(f"  speed in {name}, {len(jobs)} models taking turns …", flush=True)
        runtimes = {
            job.name: open_runtime(name, job.variant, models[job.name], exact=not quantized[job.name]) for job in jobs
        }
        for key, times in _milliseconds(runtimes, _batch(models, 1, length), repeats=20, warm_up=3).items():
            low, middle, high = statistics.quantiles(times, n=4)
            results[key]["latency_ms"][name] = round(middle, 2)
            results[key]["latency_spread_ms"][name] = [round(low, 2), round(high, 2)]
        many = _milliseconds(runtimes, _batch(models, THROUGHPUT_ROWS, length), repeats=4, warm_up=1)
        for key, times in many.items():
            results[key]["throughput"][name] = round(1e3 * THROUGHPUT_ROWS / statistics.median(times), 2)
        loads.append(round(os.getloadavg()[0], 2))
    load = {"average": max(loads), "cores": os.cpu_count() or 1}
    return {key: {**result, "load": load} for key, result in results.items()}


def _milliseconds(
    runtimes: Mapping[str, Any], inputs: Mapping[str, np.ndarray], repeats: int, warm_up: int
) -> dict[str, list[float]]:
    """The times of all calls; the runtimes take turns."""
    from nncf_transformers.evaluation import latency_ms

    turns = [latency_ms(runtimes, inputs, repeats=1, warm_up=0) for _ in range(warm_up + repeats)][warm_up:]
    return {key: [turn[key] for turn in turns] for key in runtimes}


def _batch(models: Mapping[str, Any], rows: int, length: int) -> dict[str, np.ndarray]:
    """Random tokens that all models know, no padding."""
    vocabulary = min(model.config.vocab_size for model in models.values())
    ids = np.random.default_rng(0).integers(vocabulary // 10, vocabulary, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def _load(job: Job) -> Any:
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    from nncf_transformers.loading import load_model

    head = AutoModelForQuestionAnswering if job.judging.kind == "qa" else AutoModelForSequenceClassification
    return load_model(head, job.variant.checkpoint).eval()


def _scorer(job: Job) -> Scorer:
    """Score on the validation split, local or from the hub."""
    from transformers import AutoTokenizer

    from nncf_transformers.data import load_dataset, set_local_data

    judging = job.judging
    tokenizer = AutoTokenizer.from_pretrained(job.variant.checkpoint)
    set_local_data(judging.folder, need_test=False)
    dataset = load_dataset(*judging.dataset, split="validation")
    if judging.kind == "qa":
        return squad_scorer(tokenizer, dataset, judging.max_seq_length)
    return class_scorer(tokenizer, dataset, judging.columns, judging.max_seq_length, judging.f1)


def judging_words(judging: Judging) -> str:
    """What a model's figures depend on besides the model and the data."""
    parts = (judging.kind, *judging.dataset, *judging.columns, judging.max_seq_length, "f1" if judging.f1 else "")
    return " ".join(str(part) for part in parts if part)


def _curve(checkpoint: Path) -> list[list[float]] | None:
    """The training loss by step, as the Trainer logged it; None of an untrained model or a hand-written loop."""
    file = checkpoint / "trainer_state.json"
    if not file.is_file():
        return None
    history = json.loads(file.read_text(encoding="utf-8"))["log_history"]
    return [[entry["step"], entry["loss"]] for entry in history if "loss" in entry] or None


def _by_script(checkpoint: Path) -> dict[str, float]:
    """What the script's own evaluation found."""
    results = json.loads((checkpoint / "eval_results.json").read_text(encoding="utf-8"))
    known = ("perplexity", "eval_f1", "eval_exact_match")
    scores = {name.removeprefix("eval_"): results[name] for name in known if name in results}
    accuracies = ("eval_accuracy", "eval_accuracy_mm")
    return scores | {name.removeprefix("eval_"): 100 * results[name] for name in accuracies if name in results}
