#!/usr/bin/env python
"""Apply every pin whose upstream is in the cache, and try each of its scripts out.

    make matrix
    python scripts/matrix.py --pin v5.2

Each script trains two steps of INT8 on a tiny model and generated data, evaluates the checkpoint it wrote, and exports
it to ONNX and OpenVINO, in the environment of its pin. The figures of so short a run mean nothing; that it goes
through, and that the exported models are the trained one, does. Exit code 1 if something fails.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from overlay.errors import OverlayError  # noqa: E402
from overlay.pins import Pin, load_pins  # noqa: E402

CONFIG = {"algorithms": [{"algorithm": "quantization", "calibration_samples": 8}]}
SQUAD = ("--doc_stride", "16", "--max_seq_length", "64")
TEXT = (
    *("--dataset_name", "wikitext", "--dataset_config_name", "wikitext-2-raw-v1", "--data_dir", "{data}/wikitext"),
    *("--use_cpu", "--report_to", "none"),
)
# What a script needs besides the model: its data, its sizes, and no GPU. By the script's name, as upstream calls it.
WORDS = {
    "run_qa": (*SQUAD, "--use_cpu", "--report_to", "none", "--dataset_name", "squad", "--data_dir", "{data}/squad"),
    "run_squad": (
        *SQUAD,
        "--max_query_length",
        "24",
        "--model_type",
        "bert",
        "--no_cuda",
        "--data_dir",
        "{data}/squad",
    ),
    "run_glue": ("--task_name", "sst2", "--use_cpu", "--report_to", "none", "--data_dir", "{data}/glue/SST-2"),
    "run_xnli": ("--language", "en", "--use_cpu", "--report_to", "none", "--data_dir", "{data}/xnli/en"),
    "run_seq2seq_qa": (
        *("--max_seq_length", "64", "--max_answer_length", "8", "--generation_max_length", "8"),
        *("--predict_with_generate", "--use_cpu", "--report_to", "none"),
        *("--dataset_name", "squad", "--data_dir", "{data}/squad"),
    ),
    "run_mlm": (*TEXT, "--max_seq_length", "32"),
    "run_clm": (*TEXT, "--block_size", "32"),
}
# The model that a script starts from, where it is not the demo's BERT.
MODELS = {"run_seq2seq_qa": "t5", "run_clm": "gpt2"}
# The scripts of 2019, which read XNLI in the layout it is published in.
OLD = ("--model_type", "bert", "--do_lower_case", "--no_cuda")
OLD_WORDS = {
    "run_squad": (
        *(*OLD, *SQUAD, "--max_query_length", "24", "--train_file", "{data}/squad/train-v1.1.json"),
        *("--predict_file", "{data}/squad/dev-v1.1.json"),
    ),
    "run_glue": (*OLD, "--task_name", "sst-2", "--max_seq_length", "48", "--data_dir", "{data}/glue/SST-2"),
    "run_xnli": (*OLD, "--language", "en", "--max_seq_length", "48", "--data_dir", "{data}/xnli-2019"),
}
TRAIN = ("--do_train", "--max_steps", "2", "--nncf-config", "{config}", "--to-onnx", "{out}.onnx")


def main() -> int:
    """Print one line a script, and the reason for each pin that is left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pin", help="this pin only")
    args = parser.parse_args()
    try:
        pins = load_pins(ROOT / "pins.toml")
        chosen = [pins.get(args.pin)] if args.pin else list(pins.by_name.values())
    except OverlayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    folder = Path(tempfile.mkdtemp(prefix="nncf-matrix-"))
    data = folder / "data"
    made = all(
        _run([sys.executable, "-m", *words], folder / f"{words[0]}.log")
        for words in (("demo.data", "--out", str(data), "--size", "tiny"), ("demo.language", "--data", str(data)))
    )
    if made:
        write_xnli_of_2019(data)
        (folder / "config.json").write_text(json.dumps(CONFIG))
    if made and all([try_pin(pin, folder, data) for pin in chosen]):  # noqa: C419 - try all, also after a failure
        shutil.rmtree(folder)
        return 0
    print(f"error: something failed; the output of each run is in {folder}", file=sys.stderr)
    return 1


def words_of(pin: Pin, script: str) -> tuple[str, ...]:
    """What a script of a pin needs besides the model; with places to be filled in."""
    return (OLD_WORDS if " @ " in pin.library else WORDS)[script]


