"""The model card, ``README.md`` in the Hub's format, beside every model that was trained with the overlay.

The Trainer of Transformers writes a card of its own: its text stays, its front matter is completed, and what the
overlay knows stands between two comments behind it. Where there is no card yet, a whole one is made. A later run over
the same folder puts its figures in the place of the earlier ones; how the model was trained stays until it is trained
anew.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from nncf_transformers.card_facts import CardFacts
from nncf_transformers.card_text import Known, code, is_number, sections
from nncf_transformers.checkpoint import write_text
from nncf_transformers.summary import STATISTICS_FILE

logger = logging.getLogger(__name__)

__all__ = ["CARD_FILE", "CardFacts", "read_card", "write_card"]

CARD_FILE = "README.md"
_BEGIN, _END = "<!-- nncf_transformers: begin -->", "<!-- nncf_transformers: end -->"
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*$\n?", re.DOTALL | re.MULTILINE)
# The scripts' names of metrics, and what a model-index calls them.
_METRICS = {
    "accuracy": "accuracy",
    "accuracy_mm": "accuracy",
    "f1": "f1",
    "exact_match": "exact_match",
    "exact": "exact_match",
    "perplexity": "perplexity",
    "matthews_correlation": "matthews_correlation",
    "pearson": "pearsonr",
    "pearsonr": "pearsonr",
    "spearmanr": "spearmanr",
}
# Tags that the overlay gives, which a model that is made anew in the folder may not deserve.
_TAGS = ("nncf", "openvino", "onnx", "int8", "pruned", "distilled")
_METHOD_TAGS = {"quantization": "int8", "distillation": "distilled", "layer_dropping": "pruned"}
_ORDER = ("library_name", "base_model", "datasets", "language", "license", "pipeline_tag", "tags", "metrics")


def read_card(folder: Path) -> str | None:
    """The card in ``folder``; None if there is none, or it cannot be read."""
    try:
        return (folder / CARD_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def write_card(folder: Path, facts: CardFacts | None = None, *, earlier: str | None = None) -> None:
    """Write the card of the model in ``folder``, or bring it up to date. Without a model nothing is written.

    Args:
        folder: the model, with what the scripts have written beside it: statistics, results.
        facts: of the run that trained or evaluated the model; None if only what is in the folder is known.
        earlier: the card as it was before another tool wrote its own over it (see :func:`read_card`); it is kept where
            the run has not trained the model.
    """
    if not _holds_model(folder):
        return
    facts = facts or CardFacts(trained=False)
    present = read_card(folder) or ""
    kept = present if facts.trained or earlier is None or _BEGIN not in earlier else earlier
    try:
        (data, body), (written, _) = _split(kept), _split(present)
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        logger.warning("%s: its front matter is not YAML (%s); the card stays as it is", folder / CARD_FILE, reason)
        return
    known = Known(folder, facts, data, _first_result(written), fresh=_BEGIN not in present)
    before, ours, after = _take_out(body)
    if not before.strip():
        before = f"# {known.name}\n"
    base = data.get("base_model")
    if isinstance(base, str) and not _is_hub_name(base):
        # Upstream makes every base a link to the Hub, even a folder.
        before = before.replace(f"[{base}](https://huggingface.co/{base})", code(base))
    made = sections(known, {} if facts.trained else ours, upstream=before)
    text = "\n\n".join(f"{heading}\n\n{content}" if heading else content for heading, content in made.items())
    front = yaml.safe_dump(_front_matter(known), sort_keys=False, allow_unicode=True, width=10_000)
    parts = (f"---\n{front}---", before.strip(), f"{_BEGIN}\n\n{text}\n\n{_END}", after.strip())
    write_text(folder / CARD_FILE, "\n\n".join(part for part in parts if part) + "\n")


def _front_matter(known: Known) -> dict[str, Any]:
    """The metadata: what is there already, completed."""
    data, facts = dict(known.data), known.facts
    data.setdefault("library_name", "transformers")
    base = data.pop("base_model", None)
    base = facts.base_model or base if facts.trained else base or facts.base_model
    if _is_hub_name(base):
        # The Hub takes names of models that it has, not those of folders.
        data["base_model"] = base
    if facts.trained and not known.fresh:
        # Of another model, which was in the folder before.
        data.pop("datasets", None)
        data.pop("metrics", None)
    dataset = known.dataset.get("type") if known.dataset else None
    if "datasets" not in data and dataset not in (None, "unknown"):
        data["datasets"] = [dataset]
    if known.task:
        data["pipeline_tag"] = known.task
    data["tags"] = _tags(known, data.get("tags"))
    result = _result(known)
    if result is not None:
        types = [metric["type"] for metric in result["metrics"]]
        data["metrics"] = list(dict.fromkeys([*_as_list(data.get("metrics")), *types]))
    name, results = _index(data.get("model-index"))
    kept = [] if facts.trained and (result is not None or not known.fresh) else results
    kept = [other for other in kept if result is None or not _same_data(other, result)]
    data["model-index"] = [{"name": str(name or known.name), "results": [*kept, *([result] if result else [])]}]
    return {key: data[key] for key in dict.fromkeys((*_ORDER, *data)) if data.get(key) not in (None, [], "")}


def _tags(known: Known, present: Any) -> list[str]:
    """Tags by which the Hub finds the model."""
    tags: list[str | None] = [tag for tag in _as_list(present) if tag not in _TAGS or not known.facts.trained]
    if known.methods:
        tags.append("nncf")
        tags += ["pruned" if method.endswith("_sparsity") else _METHOD_TAGS.get(method) for method in known.methods]
    if any(export.endswith(".bin") for export in known.exports):
        tags.append("openvino")
    if any(export.endswith(".onnx") for export in known.exports):
        tags.append("onnx")
    return list(dict.fromkeys(tag for tag in tags if tag is not None))


def _result(known: Known) -> dict[str, Any] | None:
    """The evaluation as an entry of a model-index; None where the Hub would not take it."""
    # Plain numbers: YAML knows nothing of NumPy's.
    values = {name: float(value) for name, value in known.metrics.items() if name in _METRICS and is_number(value)}
    if not values or not known.task:
        return None
    return {
        "task": {"type": known.task, "name": known.task.replace("-", " ").capitalize()},
        "dataset": known.dataset or {"name": "Unknown", "type": "unknown"},
        "metrics": [{"type": _METRICS[name], "value": value, "name": name} for name, value in values.items()],
    }


def _same_data(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two results are of one task and one data set, so that the later takes the place of the other."""
    keys = ("name", "type", "config", "split")
    return one["task"].get("type") == other["task"].get("type") and all(
        one["dataset"].get(key) == other["dataset"].get(key) for key in keys
    )


