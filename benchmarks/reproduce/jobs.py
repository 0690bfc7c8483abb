"""What a scale runs: benchmarks/scales.toml, or the published command lines themselves, as jobs."""

import hashlib
import itertools
import json
import shlex
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.harness import Variant
from benchmarks.methods import METHODS, algorithms_of, in_epochs
from benchmarks.reproduce.figures import COMMANDS, ROOT, Row, Task
from benchmarks.reproduce.steps import Step
from nncf_transformers.errors import UsageError
from overlay.errors import OverlayError
from scripts import train

SCALES = ROOT / "benchmarks" / "scales.toml"
# What a job may start from besides another job's result.
MODELS = ("MODEL", "QA_MODEL")


@dataclass(frozen=True)
class Setting:
    """What the user gave on the command line."""

    scale: str
    out: Path
    pin: str
    data: Path | None = None
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Judging:
    """How the models of a task are judged.

    Attributes:
        kind: ``qa``; ``class``, of texts or pairs; ``script``, by what the script's own evaluation says.
        folder: with the data; None: the hub.
        dataset: what the script loads: name, and configuration.
        columns: of text.
        max_seq_length: in tokens.
        latency_length: tokens of the one sequence that latency is measured with.
        f1: of class 1, besides the accuracy.
    """

    kind: str
    folder: Path | None
    dataset: tuple[str, ...]
    columns: tuple[str, ...]
    max_seq_length: int
    latency_length: int
    f1: bool = False


@dataclass(frozen=True)
class Job:
    """One row to train and judge.

    Attributes:
        name: ``task/key``.
        label: of the row, where the published row of its key is not what it is, or there is none; or empty.
        folder: for all that it makes.
        words: the command line, without what is for resuming.
        files: that it writes before it runs, by path.
        inputs: SHA-256 by name.
        needs: names of the jobs whose results it takes.
        judging: None where the model is not judged, only used.
        what: the model and the budget, in words.
        places: what paths in the command are called in the record.
    """

    name: str
    label: str
    folder: Path
    words: tuple[str, ...]
    files: Mapping[Path, str]
    inputs: Mapping[str, str]
    needs: tuple[str, ...]
    judging: Judging
    what: str
    places: Mapping[str, str]

    @property
    def variant(self) -> Variant:
        return Variant(self.name, self.folder / "model")

    @property
    def command(self) -> str:
        """The command line as it is recorded: no path of this machine."""
        return shlex.join(self._called(word) for word in self.words)

    def _called(self, word: str) -> str:
        if word == sys.executable:
            return "python"
        for path, called in self.places.items():
            if word == path or word.startswith(f"{path}/") or word.startswith(f"{path}."):
                return called + word[len(path) :]
        return word

    def step(self, digests: Mapping[str, str]) -> Step:
        """The training as a step; ``digests`` has those of the jobs that it needs."""
        inputs = {**self.inputs, **{f"the result of {name}": digests[name] for name in self.needs}}
        return Step(f"{self.name}: training", "train", self.folder, self.command, inputs, owns_folder=True)


@dataclass(frozen=True)
class Missing:
    """A row that is not run: why."""

    name: str
    label: str
    reason: str


@dataclass(frozen=True)
class Earlier:
    """A row that was measured before, by another command, under circumstances of its own."""

    name: str
    label: str
    record: Path
    result: str
    what: str
    made_by: str


Plan = Job | Missing | Earlier


def load_scale(name: str) -> dict[str, Any]:
    """A scale of benchmarks/scales.toml.

    Raises:
        UsageError: there is no such scale.
    """
    scales = tomllib.loads(SCALES.read_text(encoding="utf-8"))
    if name not in scales:
        raise UsageError(f"SCALE={name}: there is no such scale; choose one of {', '.join(scales)}")
    scale: dict[str, Any] = scales[name]
    return scale


def scale_jobs(scale: Mapping[str, Any], setting: Setting) -> dict[str, Plan]:
    """What benchmarks/scales.toml has for this scale, by ``task/key``, in an order in which it can be done."""
    plans: dict[str, Plan] = {}
    for task, table in scale.get("tasks", {}).items():
        folder, reason = _link_data(table, setting, task)
        for row in table["rows"]:
            name = f"{task}/{row['key']}"
            label = row.get("label", "")
            why = reason if "record" not in row else None
            why = why or _missing_model(row, setting, plans)
            if why:
                plans[name] = Missing(name, label, why)
            elif "record" in row:
                record = ROOT / "benchmarks" / "measured" / f"{row['record']}.json"
                plans[name] = Earlier(name, label, record, row["result"], row["what"], row["made_by"])
            else:
                plans[name] = _job(name, label, row, table, scale, setting, folder)
    return plans


