"""How much more a training step costs with quantizers than without, on CPU.

    python benchmarks/bench_step.py                                    # both shapes
    python benchmarks/bench_step.py --shape bert-base                  # 4 sequences of 128 tokens
    python benchmarks/bench_step.py --shape minilm --baseline          # NNCF's own kernels, too
    python benchmarks/bench_step.py --shape minilm --smooth-quant off --json step.json

A step is forward, backward, gradient clipping, AdamW (fused, the Trainer's default) and zero_grad, on
BertForQuestionAnswering with random weights and random tokens, in training mode with the usual dropout of
0.1. FP32 and quantized steps take turns in one process, so that whatever else the machine does hits both
alike; the printed ratio is that of the medians.

Besides the time on the clock, each variant shows the median processor time and number of page faults: on a
busy machine the clock is not to be trusted, and fresh memory is a hidden cost of quantization. With several
threads the processor time includes waiting for one another; --threads 1 makes it the steadiest figure.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nncf
import torch
import transformers
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
)
from nncf.torch.quantization import quantize_functions
from transformers import BertConfig, BertForQuestionAnswering

from nncf_transformers.kernels import use_fast_kernels

PHASES = ("forward", "backward", "optimizer")


@dataclass(frozen=True)
class Shape:
    """A model and a batch: the two for which the project promises a ratio."""

    hidden: int
    layers: int
    heads: int
    batch: int
    sequence: int

    def config(self) -> BertConfig:
        return BertConfig(
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.hidden,
        )


SHAPES = {
    "minilm": Shape(hidden=384, layers=6, heads=12, batch=16, sequence=192),
    "bert-base": Shape(hidden=768, layers=12, heads=12, batch=4, sequence=128),
}


@dataclass
class Measurement:
    """One step. Times in milliseconds; `page_faults` counts the pages the kernel had to supply."""

    forward: float
    backward: float
    optimizer: float
    cpu: float
    page_faults: float

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.optimizer


@dataclass
class Variant:
    """One of the models that take turns.

    Attributes:
        step: Runs one step and returns it measured.
        context: Surrounds each step; it puts the kernels in place that the variant stands for.
    """

    step: Callable[[], Measurement]
    context: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


def make_batch(shape: Shape, vocabulary: int) -> dict[str, torch.Tensor]:
    """Random tokens and answer positions, without padding."""
    size = (shape.batch, shape.sequence)
    ids = torch.randint(0, vocabulary, size)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
        "start_positions": torch.randint(0, shape.sequence, (shape.batch,)),
        "end_positions": torch.randint(0, shape.sequence, (shape.batch,)),
    }


def quantize(model: torch.nn.Module, batch: dict[str, torch.Tensor], smooth_quant: bool) -> torch.nn.Module:
    """Return a quantized copy, with the settings of the project's configurations."""
    parameters = AdvancedQuantizationParameters(disable_bias_correction=True)
    if not smooth_quant:
        parameters.smooth_quant_alphas = AdvancedSmoothQuantParameters(matmul=-1)
    inputs = {name: value for name, value in batch.items() if not name.endswith("_positions")}
    return nncf.quantize(
        model,
        nncf.Dataset([inputs]),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=1,
        advanced_parameters=parameters,
    )


def make_step(
    model: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    watch: Callable[[torch.optim.Optimizer], None] = lambda _: None,
) -> Callable[[], Measurement]:
    """Return a function that trains the model by one step and measures it; ``watch`` is given its optimizer."""
    # The quantizers keep their number of bits and their sign in integer parameters.
    trainable = [p for p in model.parameters() if p.requires_grad and p.is_floating_point()]
    optimizer = torch.optim.AdamW(trainable, lr=3e-5, fused=True)
    watch(optimizer)
    model.train()

    def step() -> Measurement:
        faults, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        moments = [time.perf_counter()]
        loss = model(**batch).loss
        moments.append(time.perf_counter())
        loss.backward()
        moments.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        moments.append(time.perf_counter())
        forward, backward, update = (1e3 * (end - start) for start, end in itertools.pairwise(moments))
        return Measurement(
            forward,
            backward,
            update,
            cpu=1e3 * (time.process_time() - cpu),
            page_faults=resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults,
        )

    return step


def measure(variants: dict[str, Variant], steps: int, warmup: int = 2) -> dict[str, list[Measurement]]:
    """Let the variants take turns."""
    results: dict[str, list[Measurement]] = {name: [] for name in variants}
    for number in range(warmup + steps):
        for name, variant in variants.items():
            with variant.context():
                measurement = variant.step()
            if number >= warmup:
                results[name].append(measurement)
    return results