def _index(index: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The name and the whole results of a model-index."""
    entry = index[0] if isinstance(index, list) and index and isinstance(index[0], dict) else {}
    results = entry.get("results") or []
    whole = [r for r in results if isinstance(r, dict) and {"task", "dataset", "metrics"} <= r.keys()]
    return entry.get("name"), whole


def _first_result(data: Mapping[str, Any]) -> dict[str, Any]:
    _, results = _index(data.get("model-index"))
    return results[0] if results else {}


def _split(card: str) -> tuple[dict[str, Any], str]:
    """Take a card apart: front matter and text.

    Raises:
        yaml.YAMLError: the front matter is none.
    """
    match = _FRONT.match(card)
    if match is None:
        return {}, card
    data = yaml.safe_load(match[1])
    if data is not None and not isinstance(data, dict):
        raise yaml.YAMLError("it is no mapping")
    return data or {}, card[match.end() :]


def _take_out(body: str) -> tuple[str, dict[str, str], str]:
    """Take our part out of a card's text: what is before it, its sections by heading, what is behind it."""
    before, begin, rest = body.partition(_BEGIN)
    if not begin:
        # Earlier versions put one section at the end.
        return body.split("\n## Compression\n\n| | |\n")[0], {}, ""
    ours, _, after = rest.partition(_END)
    found: dict[str, list[str]] = {"": []}
    heading, fence = "", ""
    for line in ours.splitlines():
        marks = re.match("`{3,}", line)
        if marks and not fence:
            fence = marks[0]
        elif marks and line.strip() == fence:
            fence = ""
        if line.startswith("## ") and not fence:
            heading = line
            found[heading] = []
        else:
            found[heading].append(line)
    return before, {name: "\n".join(lines).strip() for name, lines in found.items()}, after


def _holds_model(folder: Path) -> bool:
    """Whether a model is there: its weights, or those of adapters in folders of their own."""
    names = ("*.safetensors", "pytorch_model*.bin", "*/adapter.safetensors", "*/pytorch_adapter.bin")
    return (folder / STATISTICS_FILE).is_file() or any(next(folder.glob(name), None) for name in names)


def _is_hub_name(name: Any) -> bool:
    """Whether a name can be that of a model on the Hub; one that this machine has a folder of is the folder's."""
    if not isinstance(name, str):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value or []]
