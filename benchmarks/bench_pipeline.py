#!/usr/bin/env python
"""What a pipeline adds to the bare exported model: tokens in, answers out.

    python benchmarks/bench_pipeline.py                      # INT8, shapes of MiniLM-L6 and BERT-base, random weights
    python benchmarks/bench_pipeline.py --repeats 50 --json pipeline.json

Bare is one call of the runtime on arrays that are ready, all rows of a batch in it, padded to the longest. The pipeline
and the bare model take turns, and medians are compared: 1.05 means five percent more time. In a turn the second of two
calls counts, for OpenVINO prepares itself where a call's shape is not that of the call before.
"""

import argparse
import json
import logging
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench_latency import CONFIG, SHAPES  # noqa: E402

WORDS = [f"w{i}" for i in range(20_000)]
LENGTH = 384
# Two special tokens in front of and behind the question, one at the end.
QUESTION, SPECIAL = 12, 3

Case = tuple[Callable[[], Any], Callable[[], Any]]


def main() -> int:
    """Print a line a case and runtime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for shape, head, make_cases in MODELS:
            model = export(SHAPES[shape], head, Path(folder, f"{shape}-{head}"))
            title = "" if shape == "minilm" else f" ({shape})"
            for runtime in ("openvino", "onnxruntime"):
                for name, (whole, bare) in make_cases(model, runtime).items():
                    figures[f"{name}{title}, {runtime}"] = compare(whole, bare, args.repeats)
    print(f"{'':66}{'bare ms':>9}{'pipeline ms':>13}{'ratio':>8}")
    for name, row in figures.items():
        print(f"{name:66}{row['bare_ms']:9.2f}{row['pipeline_ms']:13.2f}{row['ratio']:8.3f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def export(shape: dict[str, int], head: str, folder: Path) -> Path:
    """Export a model with random weights in INT8, with a tokenizer that has a token for each word."""
    import torch
    import transformers

    from demo.model import build_vocabulary, write_tokenizer
    from nncf_transformers import Compression, export_model
    from nncf_transformers.config import parse_config
    from nncf_transformers.inputs import synthetic_inputs

    logging.getLogger("nncf").setLevel(logging.ERROR)
    torch.manual_seed(0)
    vocabulary = build_vocabulary(WORDS)
    config = transformers.BertConfig(**shape, vocab_size=len(vocabulary))
    model = getattr(transformers, f"Bert{head}")(config).eval()
    settings = json.loads(CONFIG.read_text(encoding="utf-8"))["algorithms"][0]
    config = parse_config({"algorithms": [settings | {"calibration_samples": 4}]}, CONFIG.name)
    Compression(config).start(model, [synthetic_inputs(model, 4, 64)])
    export_model(model, to_openvino=str(folder), onnx_beside_ir="model.onnx")
    write_tokenizer(folder, vocabulary)
    # The demo's tokenizer says that its model takes fewer.
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 512}))
    return folder


def qa_cases(folder: Path, runtime: str) -> dict[str, Case]:
    """One window, eight questions with a window each, and one text of 20,000 characters."""
    from nncf_transformers import pipeline

    rng = random.Random(0)
    qa = pipeline("question-answering", folder, runtime, sequence_length=LENGTH)

    def case(count: int, words: int) -> Case:
        questions = [" ".join(rng.choices(WORDS, k=QUESTION)) for _ in range(count)]
        contexts = [" ".join(rng.choices(WORDS, k=words)) for _ in range(count)]
        return lambda: qa(question=questions, context=contexts), bare_call(qa._reader, lambda: qa(questions, contexts))

    fitting = LENGTH - QUESTION - SPECIAL
    long = next(n for n in range(2000, 9000, 50) if len(" ".join(WORDS[:n])) > 20_000)
    return {
        f"QA 1 x {LENGTH}": case(1, fitting),
        f"QA 8 x {LENGTH}": case(8, fitting),
        "QA, 20,000 characters": case(1, long),
    }


def text_cases(folder: Path, runtime: str) -> dict[str, Case]:
    """A short text, a long one, and sixteen of different lengths."""
    from nncf_transformers import pipeline

    rng = random.Random(0)
    classify = pipeline("text-classification", folder, runtime)

    def case(lengths: list[int]) -> Case:
        texts = [" ".join(rng.choices(WORDS, k=length - 2)) for length in lengths]
        return lambda: classify(texts), bare_call(classify, lambda: classify(texts))

    return {
        "text classification 1 x 32": case([32]),
        "text classification 1 x 21": case([21]),
        "text classification 1 x 128": case([128]),
        "text classification 16, 10 to 60 tokens": case([rng.randint(10, 60) for _ in range(16)]),
    }


MODELS = (
    ("minilm", "ForQuestionAnswering", qa_cases),
    ("minilm", "ForSequenceClassification", text_cases),
    ("bert-base", "ForSequenceClassification", text_cases),
)


def bare_call(owner: Any, call: Callable[[], Any]) -> Callable[[], Any]:
    """The rows that a call runs, without the padding of their widths, in one call of the runtime."""
    holder = owner if hasattr(owner, "_runtime") else owner._deployed
    name = "_runtime" if hasattr(owner, "_runtime") else "runtime"
    runtime, seen = getattr(holder, name), []

    def record(inputs: Any) -> Any:
        seen.append({name: array.copy() for name, array in inputs.items()})
        return runtime(inputs)

    object.__setattr__(holder, name, record)
    call()
    object.__setattr__(holder, name, runtime)
    width = max(int(batch["attention_mask"].sum(1).max()) for batch in seen)
    rows = {name: [] for name in seen[0]}
    for batch in seen:
        for name, array in batch.items():
            rows[name] += [np.pad(row[:width], (0, max(0, width - len(row)))) for row in array]
    inputs = {name: np.stack(arrays) for name, arrays in rows.items()}
    return lambda: runtime(inputs)


def compare(whole: Callable[[], Any], bare: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median milliseconds of both, in turns."""
    from nncf_transformers.evaluation import latency_ms

    calls = {"pipeline, first": whole, "pipeline": whole, "bare, first": bare, "bare": bare}
    times = latency_ms({name: lambda _, call=call: call() for name, call in calls.items()}, {}, repeats)
    ratio = times["pipeline"] / times["bare"]
    return {"bare_ms": times["bare"], "pipeline_ms": times["pipeline"], "ratio": ratio}


if __name__ == "__main__":
    sys.exit(main())
