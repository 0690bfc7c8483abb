"""What the demo and the measurements share: run a patched script, then judge its results in every runtime."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "datasets", "nncf", "openvino", "onnx", "onnxruntime")
RUNTIMES = ("torch", "ONNX Runtime", "OpenVINO")
# Stands below every table with the speed of FP32 in OpenVINO.
FLOAT32 = (
    "In OpenVINO, models without quantizers are computed in float32; left to itself, it computes them in bfloat16 on "
    "processors that can, which is faster: `make bench-latency` measures both."
)
# Lines of a script's output that tell how far it is: steps with their loss, and what was quantized or exported.
_PROGRESS = re.compile(r"step \d+/\d+.*|'loss': [^,]+|compressed \w+: .*|parity .*|wrote .*")
# A line that names an error, as our scripts and Python's tracebacks end on.
_ERROR = re.compile(r"(error|[\w.]*(Error|Exception|Interrupt))\b", re.IGNORECASE)
# Runs a model over a data set; returns its metrics and its answers.
Scorer = Callable[[Any], tuple[dict[str, float], list[Any]]]


@dataclass(frozen=True)
class Variant:
    """One model to judge: FP32, or INT8 by one method."""

    name: str
    checkpoint: Path

    @property
    def onnx(self) -> Path:
        return self.checkpoint.with_suffix(".onnx")

    @property
    def openvino(self) -> Path:
        return self.checkpoint.with_name(f"{self.checkpoint.name}-openvino")


class CommandError(SystemExit):
    """A command has failed: ends this program with the command's own exit code, unless somebody wants to go on.

    ``reason`` is one line of its output; ``signal`` the number of the signal that ended it, or 0.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code)
        self.reason, self.signal = reason, max(-code, 0)


def run(command: Sequence[str | Path], log: Path) -> float:
    """Run a command from the project's root; return the seconds it took.

    All of its output goes to ``log``; the lines that tell its progress are shown too. A failure shows the end of the
    output, and raises :class:`CommandError`. A lock that this process holds as an inheritable file, the command holds,
    too.
    """
    words = [str(word) for word in command]
    print(f"+ {shlex.join(words)}\n  output: {log}", flush=True)
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            text=True,
            close_fds=False,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            output.write(line)
            output.flush()
            if match := _PROGRESS.search(line):
                print(f"  {time.perf_counter() - start:5.0f} s  {match[0].strip()}", flush=True)
    if process.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        print("\n".join(tail), f"error: the command above failed; its output is in {log}", sep="\n", file=sys.stderr)
        raise CommandError(process.returncode, _reason(tail, process.returncode))
    return time.perf_counter() - start


def _reason(tail: Sequence[str], code: int) -> str:
    """The line that says why: the last that names an error, or else the last one."""
    if code < 0:
        return f"ended by signal {-code}"
    named = [
        line for line in tail if re.match(r"(error|[\w.]*(Error|Exception|Interrupt))\b", line.strip(), re.IGNORECASE)
    ]
    return (named or [line for line in tail if line.strip()] or [f"exit code {code}"])[-1].strip()


