#!/usr/bin/env python
"""Measure what INT8 does to a language model: perplexity, size and latency in every runtime.

    python benchmarks/language.py --name gpt2-small --data text.txt --title "GPT-2 of 4 layers, parts of one text"

Trains a byte-level BPE tokenizer on the text and a small GPT-2 from scratch with the patched run_clm.py, then takes the
model further as the rows of benchmarks/language.toml say: in FP32, by post-training quantization, and by
quantization-aware training. All are judged on the same blocks of text that they were not trained on. The figures go to
benchmarks/measured/NAME.json; `make readme` renders them.
"""

import argparse
import io
import json
import re
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.harness import RUNTIMES, Variant, circumstances, run  # noqa: E402
from overlay.errors import OverlayError  # noqa: E402
from scripts.train import script_path  # noqa: E402

MEASURED = ROOT / "benchmarks" / "measured"
SETTINGS = ROOT / "benchmarks" / "language.toml"
# Beside the models: what they were made from.
MADE = "made.json"
# GPT-2's one special token.
END = "<|endoftext|>"
# In WikiText, a line with one equality sign on either side is an article's title.
_TITLE = re.compile(r"^ ?= [^=\n]+ = ?$", re.MULTILINE)


def main() -> int:
    """Train what is missing, judge, and write the record."""
    args = _parse()
    from nncf_transformers import excepthook
    from nncf_transformers.checkpoint import write_text
    from nncf_transformers.data import sha256_of

    excepthook.install()
    try:
        script = script_path(args.pin, "run_clm")
    except OverlayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    settings = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    out = (args.out or ROOT / "runs" / "language" / args.name).resolve()
    files = _texts(args.data, args.held_out / 100, out)
    tokenizer, folder = _tokenizer(args.tokenizer, settings, files["train"], out)
    # Before the training, so that a text that is too short shows before it.
    blocks = blocks_of(tokenizer, files["valid"].read_text(encoding="utf-8"), settings["block"])
    common = [sys.executable, script, *_common_flags(settings, files), "--seed", args.seed]
    new = ["--model_type", "gpt2", "--config_overrides", _overrides(settings, tokenizer), "--tokenizer_name", folder]
    made = _made_already(out, settings, files["train"], args.reuse)
    _train(made, common, new, out)
    record = {
        "name": args.name,
        "kind": "language",
        "title": args.title or args.name,
        "arguments": [f"benchmarks/{SETTINGS.name} (sha256 {sha256_of(SETTINGS)[:12]}…)"],
        "settings": settings,
        "configs": {row["config"]: sha256_of(ROOT / row["config"]) for row in settings["rows"] if "config" in row},
        "tokenizer": args.tokenizer.name if args.tokenizer else f"trained on {files['train'].name}",
        "judged_tokens": blocks.shape[0] * (blocks.shape[1] - 1),
        "results": _judge(settings, out, blocks),
        **circumstances(args.pin, files, args.seed),
        "seconds": made["seconds"],
    }
    path = MEASURED / f"{args.name}.json"
    write_text(path, json.dumps(record, indent=1) + "\n")
    print(f"\n{table(record)}\n\nwrote {path.relative_to(ROOT)} ({time.strftime('%H:%M')})")
    return 0


def table(record: Mapping[str, Any]) -> str:
    """Render a record as a Markdown table, one line a model and runtime."""
    results = record["results"]
    first = next(iter(results.values()))["perplexity"]["torch"]
    latency = f"latency ms (1 × {record['settings']['block']})"
    lines = [["model", "runtime", "perplexity", "against FP32", "size MB", latency], ["---", "---", *["---:"] * 4]]
    for result in results.values():
        for name in RUNTIMES:
            perplexity = result["perplexity"][name]
            # Adding zero makes zero of what would be shown as -0.00.
            change = round(100 * (perplexity / first - 1), 2) + 0.0
            figures = [f"{perplexity:.2f}", f"{change:+.2f} %"]
            figures += [f"{result['size_mb'][name]:.1f}", f"{result['latency_ms'][name]:.1f}"]
            lines.append([result["title"], name, *figures])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def split_text(text: str, part: float) -> tuple[str, str]:
    """Hold out the end of a text in WikiText's layout, from an article's title on, so that no article is on both sides.

    Args:
        text: articles one after the other.
        part: at most so much of its characters is held out, between 0 and 1.

    Returns:
        What to train on, and what is held out; together they are the text.

    Raises:
        UsageError: no article begins in the last part.
    """
    from nncf_transformers.errors import UsageError

    title = _TITLE.search(text, round((1 - part) * len(text)))
    if title is None or title.start() == 0:
        raise UsageError(
            f"no article begins in the last {100 * part:g} % of the text; hold out more, or give a folder with "
            "wiki.train.raw and wiki.valid.raw"
        )
    return text[: title.start()], text[title.start() :]