def _missing_model(row: Mapping[str, Any], setting: Setting, plans: Mapping[str, Plan]) -> str | None:
    """Why the row cannot start, if so."""
    start = row.get("start", "MODEL")
    if "record" in row or (row.get("given") in setting.models):
        return None
    if start in MODELS and start not in setting.models:
        return f"{start}=DIR was not given"
    for name in (start, row.get("teacher")):
        if name not in (None, *MODELS) and not isinstance(plans.get(str(name)), Job):
            return f"{name}, which it starts or learns from, is not run"
    return None


def _link_data(table: Mapping[str, Any], setting: Setting, task: str) -> tuple[Path, str | None]:
    """Put the data files of a task into one folder under the names that the script reads; or say what is missing."""
    folder = setting.out / task / "data"
    if setting.data is None:
        return folder, "DATA=DIR was not given"
    for name, source in table.get("files", {}).items():
        file = (setting.data / source).resolve()
        if not file.is_file():
            return folder, f"there is no {source} in DATA"
        link = folder / name
        if not link.is_symlink() or link.resolve() != file:
            folder.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(file)
    return folder, None


def ordered(plans: Mapping[str, Plan], wanted: list[str]) -> dict[str, Plan]:
    """The wanted plans, each after those that it needs, which are added."""
    done: dict[str, Plan] = {}

    def add(name: str) -> None:
        plan = plans[name]
        for one in plan.needs if isinstance(plan, Job) else ():
            if one not in done:
                add(one)
        done[name] = plan

    for name in wanted:
        if name not in done:
            add(name)
    return done


def _job(
    name: str,
    label: str,
    row: Mapping[str, Any],
    table: Mapping[str, Any],
    scale: Mapping[str, Any],
    setting: Setting,
    data: Path,
) -> Job:
    folder = setting.out / name
    # A model that is given is taken as it is.
    taken = row.get("given") if row.get("given") in setting.models else None
    start = taken or row.get("start", "MODEL")
    arguments = {**scale.get("arguments", {}), **table.get("arguments", {}), **row.get("arguments", {})}
    what = row["what"] if taken is None else row["what_given"]
    if row.get("untrained") or taken:
        arguments |= {"num_train_epochs": 0, "max_steps": -1}
    inputs = {n: sha256_of(data / n) for n in table.get("files", {})}
    files: dict[Path, str] = {}
    if "methods" in row:
        methods = tomllib.loads(METHODS.read_text(encoding="utf-8"))
        algorithms = in_epochs(algorithms_of(methods, row["methods"]), float(arguments["num_train_epochs"]))
        text = json.dumps({"algorithms": algorithms}, indent=1) + "\n"
        files[folder / "config.json"] = text
        arguments["nncf_config"] = folder / "config.json"
        inputs["its configuration"] = hashlib.sha256(text.encode()).hexdigest()
    if "recipe_text" in row:
        files[folder / "recipe.yaml"] = row["recipe_text"]
        arguments["recipe"] = folder / "recipe.yaml"
        inputs["its recipe"] = hashlib.sha256(row["recipe_text"].encode()).hexdigest()
    for key in ("nncf_config", "recipe"):
        if key in row:
            arguments[key] = ROOT / row[key]
            arguments["recipe_args"] = row.get("recipe_args")
            inputs[row[key]] = sha256_of(ROOT / row[key])
    needs = [one for one in dict.fromkeys((start, row.get("teacher"))) if one and one not in MODELS]
    if start in MODELS:
        inputs[start] = model_digest(setting.models[start])
    if "teacher" in row:
        arguments["teacher_model_or_path"] = _model_of(row["teacher"], setting)
    arguments |= {"model_name_or_path": _model_of(start, setting), "output_dir": folder / "model", "data_dir": data}
    arguments |= {"to_onnx": folder / "model.onnx", "to_openvino": folder / "model-openvino", "do_train": ""}
    words = [sys.executable, str(train.script_path(setting.pin, table["script"])), *_flags(arguments)]
    judging = _judging(table["judging"], data)
    return Job(name, label, folder, tuple(words), files, inputs, tuple(needs), judging, what, _places(setting))


def _model_of(start: str, setting: Setting) -> str:
    return setting.models[start] if start in MODELS else str(setting.out / start / "model")


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    """Words of a command line; an empty value makes a switch, None drops the flag."""
    return [word for key, value in arguments.items() if value is not None for word in (f"--{key}", str(value)) if word]


def _places(setting: Setting) -> dict[str, str]:
    """What folders are called in the record; longer paths first, as one may lie in another."""
    places = {str(path): name for name, path in setting.models.items()}
    places |= {str(setting.out): f"runs/tables/{setting.scale}"}
    if setting.data is not None:
        places[str(setting.data)] = "DATA"
    ordered = dict(sorted(places.items(), key=lambda item: -len(item[0])))
    return {**ordered, f"{ROOT}/build": "build", f"{ROOT}/nncf_configs": "nncf_configs", str(ROOT): "."}