def write_xnli_of_2019(data: Path) -> None:
    """Write the demo's pairs in the layout of XNLI-MT-1.0 and XNLI-1.0, which the scripts of 2019 read."""
    pairs = {
        split: [line.split("\t") for line in (data / "xnli/en" / f"{split}.tsv").read_text().splitlines()[1:]]
        for split in ("train", "dev")
    }
    train = data / "xnli-2019/XNLI-MT-1.0/multinli/multinli.train.en.tsv"
    test = data / "xnli-2019/XNLI-1.0/xnli.test.tsv"
    for file in (train, test):
        file.parent.mkdir(parents=True, exist_ok=True)
    rows = ["\t".join([a, b, "contradictory" if label == "contradiction" else label]) for a, b, label in pairs["train"]]
    train.write_text("\n".join(["premise\thypo\tlabel", *rows]) + "\n")
    rows = ["\t".join(["en", label, *[""] * 4, a, b]) for a, b, label in pairs["dev"]]
    test.write_text("\n".join(["\t".join(["language", "gold_label"]), *rows]) + "\n")


def try_pin(pin: Pin, folder: Path, data: Path) -> bool:
    """Apply a pin and try its scripts; True unless something failed."""
    if reason := left_out(pin):
        print(f"{pin.name}: left out: {reason}", flush=True)
        return True
    log = folder / f"{pin.name}-apply.log"
    if not _run([sys.executable, "apply_patch.py", "apply", "--pin", pin.name], log):
        print(f"{pin.name}: FAILED to apply: {_last_line(log)}", flush=True)
        return False
    known = OLD_WORDS if " @ " in pin.library else WORDS
    scripts = dict.fromkeys(pin.scripts.values())
    for path in [path for path in scripts if Path(path).stem not in known]:
        print(f"{pin.name} {Path(path).stem}: left out: no way to try it is written down in scripts/matrix.py")
        del scripts[path]
    # A copy for each pin: its scripts keep features there, which those of another pin cannot read.
    data = shutil.copytree(data, folder / f"{pin.name}-data")
    # All of them, even after one has failed.
    results = [try_script(pin, path, folder, data) for path in scripts]
    return all(results)


def left_out(pin: Pin) -> str | None:
    """Say why a pin cannot be tried here, or None."""
    done = subprocess.run(
        [sys.executable, "apply_patch.py", "status", "--pin", pin.name, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    state = json.loads(done.stdout)["pins"][0]
    if state["state"] == "not fetched":
        return f"its upstream is not in the cache; make fetch PIN={pin.name}"
    if not interpreter(pin).is_file():
        return f"its environment is not installed; make setup PIN={pin.name}"
    package, _, wanted = pin.library.partition("==")
    if wanted:
        ask = f"import importlib.metadata as m; print(m.version({package!r}))"
        here = subprocess.run([interpreter(pin), "-c", ask], capture_output=True, text=True).stdout.strip()
        if here != wanted:
            return (
                f"it needs {pin.library}, {interpreter(pin).parents[1].name} has {here or 'none'}; write "
                f"requirements-{pin.name}.txt and .lock, then make setup PIN={pin.name}"
            )
    return None


def interpreter(pin: Pin) -> Path:
    """The Python of a pin's environment, as the Makefile chooses it."""
    own = f"-{pin.name}" if (ROOT / f"requirements-{pin.name}.txt").is_file() else ""
    return ROOT / f".venv{own}" / "bin" / "python"


def try_script(pin: Pin, path: str, folder: Path, data: Path) -> bool:
    """Train, evaluate and export by one script; print how it went."""
    name = Path(path).stem
    out = folder / f"{pin.name}-{name}"
    places = {"data": data, "config": folder / "config.json", "out": out}
    shared = [word.format(**places) for word in words_of(pin, name)]
    start = [str(interpreter(pin)), str(ROOT / "build" / pin.name / path)]
    runs = {
        "train": [*TRAIN, "--model_name_or_path", str(data / MODELS.get(name, "model")), "--output_dir", str(out)],
        # The scripts of 2019 evaluate what is in the output folder.
        "evaluate": [
            "--do_eval",
            "--model_name_or_path",
            str(out),
            "--output_dir",
            str(out),
            "--to-openvino",
            f"{out}-ir",
        ],
    }
    for what, words in runs.items():
        log = folder / f"{out.name}-{what}.log"
        if not _run([*start, *shared, *(word.format(**places) for word in words)], log):
            print(f"{pin.name} {name}: FAILED to {what}: {_last_line(log)}", flush=True)
            return False
    print(f"{pin.name} {name}: trained, evaluated, exported", flush=True)
    return True


def _run(words: list[str], log: Path) -> bool:
    # No PYTHONPATH: make setup has seen to it that the environment finds what it needs.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("w") as output:
        return not subprocess.run(words, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


if __name__ == "__main__":
    sys.exit(main())