def train_tokenizer(text: str, vocabulary: int, length: int, folder: Path) -> None:
    """Train a byte-level BPE tokenizer, as GPT-2's is, and save it as ``AutoTokenizer`` loads it.

    Args:
        text: what to train on.
        vocabulary: at most so many entries, the 256 bytes and the special token included.
        length: tokens that the model can read at once.
        folder: where to.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(io.StringIO(text), trainer)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        model_max_length=length,
        model_input_names=["input_ids", "attention_mask"],
    )
    whole.save_pretrained(folder)


def blocks_of(tokenizer: Any, text: str, length: int) -> np.ndarray:
    """Cut a text into blocks of tokens as run_clm does: line by line, one after the other, without the remainder.

    run_clm drops a remainder after every 1,000 lines, this only the last one.

    Args:
        tokenizer: any tokenizer.
        text: lines that end in ``\\n``.
        length: tokens of a block.

    Returns:
        Token ids, (blocks, length), int64.

    Raises:
        UsageError: the text is shorter than one block.
    """
    from nncf_transformers.errors import UsageError

    lines = tokenizer([*io.StringIO(text)], verbose=False)["input_ids"]
    ids = [token for line in lines for token in line]
    count = len(ids) // length
    if not count:
        raise UsageError(f"the text to judge on has {len(ids)} tokens, fewer than a block of {length}; give more")
    return np.array(ids[: count * length], np.int64).reshape(count, length)


def batches_of(blocks: np.ndarray, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Blocks as batches of at most ``size``, each with its own tokens as labels."""
    for first in range(0, len(blocks), size):
        rows = blocks[first : first + size]
        yield {"input_ids": rows, "attention_mask": np.ones_like(rows), "labels": rows}


def _texts(data: Path, part: float, out: Path) -> dict[str, Path]:
    """The files to train and to judge on, with an ending that run_clm takes; and the file that they are parts of."""
    from nncf_transformers.data.files import read_text

    sources = [data / f"wiki.{split}.raw" for split in ("train", "valid")] if data.is_dir() else [data]
    # Some copies of WikiText have Windows' line ends.
    texts = [read_text(file).replace("\r\n", "\n") for file in sources]
    whole: dict[str, Path] = {}
    if not data.is_dir():
        whole, texts = {"text": data}, [*split_text(texts[0], part)]
    out.mkdir(parents=True, exist_ok=True)
    parts = {split: out / f"{split}.txt" for split in ("train", "valid")}
    for file, text in zip(parts.values(), texts, strict=True):
        file.write_text(text, encoding="utf-8")
    return {**whole, **parts}


def _tokenizer(given: Path | None, settings: Mapping[str, Any], text: Path, out: Path) -> tuple[Any, Path]:
    """The tokenizer that is given, or one that is trained here, and its folder."""
    from transformers import AutoTokenizer

    from nncf_transformers.errors import UsageError

    folder = given.resolve() if given else out / "tokenizer"
    if given is None:
        train_tokenizer(text.read_text(encoding="utf-8"), settings["vocabulary"], settings["block"], folder)
    elif not folder.is_dir():
        raise UsageError(f"--tokenizer {given}: is no folder; give one that a tokenizer was saved in, or leave it out")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.eos_token_id is None:
        raise UsageError(f"--tokenizer {given}: has no token that ends a text, as GPT-2 needs; give another")
    return tokenizer, folder


def _common_flags(settings: Mapping[str, Any], files: Mapping[str, Path]) -> list[Any]:
    """What all rows' command lines have in common."""
    flags = ["--train_file", files["train"], "--validation_file", files["valid"], "--block_size", settings["block"]]
    flags += ["--do_train", "--do_eval", "--per_device_eval_batch_size", settings["eval_batch"]]
    return [*flags, "--overwrite_output_dir", "--save_strategy", "no", "--report_to", "none"]


def _overrides(settings: Mapping[str, Any], tokenizer: Any) -> str:
    """The sizes of the new model, as run_clm takes them."""
    end = tokenizer.eos_token_id
    sizes = {**settings["model"], "n_positions": settings["block"], "vocab_size": len(tokenizer)}
    return ",".join(f"{key}={value}" for key, value in (sizes | {"bos_token_id": end, "eos_token_id": end}).items())


def _made_already(out: Path, settings: Mapping[str, Any], text: Path, reuse: bool) -> dict[str, Any]:
    """What stands beside the models: what they were made from, and the seconds that each took.

    Raises:
        UsageError: those that are there were made from something else.
    """
    from nncf_transformers.data import sha256_of
    from nncf_transformers.errors import UsageError

    sources = {"settings": settings, "text": sha256_of(text)}
    file = out / MADE
    if not reuse:
        file.unlink(missing_ok=True)
    if not file.is_file():
        return {**sources, "seconds": {}}
    made: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if not made.items() >= sources.items():
        raise UsageError(f"--reuse: the models in {out} were made with other settings or another text; leave it out")
    return made


