#!/usr/bin/env python
"""Run a patched upstream script with a published command line.

    python scripts/train.py squad --int8                       # as published, needs the model hub
    python scripts/train.py squad --int8 --model DIR --data DIR --epochs 1 -- --max_train_samples 1000
    python scripts/train.py xnli --pin v4.57 --nproc 2 --dry-run
    python scripts/train.py squad-adapter --int8 --model DIR   # an adapter on the INT8 model in DIR

The command lines are those of benchmarks/published.toml. Everything after ``--`` goes to the script as it is, and wins
over what stands there. The command is printed before it runs, so that it can be repeated without this helper.
"""

import argparse
import os
import shlex
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from overlay.errors import OverlayError  # noqa: E402
from overlay.pins import Pin, load_pins  # noqa: E402

PUBLISHED = ROOT / "benchmarks" / "published.toml"


def main() -> int:
    """Compose the command, print it, and become it."""
    tasks = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))
    args, extra = parse_with_extra(make_parser(tasks))
    try:
        command = compose(args, tasks[args.task], extra)
    except OverlayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"+ {shlex.join(command)}", flush=True)
    if not args.dry_run:
        Path(command[command.index("--output_dir") + 1]).parent.mkdir(parents=True, exist_ok=True)
        os.execv(command[0], command)
    return 0


def compose(args: argparse.Namespace, task: dict[str, Any], extra: list[str]) -> list[str]:
    """Build the command line that runs ``task`` with the patched script of ``args.pin``.

    Raises:
        OverlayError: an unknown pin, a pin without such a script, or one that is not applied.
    """
    script = script_path(args.pin, args.script or task["script"])
    text = script.read_text(encoding="utf-8")
    kind = "int8" if args.int8 else "fp32"
    out = args.out or f"runs/{args.pin}/{args.task}-{kind}"
    options = {
        "model_name_or_path": args.model or _default_model(args, task),
        "output_dir": out,
        "do_train": "",
        "do_eval": "",
        "num_train_epochs": str(args.epochs if args.epochs is not None else task["epochs"]),
        **_batch_sizes(text, args.batch or task["batch"], task["eval_batch"]),
        **task["arguments"],
        **task.get("scripts", {}).get(script.stem, {}),
        **_of_2019(text, task, args.data),
    }
    if args.data and "train_file" not in options:
        options["data_dir"] = args.data
    if args.int8:
        config = args.config or ("config" in task and str(ROOT / task["config"]))
        # A recipe says itself how to compress the model.
        if config and not any(word.split("=")[0] == "--recipe" for word in extra):
            options["nncf_config"] = config
        options["to_onnx"] = f"{out}.onnx"
        options["to_openvino"] = f"{out}-openvino"
    given = {word.split("=")[0].lstrip("-").replace("-", "_") for word in extra if word.startswith("--")}
    words = [w for k, v in options.items() if k not in given for w in (f"--{k}", v) if w]
    launcher = [sys.executable]
    if args.nproc > 1:
        if "--local_rank" in text and "LOCAL_RANK" not in text and "join_processes" not in text:
            raise OverlayError(f"{script.name} of pin {args.pin} cannot be started by torchrun; use run_qa, or NPROC=1")
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={args.nproc}"]
    return [*launcher, str(script), *words, *extra]


def script_path(pin_name: str, script: str) -> Path:
    """Locate a patched script in the pin's work tree.

    Raises:
        OverlayError: an unknown pin, a script that the pin does not have, or a pin that is not applied.
    """
    pin = load_pins(ROOT / "pins.toml").get(pin_name)
    if there := _other_library(pin):
        raise OverlayError(
            f"pin {pin.name} needs {pin.library}, this environment has {there}: run `make setup PIN={pin.name}`, and "
            f"make with PIN={pin.name}"
        )
    path = ROOT / "build" / pin.name / pin.script(script)
    if not path.is_file():
        raise OverlayError(f"pin {pin.name} is not applied: run `make apply PIN={pin.name}` first")
    return path


def parse_with_extra(
    parser: argparse.ArgumentParser, words: list[str] | None = None
) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line up to ``--``; what follows it is left as it is, for another script."""
    words = sys.argv[1:] if words is None else words
    cut = words.index("--") if "--" in words else len(words)
    return parser.parse_args(words[:cut]), words[cut + 1 :]


def _other_library(pin: Pin) -> str | None:
    """Say which library is here, if it is not the pin's: a release, or its own checkout (``name @ folder``)."""
    name, at, folder = pin.library.partition(" @ ")
    if at:
        spec = find_spec(name)
        home = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        return None if home is None or home.is_relative_to(ROOT / folder) else str(home.parent)
    name, _, wanted = pin.library.partition("==")
    try:
        return None if version(name) == wanted else f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def _default_model(args: argparse.Namespace, task: dict[str, Any]) -> str:
    """The published starting point; where none was published, the result of our own run: FP32, or an INT8 base."""
    if not args.int8:
        return task["model"]
    if "int8_model" in task:
        return task["int8_model"]
    if "int8_base" in task:
        kind, run = "INT8", f"{task['int8_base']}-int8"
        target = run
    else:
        kind, run = "FP32", f"{args.task}-fp32"
        target = task.get("fp32_target", run)
    ours = f"runs/{args.pin}/{run}"
    if not Path(ours).is_dir() and not args.dry_run:
        raise OverlayError(f"{ours}: no {kind} model to start from; run `make {target}` first, or give MODEL=DIR")
    return ours


def _of_2019(text: str, task: dict[str, Any], data: str | None) -> dict[str, str]:
    """What the scripts of 2019 need besides: a model type, lower case for uncased models, and files of SQuAD."""
    if "pretrained_config_archive_map" not in text:
        return {}
    words = {"model_type": task["model_type"]}
    if task["arguments"].get("task_name") == "sst2":
        words["task_name"] = "sst-2"
    if "uncased" in task["model"]:
        words["do_lower_case"] = ""
    if "--predict_file" in text and data:
        words |= {"train_file": f"{data}/train-v1.1.json", "predict_file": f"{data}/dev-v1.1.json"}
    return words


def _batch_sizes(text: str, train: int, evaluate: int) -> dict[str, str]:
    """Spell the batch sizes as the script does: hand-written loops keep the name of 2019."""
    what = "gpu" if "per_gpu_train_batch_size" in text else "device"
    return {f"per_{what}_train_batch_size": str(train), f"per_{what}_eval_batch_size": str(evaluate)}


def make_parser(tasks: dict[str, Any]) -> argparse.ArgumentParser:
    """The flags of this script; ``tasks`` are those of benchmarks/published.toml."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=tasks, help="what to train; see benchmarks/published.toml")
    parser.add_argument("--int8", action="store_true", help="quantization-aware training, then export")
    parser.add_argument("--pin", default="v4.57", help="which upstream (default: %(default)s)")
    parser.add_argument("--script", help="another script of the pin than the task's own, such as run_squad")
    parser.add_argument("--model", help="model folder or hub name to start from")
    parser.add_argument("--data", help="local data folder; without it the script downloads its data set")
    parser.add_argument("--out", help="output folder (default: runs/PIN/TASK-int8 or -fp32)")
    parser.add_argument("--config", help="another compression configuration")
    parser.add_argument("--epochs", help="as published by default")
    parser.add_argument("--batch", type=int, help="samples a process and step; as published by default")
    parser.add_argument("--nproc", type=int, default=1, help="processes, started by torchrun (default: 1)")
    parser.add_argument("--dry-run", action="store_true", help="print the command, do not run it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