def judge(variants: Sequence[Variant], head: Any, scorer: Scorer, latency_length: int) -> dict[str, Any]:
    """Measure every variant in every runtime.

    Args:
        variants: the first is the one that the others are compared with.
        head: the ``AutoModelFor…`` class of the checkpoints.
        scorer: gives a runtime's metrics and answers.
        latency_length: tokens of the one sequence that latency is measured with.

    Returns:
        By variant, and by runtime in it: ``metrics`` (percent); ``same_as_fp32``, the percent of answers equal to those
        of the first variant in torch, and ``kl_to_fp32``, the mean Kullback-Leibler divergence from its distributions
        in nats; ``same_as_torch``, the percent of answers equal to the variant's own in torch; ``size_mb`` of the
        checkpoint, the ONNX file and the IR's weights; ``latency_ms``.
    """
    from nncf_transformers.evaluation import latency_ms
    from nncf_transformers.inputs import synthetic_inputs
    from nncf_transformers.loading import load_model

    results: dict[str, Any] = {}
    timed: dict[str, dict[str, Any]] = {name: {} for name in RUNTIMES}
    first: tuple[list[Any], _Recorder] | None = None
    for variant in variants:
        model = load_model(head, variant.checkpoint).eval()
        runtimes = {name: open_runtime(name, variant, model, exact=variant.name == "FP32") for name in RUNTIMES}
        result: dict[str, Any] = {"metrics": {}, "same_as_fp32": {}, "kl_to_fp32": {}, "same_as_torch": {}}
        own: list[Any] = []
        for name, runtime in runtimes.items():
            print(f"  {variant.name} in {name} …", flush=True)
            recorder = _Recorder(runtime)
            result["metrics"][name], answers = scorer(recorder)
            timed[name][variant.name] = runtime
            own = own or answers
            first = first or (answers, recorder)
            result["same_as_fp32"][name] = _same(answers, first[0])
            result["same_as_torch"][name] = _same(answers, own)
            result["kl_to_fp32"][name] = round(max(recorder.divergence_from(first[1]), 0.0), 4)
        results[variant.name] = result | {
            "size_mb": sizes_mb(variant),
            "latency_ms": {},
        }
    row = {name: tensor.numpy() for name, tensor in synthetic_inputs(model, 1, latency_length).items()}
    row["attention_mask"].fill(1)
    for name, by_variant in timed.items():
        for label, milliseconds in latency_ms(by_variant, row).items():
            results[label]["latency_ms"][name] = round(milliseconds, 2)
    return results


def open_runtime(name: str, variant: Variant, model: Any, *, exact: bool) -> Any:
    """Open one of :data:`RUNTIMES`.

    Args:
        name: which.
        variant: whose exports to read.
        model: its model in torch.
        exact: compute FP32 in float32; left to itself, OpenVINO takes bfloat16 where the processor has it.
    """
    from nncf_transformers.runtimes import onnx_runtime, openvino_runtime, torch_runtime

    if name == "torch":
        return torch_runtime(model)
    if name == "ONNX Runtime":
        return onnx_runtime(variant.onnx)
    return openvino_runtime(variant.openvino / "openvino_model.xml", exact=exact)


def sizes_mb(variant: Variant) -> dict[str, float]:
    """Megabytes of the checkpoint, the ONNX file and the IR's weights, by runtime."""
    files = (
        variant.checkpoint / "model.safetensors",
        variant.onnx,
        variant.openvino / "openvino_model.bin",
    )
    return {name: _mb(file) for name, file in zip(RUNTIMES, files, strict=True)}


class _Recorder:
    """A runtime that keeps the distributions it returned, in the order of the calls."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._logarithms: list[np.ndarray] = []

    def __call__(self, inputs: Any) -> Any:
        outputs = self._runtime(inputs)
        for logits in outputs:
            # Over positions (question answering), those that are padding have no part; or over classes.
            over_positions = logits.shape == inputs["attention_mask"].shape
            kept = np.where(inputs["attention_mask"], logits, -np.inf) if over_positions else logits
            shifted = kept - kept.max(-1, keepdims=True)
            self._logarithms.append(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
        return outputs

    def divergence_from(self, other: "_Recorder") -> float:
        """Mean over all distributions of KL(other, self), in nats."""
        rows = []
        for p, q in zip(other._logarithms, self._logarithms, strict=True):
            rows.append((np.exp(p) * (np.where(np.isfinite(p), p, 0) - np.where(np.isfinite(p), q, 0))).sum(-1))
        return float(np.concatenate(rows).mean())


def _same(answers: Sequence[Any], others: Sequence[Any]) -> float:
    """Percent of equal answers."""
    return round(100 * sum(a == b for a, b in zip(answers, others, strict=True)) / len(answers), 2)


def squad_scorer(tokenizer: Any, source: Path | Any, max_seq_length: int) -> Scorer:
    """Score F1 and exact match, in percent, on a file in SQuAD's format, or on the data set as the hub has it."""
    from nncf_transformers.data import evaluate, read_squad
    from nncf_transformers.evaluation import squad_predictions

    metric = evaluate.load("squad")
    if isinstance(source, Path):
        examples = read_squad(source)
        references = [
            {"id": e.id, "answers": {"text": list(e.answers), "answer_start": list(e.answer_starts)}} for e in examples
        ]
        questions = [{"id": e.id, "question": e.question, "context": e.context} for e in examples]
    else:
        references = [{"id": row["id"], "answers": row["answers"]} for row in source]
        questions = [{"id": row["id"], "question": row["question"], "context": row["context"]} for row in source]

    def score(runtime: Any) -> tuple[dict[str, float], list[Any]]:
        # The published proportion: windows of 384 tokens that overlap by 128.
        stride = max_seq_length // 3
        answers = squad_predictions(runtime, tokenizer, questions, max_seq_length=max_seq_length, doc_stride=stride)
        predictions = [{"id": i, "prediction_text": text} for i, text in answers.items()]
        scores = metric.compute(predictions=predictions, references=references)
        return {name: float(scores[name]) for name in ("f1", "exact_match")}, list(answers.values())

    return score