def summarise(measurements: list[Measurement]) -> dict[str, Any]:
    """Medians over the steps."""
    fields = [*PHASES, "total", "cpu", "page_faults"]
    medians = {name: round(statistics.median(getattr(m, name) for m in measurements), 1) for name in fields}
    return {"median": medians}


@contextlib.contextmanager
def kernels(namespace: Any) -> Iterator[None]:
    """Put an object in the place where NNCF's quantizers look their functions up."""
    previous = quantize_functions.QuantizedFunctionsCPU
    quantize_functions.QuantizedFunctionsCPU = namespace
    try:
        yield
    finally:
        quantize_functions.QuantizedFunctionsCPU = previous


def run(shape: Shape, steps: int, baseline: bool, smooth_quant: bool) -> dict[str, Any]:
    """Build the models, take the steps, and return everything that belongs to the record."""
    nncf_kernels = quantize_functions.QuantizedFunctionsCPU
    kind = use_fast_kernels()
    torch.manual_seed(0)
    config = shape.config()
    batch = make_batch(shape, config.vocab_size)
    model = BertForQuestionAnswering(config)
    quantized = quantize(model, batch, smooth_quant)

    quantized_step = make_step(quantized, batch)
    variants = {"fp32": Variant(make_step(model, batch)), "qat": Variant(quantized_step)}
    if baseline:
        # The same model: only the kernels differ.
        variants["qat_nncf_kernels"] = Variant(quantized_step, lambda: kernels(nncf_kernels))
    results = {name: summarise(measurements) for name, measurements in measure(variants, steps).items()}

    reference = results["fp32"]["median"]
    for result in results.values():
        result["ratio"] = round(result["median"]["total"] / reference["total"], 3)
        result["cpu_ratio"] = round(result["median"]["cpu"] / reference["cpu"], 3)
    return {
        "ratio": results["qat"]["ratio"],
        "shape": asdict(shape),
        "kernels": kind,
        "smooth_quant": smooth_quant,
        "variants": results,
        "threads": torch.get_num_threads(),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "load_average": os.getloadavg()[0],
        "machine": processor(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "nncf": nncf.__version__,
            "transformers": transformers.__version__,
        },
    }


def processor() -> str:
    """The processor's name, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def render(record: dict[str, Any]) -> str:
    """The record as a table for people."""
    shape = record["shape"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [
        f"hidden {shape['hidden']}, {shape['layers']} layers, batch {shape['batch']} × {shape['sequence']}, "
        f"SmoothQuant {'on' if record['smooth_quant'] else 'off'}, kernels: {record['kernels']}",
        f"{record['machine']}, {record['threads']} threads, load {record['load_average']:.1f}, {versions}",
        f"{'median of a step':<18}{'total':>9}{'forward':>9}{'backward':>9}{'optimizer':>10}"
        f"{'cpu':>9}{'faults':>9}{'ratio':>8}{'cpu ratio':>11}",
    ]
    for name, result in record["variants"].items():
        m = result["median"]
        lines.append(
            f"{name:<18}{m['total']:>9.0f}{m['forward']:>9.0f}{m['backward']:>9.0f}{m['optimizer']:>10.0f}"
            f"{m['cpu']:>9.0f}{m['page_faults']:>9.0f}{result['ratio']:>8.2f}{result['cpu_ratio']:>11.2f}"
        )
    lines.append(f"ratio QAT / FP32: {record['variants']['qat']['ratio']:.3f}  (times in ms)")
    return "\n".join(lines)


def write_records(records: dict[str, Any], path: Path) -> None:
    """Write records as JSON, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(records, indent=1) + "\n")
    temporary.replace(path)


def main(argv: list[str] | None = None) -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="may be given twice (default: both)")
    parser.add_argument("--steps", type=int, default=15, help="of each variant (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--smooth-quant", choices=("on", "off"), default="on", help="(default: %(default)s)")
    parser.add_argument("--baseline", action="store_true", help="measure NNCF's own kernels, too")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the records")
    arguments = parser.parse_args(argv)
    if arguments.steps < 1:
        parser.error(f"--steps {arguments.steps}: at least one step is needed")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    records = {}
    for name in arguments.shape or SHAPES:
        records[name] = run(SHAPES[name], arguments.steps, arguments.baseline, arguments.smooth_quant == "on")
        print(render(records[name]), flush=True)
    if arguments.json:
        write_records(records, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