def full_jobs(figures: Mapping[str, Task], table: Mapping[str, Any], setting: Setting) -> dict[str, Plan]:
    """The published command lines that scripts/train.py composes, with the hub's models and data."""
    makers = _makers(figures, setting.pin)
    plans: dict[str, Plan] = {}
    parser = train.make_parser(tomllib.loads(COMMANDS.read_text(encoding="utf-8")))
    first: dict[str, str] = {}
    for task in figures.values():
        for row in task.rows:
            name, words = f"{task.name}/{row.key}", row.train_words
            if words is None:
                plans[name] = Missing(name, row.label, "its command is not one of scripts/train.py: run it by hand")
                continue
            if row.lacks:
                plans[name] = Missing(name, row.label, row.lacks)
                continue
            args, extra = train.parse_with_extra(parser, words)
            same = repr((vars(args) | {"out": None}, extra))
            if first.setdefault(same, name) != name:
                plans[name] = Missing(name, row.label, f"has the same command as {first[same]}, see there")
                continue
            try:
                plans[name] = _full_job(name, row, words, makers, table, setting)
            except OverlayError as error:
                plans[name] = Missing(name, row.label, str(error))
    return plans


def _makers(figures: Mapping[str, Task], pin: str) -> dict[str, str]:
    """By output folder of the published command lines, the first row that makes it."""
    tasks, makers = tomllib.loads(COMMANDS.read_text(encoding="utf-8")), {}
    for task in figures.values():
        for row in task.rows:
            if row.train_words is not None:
                args, _ = train.parse_with_extra(train.make_parser(tasks), row.train_words)
                out = args.out or f"runs/{args.pin}/{args.task}-{'int8' if args.int8 else 'fp32'}"
                makers.setdefault(out.replace(f"runs/{args.pin}/", f"runs/{pin}/"), f"{task.name}/{row.key}")
    return makers


def _full_job(
    name: str, row: Row, words: list[str], makers: Mapping[str, str], table: Mapping[str, Any], setting: Setting
) -> Job:
    """A published command line, with this scale's folders instead of those that it has by itself.

    Raises:
        OverlayError: the pin is not there, or the command starts from what no row makes.
    """
    tasks = tomllib.loads(COMMANDS.read_text(encoding="utf-8"))
    folder = setting.out / name
    args, extra = train.parse_with_extra(train.make_parser(tasks), words)
    published_pin, args.pin, args.out = args.pin, setting.pin, str(folder / "model")
    args.data = args.data or (str(setting.data) if setting.data else None)
    # A dry run names the folder that it would start from; whether it is there shows when its row has been run.
    args.dry_run = True
    if not args.int8:
        extra = [*extra, "--to_onnx", f"{args.out}.onnx", "--to_openvino", f"{args.out}-openvino"]
    command: list[str] = []
    needs: list[str] = []
    for word in train.compose(args, tasks[args.task], extra):
        made = word.replace(f"runs/{published_pin}/", f"runs/{setting.pin}/")
        if made in makers:
            needs.append(makers[made])
            command.append(str(setting.out / makers[made] / "model"))
            continue
        if made.startswith(f"runs/{setting.pin}/"):
            raise OverlayError(f"{word}: no row of benchmarks/published/ makes it; run it by hand")
        if word == "PRUNED":
            raise OverlayError("wants an encoder that is pruned already; run its command by hand, with its folder")
        command.append(word)
    inputs = {
        word.removeprefix(f"{ROOT}/"): sha256_of(ROOT / word)
        for flag, word in itertools.pairwise(command)
        if flag in ("--nncf_config", "--recipe")
    }
    judging = _judging(table.get(args.task, table.get(tasks[args.task]["script"], {"kind": "script"})), setting.data)
    what = f"as published, from {Path(command[command.index('--model_name_or_path') + 1]).name}"
    return Job(name, row.label, folder, tuple(command), {}, inputs, tuple(needs), judging, what, _places(setting))


def _judging(table: Mapping[str, Any], folder: Path | None) -> Judging:
    """What scales.toml says of how to judge."""
    return Judging(
        table["kind"],
        folder,
        tuple(table.get("dataset", ())),
        tuple(table.get("columns", ())),
        table.get("max_seq_length", 0),
        table.get("latency_length", 0),
        table.get("f1", False),
    )


@lru_cache
def sha256_of(path: Path) -> str:
    from nncf_transformers.data import sha256_of as digest_of

    return digest_of(path)


@lru_cache
def model_digest(folder: str) -> str:
    """SHA-256 over a model folder's configuration, vocabulary and weights.

    Raises:
        UsageError: there is no model in it.
    """
    path = Path(folder)
    files = [file for pattern in ("*.json", "*.safetensors", "*.txt") for file in sorted(path.glob(pattern))]
    if not (path / "config.json").is_file():
        raise UsageError(f"{folder}: holds no config.json; give the folder of a model, as save_pretrained writes it")
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name} {sha256_of(file)}\n".encode())
    return whole.hexdigest()