def class_scorer(tokenizer: Any, dataset: Any, columns: Sequence[str], max_seq_length: int, f1: bool = False) -> Scorer:
    """Score accuracy, in percent, on a data set with ``columns`` of text and integer labels; and F1 of class 1."""
    from nncf_transformers.evaluation import class_predictions

    texts = list(zip(*(dataset[column] for column in columns), strict=True))
    labels = list(dataset["label"])

    def score(runtime: Any) -> tuple[dict[str, float], list[Any]]:
        answers = class_predictions(runtime, tokenizer, texts, max_seq_length=max_seq_length)
        correct = sum(answer == label for answer, label in zip(answers, labels, strict=True))
        scores = {"accuracy": 100 * correct / len(labels)}
        if f1:
            hits = sum(answer == label == 1 for answer, label in zip(answers, labels, strict=True))
            # Of nothing found where nothing is, F1 is 0 as in scikit-learn.
            scores["f1"] = 100 * 2 * hits / max(answers.count(1) + labels.count(1), 1)
        return scores, answers

    return score


def circumstances(pin: str | None, data: dict[str, Path], seed: int) -> dict[str, Any]:
    """Everything that a figure needs to be reproduced: pin if any, commit, versions, seed, data and machine."""
    from nncf_transformers.data import sha256_of

    ours = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        **(_upstream(pin) if pin else {}),
        "overlay_commit": ours.stdout.strip(),
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "seed": seed,
        "data": {name: {"file": path.name, "sha256": sha256_of(path)} for name, path in data.items()},
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()},
        "date": time.strftime("%Y-%m-%d"),
    }


def _upstream(pin: str) -> dict[str, Any]:
    """The pin's commit, and the state of its work tree."""
    pins = tomllib.loads((ROOT / "pins.toml").read_text(encoding="utf-8"))
    status = subprocess.run(
        [sys.executable, "apply_patch.py", "status", "--pin", pin, "--json"], cwd=ROOT, capture_output=True, text=True
    )
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT / "build" / pin, capture_output=True, text=True)
    return {
        "pin": pin,
        "upstream_commit": pins["pins"][pin]["commit"],
        "patched_commit": head.stdout.strip(),
        "status": json.loads(status.stdout)["pins"] if status.returncode == 0 else status.stderr.strip(),
    }


def table(results: dict[str, Any], metric_names: Sequence[str]) -> str:
    """Render the results as a Markdown table, one line a variant and runtime."""
    head = ["model", "runtime", *metric_names, "answers as FP32 %", "as torch %", "KL to FP32", "size MB", "latency ms"]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for label, result in results.items():
        for name in RUNTIMES:
            scores = [f"{result['metrics'][name][metric]:.2f}" for metric in metric_names]
            scores += [f"{result[key][name]:.1f}" for key in ("same_as_fp32", "same_as_torch")]
            size, latency = result["size_mb"][name], result["latency_ms"][name]
            lines.append([label, name, *scores, f"{result['kl_to_fp32'][name]:.3f}", f"{size:.1f}", f"{latency:.1f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def load_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Says that the machine had more to do than its cores could while speeds were measured; else nothing."""
    loads = [row["load"] for row in rows if row.get("load")]
    worst = max(loads, key=lambda load: load["average"], default=None)
    if worst is None or worst["average"] <= worst["cores"]:
        return ""
    return (
        f"The load was {worst['average']:.1f} on {worst['cores']} cores when speeds were measured: other work may have "
        "slowed them"
    )


def _mb(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 2)


def _processor() -> str:
    """The processor's name; Linux tells it in /proc only."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
