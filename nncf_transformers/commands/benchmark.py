"""Latency, throughput, memory and size of exported models, in OpenVINO and ONNX Runtime.

    benchmark deployment
    benchmark int8.onnx fp32.onnx --runtime onnxruntime --batch_size 1 16 --sequence_length 128 384 --json figures.json

A model is an .onnx file, an .xml file, or a folder that export_onnx or --to-openvino wrote. Each model and runtime has
a process of its own, and the processes take turns in rounds, so that noise of the machine hits all of them alike.
Inputs are random tokens without padding. Printed for every shape:

    median, p90, p99   milliseconds of a call, one call at a time
    rows/s, tokens/s   what that makes in a second
    at once            rows/s with several requests at a time: OpenVINO's throughput hint; as many calls of one thread
                       each as there are cores in ONNX Runtime
    peak MB            largest resident memory of the process over all shapes, one call at a time, libraries included
    file MB            the model's file, with its weights
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from nncf_transformers.commands import begin, positive
from nncf_transformers.errors import CompressionError, UsageError

RUNTIMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
# As export.openvino names it, whose package takes seconds to load.
_IR = "openvino_model.xml"
# Tokens of a row, where the user does not say.
_LENGTHS = (128, 384)
_ROUNDS = 5
_WARM_UP = 3
# Token numbers that any vocabulary has and that are no special ones.
_TOKENS = (5, 30)
_HEAD = ("model", "runtime", "shape", "median", "p90", "p99", "rows/s", "tokens/s", "at once", "peak MB", "file MB")


@dataclass
class _Subject:
    """A model in one runtime, and its process."""

    model: str
    runtime: str
    file: Path
    process: Any = None
    pipe: Any = None
    results: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, *request: Any) -> Any:
        """Send the process a request, and wait for its answer; its mistakes are raised here."""
        self.pipe.send(request)
        try:
            answer = self.pipe.recv()
        except EOFError:
            raise CompressionError(f"{self.file}: its process was killed, perhaps for want of memory") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table, and write a file if asked."""
    args = begin(_parser(), argv)
    subjects = [
        _Subject(model, runtime, file)
        for model in args.model
        for runtime, file in _files(Path(model), args.runtime).items()
    ]
    if args.json is not None:
        _check_json(args.json)
    lengths = _lengths([subject.file for subject in subjects], args.sequence_length)
    shapes = [(batch, length) for batch in args.batch_size for length in lengths]
    print(_circumstances(), flush=True)
    try:
        for subject in subjects:
            _start(subject, args.threads)
        for shape in shapes:
            _measure(subjects, shape, args.iterations, args.seconds)
        for subject in subjects:
            _finish(subject, args.seconds)
    finally:
        for subject in subjects:
            if subject.process is not None:
                subject.process.kill()
                subject.process.join()
    results = [result for subject in subjects for result in subject.results]
    print(_table(results))
    if args.json is not None:
        # Not before: it loads torch.
        from nncf_transformers.checkpoint import write_text

        content = {"benchmark": "benchmark", "circumstances": _circumstances(), "results": results}
        write_text(args.json, json.dumps(content, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="+", metavar="MODEL", help="an .onnx or .xml file, or a folder with one")
    parser.add_argument("--runtime", choices=[*RUNTIMES, "both"], default="both")
    parser.add_argument("--batch_size", type=positive, nargs="+", default=[1, 16], metavar="N", help="(1 16)")
    parser.add_argument(
        "--sequence_length", type=positive, nargs="+", metavar="N", help="(128 384, or what the model takes)"
    )
    parser.add_argument(
        "--threads", type=positive, default=0, metavar="N", help="of a call; default: the runtime's own"
    )
    much = parser.add_mutually_exclusive_group()
    much.add_argument("--seconds", type=_seconds, default=5.0, metavar="S", help="for each shape and runtime (5)")
    much.add_argument("--iterations", type=positive, metavar="N", help="calls for each shape and runtime")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time")
    return value


def _check_json(file: Path) -> None:
    """Find out before the measurement that its figures cannot be written."""
    folder = file.resolve().parent
    if file.is_dir():
        raise UsageError(f"--json {file}: is a folder; name a file, such as {file / 'figures.json'}")
    if not folder.is_dir():
        raise UsageError(f"--json {file}: the folder does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--json {file}: the folder {folder} is not writable; choose another")


def _lengths(files: Sequence[Path], wanted: Sequence[int] | None) -> list[int]:
    """The sequence lengths to measure: those that the user wants, or the usual ones as far as all models take them.

    A length that a model has no positions for is refused: some runtimes give a result all the same.
    """
    lengths = list(_LENGTHS if wanted is None else wanted)
    for file in files:
        config = file.with_name("config.json")
        if not config.is_file():
            continue
        # Not before: it loads torch.
        from nncf_transformers.deployment import check_length, position_limit, read_config

        limit = position_limit(read_config(config))
        if wanted is not None:
            check_length(max(wanted), limit, str(file))
        elif limit is not None:
            lengths = sorted({min(length, limit) for length in lengths})
    return lengths


def _files(model: Path, wanted: str) -> dict[str, Path]:
    """The file that each runtime is to load of a model."""
    if model.is_dir():
        onnx = sorted(model.glob("*.onnx"))
        chosen = next((file for file in onnx if file.name == "model.onnx"), onnx[0] if len(onnx) == 1 else None)
        files = {"openvino": model / _IR if (model / _IR).is_file() else chosen, "onnxruntime": chosen}
    elif model.is_file() and model.suffix in (".onnx", ".xml"):
        files = {"openvino": model, "onnxruntime": model if model.suffix == ".onnx" else None}
    else:
        what = "is neither an .onnx nor an .xml file" if model.is_file() else "no such file or folder"
        raise UsageError(f"{model}: {what}; name an exported model")
    found = {name: file for name, file in files.items() if file is not None and wanted in (name, "both")}
    if not found:
        what = "exported model" if wanted == "both" else f"model for {wanted}"
        raise UsageError(f"{model}: holds no {what}, or several and none of the name model.onnx; name a file")
    return found


def _start(subject: _Subject, threads: int) -> None:
    """Start the process that runs a model, and let it load."""
    context = multiprocessing.get_context("spawn")
    subject.pipe, theirs = context.Pipe()
    work = (theirs, subject.runtime, str(subject.file), threads)
    subject.process = context.Process(target=_serve, args=work, daemon=True)
    subject.process.start()
    theirs.close()
    subject.ask("load")


def _measure(subjects: Sequence[_Subject], shape: tuple[int, int], iterations: int | None, seconds: float) -> None:
    """Measure one shape in all processes, in turns."""
    times: list[list[float]] = [[] for _ in subjects]
    for number in range(_ROUNDS):
        for subject, measured in zip(subjects, times, strict=True):
            count = None if iterations is None else iterations // _ROUNDS + (number < iterations % _ROUNDS)
            if count != 0:
                measured += subject.ask("latency", shape, count, seconds / _ROUNDS)
    for subject, measured in zip(subjects, times, strict=True):
        median, p90, p99 = (float(value) for value in np.percentile(measured, (50, 90, 99)))
        batch, length = shape
        subject.results.append(
            {
                "model": subject.model,
                "runtime": RUNTIMES[subject.runtime],
                "batch_size": batch,
                "sequence_length": length,
                "calls": len(measured),
                "median_ms": 1e3 * median,
                "p90_ms": 1e3 * p90,
                "p99_ms": 1e3 * p99,
                "rows_per_second": batch / median,
                "tokens_per_second": batch * length / median,
            }
        )


def _finish(subject: _Subject, seconds: float) -> None:
    """Add what is measured once, and what takes memory of its own: many requests at a time."""
    peak, weights = subject.ask("memory"), subject.file.with_suffix(".bin")
    size = subject.file.stat().st_size + (weights.stat().st_size if subject.file.suffix == ".xml" else 0)
    for result in subject.results:
        shape = result["batch_size"], result["sequence_length"]
        calls = min(result["calls"], max(1, int(1e3 * seconds / result["median_ms"])))
        rate = subject.ask("at once", shape, calls)
        result |= {"rows_per_second_at_once": rate, "peak_mb": peak, "file_mb": size / 1e6}


def _serve(pipe: Any, runtime: str, file: str, threads: int) -> None:
    """Answer requests until the pipe is closed; the body of a process."""
    model: Any = None
    answer: Any
    while True:
        try:
            kind, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            if kind == "load":
                model, answer = _load(runtime, file, threads), None
            elif kind == "latency":
                answer = _latency(model, *arguments)
            elif kind == "at once":
                answer = _many[runtime](file, _inputs(model, *arguments[0]), *arguments[1:])
            else:
                answer = _peak_mb()
        except CompressionError as error:
            answer = error
        # Each runtime has its own exception types; a shape that a model does not take is the usual reason.
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            answer = UsageError(
                f"{file}: cannot run {arguments[:1]} in {RUNTIMES[runtime]} ({reason}); try another shape"
            )
        pipe.send(answer)


def _peak_mb() -> float:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux counts what getrusage says from before this process became one of its own.
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _load(runtime: str, file: str, threads: int) -> Any:
    from nncf_transformers.runtimes import onnx_runtime, openvino_runtime

    model = (openvino_runtime if runtime == "openvino" else onnx_runtime)(file, threads)
    if unknown := set(model.inputs) - {"input_ids", "attention_mask", "token_type_ids"}:
        raise UsageError(f"{file}: has an input {min(unknown)}, which is not made up here; name an encoder's model")
    return model


def _inputs(model: Any, batch: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(*_TOKENS, (batch, length))
    everything = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: everything[name] for name in model.inputs}


def _latency(model: Any, shape: tuple[int, int], count: int | None, seconds: float) -> list[float]:
    """Seconds of single calls: ``count`` of them, or as many as fit into ``seconds``."""
    inputs = _inputs(model, *shape)
    for _ in range(_WARM_UP):
        model(inputs)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < count if count is not None else (not times or time.perf_counter() < end):
        start = time.perf_counter()
        model(inputs)
        times.append(time.perf_counter() - start)
    return times


def _many_in_openvino(file: str, inputs: dict[str, np.ndarray], calls: int) -> float:
    """Rows a second with OpenVINO's throughput hint, which decides on the number of requests at a time."""
    import openvino

    model = openvino.Core().compile_model(file, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
    queue = openvino.AsyncInferQueue(model)

    def run(count: int) -> None:
        for _ in range(count):
            queue.start_async(inputs)
        queue.wait_all()

    return _rows_a_second(run, len(queue), calls, inputs)


def _many_in_onnxruntime(file: str, inputs: dict[str, np.ndarray], calls: int) -> float:
    """Rows a second with as many calls at a time as there are cores, each of one thread."""
    from nncf_transformers.runtimes import onnx_runtime

    model, cores = onnx_runtime(file, threads=1), os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        return _rows_a_second(lambda count: list(pool.map(lambda _: model(inputs), range(count))), cores, calls, inputs)


def _rows_a_second(run: Callable[[int], Any], at_once: int, calls: int, inputs: dict[str, np.ndarray]) -> float:
    run(at_once)
    calls = max(calls, 2 * at_once)
    start = time.perf_counter()
    run(calls)
    return calls * len(inputs["input_ids"]) / (time.perf_counter() - start)


_many: dict[str, Callable[..., float]] = {"openvino": _many_in_openvino, "onnxruntime": _many_in_onnxruntime}


def _circumstances() -> str:
    """Versions and machine, on one line."""
    versions = []
    for name in ("nncf-transformers-overlay", *RUNTIMES):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or "unknown processor"
    return ", ".join([*versions, f"Python {platform.python_version()}", f"{processor}, {os.cpu_count()} cores"])


def _table(results: Sequence[dict[str, Any]]) -> str:
    rows = [list(_HEAD)]
    for r in results:
        shape = f"{r['batch_size']}x{r['sequence_length']}"
        figures = [f"{r[key]:.2f}" for key in ("median_ms", "p90_ms", "p99_ms")]
        figures += [f"{r['rows_per_second']:.1f}", f"{r['tokens_per_second']:.0f}"]
        figures += [f"{r[key]:.1f}" for key in ("rows_per_second_at_once", "peak_mb", "file_mb")]
        rows.append([r["model"], r["runtime"], shape, *figures])
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    return "\n".join(
        "  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
