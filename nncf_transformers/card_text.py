"""What a model card says in its text, section by section."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nncf_transformers.card_facts import CardFacts, versions
from nncf_transformers.checkpoint import STATE_FILE
from nncf_transformers.recipe.inherit import RECIPE_FILE
from nncf_transformers.structure import CONFIG_KEY, PACK_KEY
from nncf_transformers.summary import STATISTICS_FILE, removed_share

# The end of a model class's name, its task on the Hub, and the end of the names of the classes that load it.
_TASKS = (
    ("ForQuestionAnswering", "question-answering", "QuestionAnswering"),
    ("ForSequenceClassification", "text-classification", "SequenceClassification"),
    ("ForMaskedLM", "fill-mask", "MaskedLM"),
    ("ForCausalLM", "text-generation", "CausalLM"),
    ("LMHeadModel", "text-generation", "CausalLM"),
    ("ForConditionalGeneration", "text2text-generation", "Seq2SeqLM"),
    ("ModelEMB", "feature-extraction", None),
)
# Hyperparameters that a part of a recipe sets, whatever the script was told.
_OF_RECIPE = {
    "learning_rate": ("learning_rate", "lr_scheduler_type", "warmup_ratio", "warmup_steps"),
    "weight_decay": ("weight_decay",),
}
# Among a script's results: how long something took, not how well.
_TIMES = re.compile(r"(.*_)?(runtime|per_second|compilation_time|flos)|epoch|step")


class Known:
    """All that is known of a model and of the latest run.

    Attributes:
        folder: of the model.
        facts: of the run.
        data: the card's front matter so far.
        fresh: whether another tool has written the card for this very model, after the overlay last did.
        name: of the model.
        statistics: see :mod:`nncf_transformers.summary`.
        task: as the Hub calls it; None for one that is not known.
        metrics: of the evaluation, by the script's names.
        dataset: of the evaluation, as an entry of a model-index.
        training: what the script has written of the training.
    """

    def __init__(
        self, folder: Path, facts: CardFacts, data: dict[str, Any], result: Mapping[str, Any], *, fresh: bool
    ) -> None:
        self.folder, self.facts, self.data, self.fresh = folder, facts, data, fresh
        self.name = folder.resolve().name
        self.statistics = _read(folder / STATISTICS_FILE)
        self.config = _read(folder / "config.json")
        self.task, self.auto_class = self._task(result)
        self.metrics = dict(facts.metrics) if facts.metrics is not None else _evaluated(folder)
        self.dataset = self._dataset(result.get("dataset"))
        self.training = _fresh(folder, "train_results.json") if facts.trained else {}

    @property
    def methods(self) -> list[str]:
        """The compression's methods."""
        return list(self.statistics.get("algorithms", []))

    @property
    def of_recipe(self) -> list[str]:
        """Hyperparameters that the run's recipe has its own of, for all of the training or a part."""
        if "recipe" not in self.facts.flags:
            # The recipe of an earlier training says nothing of this one's.
            return []
        return [name for part in self.statistics.get("training", ()) for name in _OF_RECIPE.get(part, ())]

    @property
    def exports(self) -> list[str]:
        """The exported files that hold weights: those that were noted, and those that lie in the folder."""
        beside = [path for name in ("*.onnx", "*/openvino*model.bin") for path in sorted(self.folder.glob(name))]
        names = (path.relative_to(self.folder).as_posix() for path in beside)
        return list(dict.fromkeys([*self.statistics.get("exports", {}), *names]))

    @property
    def needs_overlay(self) -> bool:
        """Whether Transformers alone would not load the model as it is."""
        return (self.folder / STATE_FILE).is_file() or CONFIG_KEY in self.config or PACK_KEY in self.config

    def _task(self, result: Mapping[str, Any]) -> tuple[str | None, str | None]:
        classes = self.config.get("architectures") or [""]
        for end, task, auto_class in _TASKS:
            if str(classes[0]).endswith(end):
                return task, auto_class
        return result.get("task", {}).get("type"), None

    def _dataset(self, written: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """The data of the evaluation: what is no whole data set of the Hub does not bear its type."""
        flags = self.facts.flags
        if self.facts.dataset is not None:
            return dict(self.facts.dataset)
        named = self.facts.dataset_of_flags()
        if written is not None and (self.fresh or (named is None and not self.facts.trained)):
            # Of the tool that has written the card; or of the evaluation before, if this run says nothing of its data.
            named = dict(written)
        if named is None:
            return None
        local, most = "data_dir" in flags, flags.get("max_eval_samples")
        if local and named.get("type") != "unknown":
            named = {"name": f"{named['name']}, from a local folder", "type": "unknown"}
        if most is not None:
            named = {"name": f"{named['name']}, at most {most} samples", "type": "unknown"}
        return named


def sections(known: Known, earlier: Mapping[str, str], upstream: str) -> dict[str, str]:
    """The overlay's part of a card by heading, in order; the first has none.

    Args:
        known: of the model and the run.
        earlier: the sections of the card before, of which those stay that this run says nothing of.
        upstream: the card's other text.
    """
    facts = known.facts
    made = _made(known) if facts.trained and facts.command else ""
    settings = _settings(known, upstream) if facts.trained else ""
    found = {
        "": earlier.get("", "") or _introduction(known),
        "## Evaluation": _evaluation(known) or earlier.get("## Evaluation", ""),
        "## How it was made": made or earlier.get("## How it was made", ""),
        "## Compression": _compression(known.statistics) if known.statistics else "",
        "## Training hyperparameters": settings or earlier.get("## Training hyperparameters", ""),
        "## How to load it": _loading(known),
        "## Limits": _limits(known, earlier.get("## Limits", "")),
    }
    return {heading: content for heading, content in found.items() if content.strip()}


def _introduction(known: Known) -> str:
    """One or two sentences: what this is."""
    facts = known.facts
    what = f"A model for {known.task.replace('-', ' ')}" if known.task else "A model"
    how = f", compressed by {_listed(known.methods)}" if known.methods else ""
    if not (facts.trained and facts.base_model):
        return f"{what}{how}."
    by = f" by {code(facts.script)}" if facts.script else ""
    return f"{what}{how}. It was made from {code(facts.base_model)}{by}."


def _evaluation(known: Known) -> str:
    if not known.metrics:
        return ""
    dataset, facts = known.dataset or {}, known.facts
    where = f" on {code(str(dataset['name']))}" if dataset else ""
    where += f", {code(str(dataset['config']))}" if dataset.get("config") else ""
    where += f", split {code(str(dataset['split']))}" if dataset.get("split") else ""
    table = _table(("metric", "value"), ((cell(name), _value(value)) for name, value in known.metrics.items()))
    parts = [f"Evaluated{where}:", table]
    if facts.command and not facts.trained:
        parts += ["by this command, which is not that of the training:", _block(facts.command_line, "bash")]
    return "\n\n".join(parts)


def _settings(known: Known, upstream: str) -> str:
    """Hyperparameters, where upstream's part of the card has none; the recipe has its own."""
    given = {} if "### Training hyperparameters" in upstream else known.facts.settings
    lines = [f"- {name}: {_value(value)}" for name, value in given.items()]
    if known.of_recipe:
        lines.append(f"- where the recipe, `{RECIPE_FILE}`, says another, its own holds: {', '.join(known.of_recipe)}")
    return "\n".join(lines)


def _made(known: Known) -> str:
    """Command, pin, versions, seed and data."""
    facts = known.facts
    rows = [("script", code(facts.script)), ("pin", facts.pin), ("seed", facts.settings.get("seed"))]
    if "recipe" in facts.flags and (known.folder / RECIPE_FILE).is_file():
        rows.append(("recipe", f"`{RECIPE_FILE}` in the model's folder, its variables replaced"))
        rows += [("left out of the recipe", cell(name)) for name in known.statistics.get("left_out", ())]
    rows += [(name.replace("_", " "), _value(v)) for name, v in known.training.items() if not _TIMES.fullmatch(name)]
    rows.append(("versions", ", ".join(f"{name} {number}" for name, number in versions().items())))
    parts = [_block(facts.command_line, "bash")]
    parts.append("\n".join(f"- {name}: {value}" for name, value in rows if value not in (None, "")))
    files = [(code(name), purpose, f"`{digest}`") for name, purpose, digest in facts.files()]
    if files:
        parts.append(_table(("file", "what", "sha256"), files))
    return "\n\n".join(parts)


def _compression(statistics: Mapping[str, Any]) -> str:
    before = statistics["before"]
    rows = [("methods", ", ".join(statistics["algorithms"]) or "none")]
    if before:
        rows.append(("parameters before", f"{before['parameters']:,}"))
    rows.append(("parameters", f"{statistics['parameters']:,}"))
    rows.append(("of these zero", f"{statistics['zeros']:,}"))
    share = removed_share(dict(statistics))
    if share is not None:
        rows.append(("weights of the transformer blocks removed or zero", f"{100 * share:.1f} %"))
    for name, size in (statistics["bytes"] | statistics.get("exports", {})).items():
        rows.append((f"size of {code(name)}", f"{size / 1e6:.1f} MB"))
    return f"{_table(('', ''), rows)}\n\nLayer by layer: `{STATISTICS_FILE}`."


def _loading(known: Known) -> str:
    """How a program gets the model back: with its quantizers, or by optimum-intel from OpenVINO's files."""
    if known.task == "feature-extraction":
        lines = ["from nncf_transformers.embedding import load_embedding_model", ""]
        lines.append(f"model = load_embedding_model({known.name!r})")
        return f"With the overlay:\n\n{_block(chr(10).join(lines), 'python')}"
    if known.auto_class is None:
        return ""
    auto = f"AutoModelFor{known.auto_class}"
    said, lines = "With Transformers:", [f"from transformers import {auto}"]
    if known.needs_overlay:
        said = "With the overlay, whose `load_model` puts quantizers and pruned layers back in their places:"
        lines += ["from nncf_transformers import load_model", "", f"model = load_model({auto}, {known.name!r})"]
    else:
        lines += ["", f"model = {auto}.from_pretrained({known.name!r})"]
    parts = [said, _block("\n".join(lines), "python")]
    for folder in dict.fromkeys(str(Path(export).parent) for export in known.exports if export.endswith(".bin")):
        place = (
            f"{known.name}/{folder}" if (known.folder / folder).is_dir() and not Path(folder).is_absolute() else folder
        )
        loader = f"OVModelFor{known.auto_class}"
        lines = [f"from optimum.intel import {loader}", "", f"model = {loader}.from_pretrained({place!r})"]
        parts += ["OpenVINO's files, with optimum-intel:", _block("\n".join(lines), "python")]
    return "\n\n".join(parts)


def _limits(known: Known, earlier: str) -> str:
    """What is known of the limits; those of the training stay when the model is evaluated again."""
    lines = [f"- {line}" for line in known.facts.limits]
    if not known.facts.trained:
        lines = [line for line in earlier.splitlines() if line.startswith("- Training:")] + lines
    if known.statistics.get("finished") is False:
        lines.append("- Compression: its training is not over; masks and schedules are those of a checkpoint.")
    return "\n".join(dict.fromkeys(lines))


def _evaluated(folder: Path) -> dict[str, Any]:
    """What a script has written of its evaluation of this model; the times are left out."""
    results = _fresh(folder, "eval_results.json")
    if not (folder / "eval_results.json").is_file():
        results = {k: v for k, v in _fresh(folder, "all_results.json").items() if k.startswith(("eval_", "perplexity"))}
    named = {name.removeprefix("eval_"): value for name, value in results.items()}
    return {name: value for name, value in named.items() if not _TIMES.fullmatch(name)}


def _fresh(folder: Path, name: str) -> dict[str, Any]:
    """A file of results, unless it is older than the weights: then it is of an earlier model."""
    path = folder / name
    weights = [
        file.stat().st_mtime_ns for ending in ("*.safetensors", "*/adapter.safetensors") for file in folder.glob(ending)
    ]
    if not path.is_file() or path.stat().st_mtime_ns < max(weights, default=0):
        return {}
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_number(value: Any) -> bool:
    """Whether a value is a number that YAML and people can read."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def cell(text: str) -> str:
    """Text that cannot end a table's cell or line."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def code(text: str) -> str:
    """Text as it is, in a line."""
    runs = re.findall("`+", text)
    marks = "`" * (1 + max(map(len, runs), default=0))
    space = " " if runs else ""
    return f"{marks}{space}{cell(text)}{space}{marks}"


def _block(text: str, language: str) -> str:
    """Code as it is, on lines of its own."""
    marks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks}{language}\n{text}\n{marks}"


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" if any(line) else "|" + " |" * len(line) for line in lines)


def _listed(words: Sequence[str]) -> str:
    named = [word.replace("_", " ") for word in words]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else cell(str(value))