def _train(made: dict[str, Any], common: Sequence[Any], new: Sequence[Any], out: Path) -> None:
    """Make every row's model and its exports, and add the seconds that each took to what stands beside them.

    Args:
        made: what to make them from; a row that it has the seconds of is there already.
        common: the command line that all rows share.
        new: the flags of a row that starts from nothing.
        out: where the models go.
    """
    from nncf_transformers.checkpoint import write_text

    settings = made["settings"]
    for row in settings["rows"]:
        if row["name"] in made["seconds"]:
            continue
        variant = Variant(row["name"], out / row["name"])
        start = ["--model_name_or_path", out / row["start"]] if "start" in row else new
        config = ["--nncf-config", ROOT / row["config"]] if "config" in row else []
        arguments = [word for k, v in (settings["training"] | row["arguments"]).items() for word in (f"--{k}", v)]
        exports = ["--to-onnx", variant.onnx, "--to-openvino", variant.openvino]
        command = [*common, "--output_dir", variant.checkpoint, *start, *config, *arguments, *exports]
        made["seconds"][row["name"]] = round(run(command, out / f"{row['name']}.log"))
        # After each: an interruption must not lose what is done.
        write_text(out / MADE, json.dumps(made) + "\n")


def _judge(settings: Mapping[str, Any], out: Path, blocks: np.ndarray) -> dict[str, Any]:
    """Perplexity, size and latency of every row in every runtime, on the same blocks."""
    from nncf_transformers.evaluation import latency_ms, perplexity

    results: dict[str, Any] = {}
    timed: dict[str, dict[str, Any]] = {name: {} for name in RUNTIMES}
    for row in settings["rows"]:
        variant = Variant(row["name"], out / row["name"])
        scores = {}
        for name, runtime in _runtimes(variant, quantized="config" in row).items():
            print(f"  {row['title']} in {name} …", flush=True)
            scores[name] = perplexity(runtime, batches_of(blocks, settings["eval_batch"]), causal=True)
            timed[name][row["name"]] = runtime
        by_script = json.loads((variant.checkpoint / "eval_results.json").read_text(encoding="utf-8"))["perplexity"]
        results[row["name"]] = {
            "title": row["title"],
            "perplexity": scores,
            "perplexity_by_script": by_script,
            "size_mb": _sizes(variant),
            "latency_ms": {},
        }
    single = next(batches_of(blocks, 1))
    del single["labels"]
    for name, by_row in timed.items():
        for label, milliseconds in latency_ms(by_row, single).items():
            results[label]["latency_ms"][name] = round(milliseconds, 2)
    return results


def _runtimes(variant: Variant, quantized: bool) -> dict[str, Any]:
    """One model in every runtime."""
    from transformers import AutoModelForCausalLM

    from nncf_transformers.loading import load_model
    from nncf_transformers.runtimes import onnx_runtime, openvino_runtime, torch_runtime

    return {
        "torch": torch_runtime(load_model(AutoModelForCausalLM, variant.checkpoint).eval()),
        "ONNX Runtime": onnx_runtime(variant.onnx),
        # FP32 is computed in float32; left to itself, OpenVINO takes bfloat16 where the processor has it.
        "OpenVINO": openvino_runtime(variant.openvino / "openvino_model.xml", exact=not quantized),
    }


def _sizes(variant: Variant) -> dict[str, float]:
    """Megabytes of the file with the weights, by runtime."""
    files: Sequence[Path] = (
        variant.checkpoint / "model.safetensors",
        variant.onnx,
        variant.openvino / "openvino_model.bin",
    )
    return {name: round(file.stat().st_size / 1e6, 2) for name, file in zip(RUNTIMES, files, strict=True)}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the record and of the output folder")
    parser.add_argument("--title", help="which model and which text, for the README")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="a text of articles in WikiText's layout, of which the end is held out; or a folder with wiki.train.raw "
        "and wiki.valid.raw",
    )
    parser.add_argument("--held-out", type=float, default=10, metavar="PERCENT", help="of a text (default: 10)")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="take this one, and train none")
    parser.add_argument("--pin", default="v4.57")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path, help="folder for checkpoints and exports")
    parser.add_argument("--reuse", action="store_true", help="keep the models that are there already")
    args = parser.parse_args()
    if not 0 < args.held_out < 100:
        parser.error(f"--held-out {args.held_out:g}: takes percent, more than 0 and less than 100")
    return args


if __name__ == "__main__":
    sys.exit(main())
