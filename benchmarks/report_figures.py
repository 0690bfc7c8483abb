"""Which charts a task of the report gets, with what is to be said of each; what is missing is named in a word."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report_plots import (
    COLOURS,
    Row,
    by_layer,
    curves,
    range_scale,
    ranges_alone,
    ranges_by_layer,
    scatter,
    sparsity_alone,
    sparsity_by_layer,
)
from benchmarks.report_svg import escape, finite

# The runtime whose latency is drawn, and with it the file whose size is: the first that the rows have.
_RUNTIMES = (("OpenVINO", ("IR", "OpenVINO")), ("ONNX Runtime", ("ONNX", "ONNX Runtime")), ("torch", ("torch",)))


def drawings(task: Mapping[str, Any], identity: str) -> str:
    """All charts of a task.

    Args:
        task: as the results have it, checked.
        identity: of the task, for the names of the drawings.
    """
    rows = [row for row in task["rows"] if row["status"] == "done"]
    if not rows:
        return '<p class="soft">No charts: no row of this task was run here.</p>'
    figures, missing = [], []
    for made, what in (
        (_against(task, rows, identity, "latency"), "latency"),
        (_against(task, rows, identity, "size"), "size"),
        (_training(task, rows, identity), "training curves"),
    ):
        figures += made
        missing += [] if made else [what]
    inside = [_ranges(row, f"{identity}-q{n}") for n, row in enumerate(rows) if row.get("quantizers")]
    inside += [_sparsity(row, f"{identity}-s{n}") for n, row in enumerate(rows) if row.get("sparsity")]
    missing += [
        w for key, w in (("quantizers", "quantizers"), ("sparsity", "sparsity")) if not any(map(_has(key), rows))
    ]
    note = (
        f'<p class="soft">Not drawn, for the results have no figures of it: {", ".join(missing)}.</p>'
        if missing
        else ""
    )
    charts = f'<div class="charts">{"".join(figures)}</div>' if figures else ""
    return "\n".join(part for part in (charts, *inside, note) if part)


def _has(key: str) -> Any:
    return lambda row: row.get(key)


def _figure(title: str, note: str, drawing: str) -> str:
    said = f"<b>{escape(title)}</b> {escape(note)}" if title else re.sub("[._]", r"\g<0><wbr>", escape(note))
    return f"<figure><figcaption>{said}</figcaption>{drawing}</figure>"


def _colour(row: Row, task: Mapping[str, Any]) -> int:
    """Grey for FP32; the others in the order of the table."""
    others = [other["key"] for other in task["rows"] if not _is_fp32(other)]
    return 0 if _is_fp32(row) else 1 + others.index(row["key"]) % (COLOURS - 1)


def _is_fp32(row: Row) -> bool:
    return "fp32" in row["key"].lower()


def _against(task: Mapping[str, Any], rows: Sequence[Row], identity: str, what: str) -> list[str]:
    """The first metric against latency or size: the runtime that most rows have."""
    if not task["metrics"]:
        return []
    metric, choices = task["metrics"][0], []
    for runtime, files in _RUNTIMES:
        points, drawn = [], []
        for row in rows:
            y = (row.get("measured") or {}).get(runtime, {}).get(metric)
            if what == "latency":
                x = (row.get("latency_ms") or {}).get(runtime)
            else:
                sizes = row.get("size_mb") or {}
                x = next((sizes[name] for name in files if sizes.get(name) is not None), None)
            if finite(x) and finite(y):
                points.append((row["label"], _colour(row, task), float(x), float(y)))
                drawn.append(row["key"])
        choices.append((runtime, files[0], points, drawn))
    runtime, file, points, drawn = max(choices, key=lambda choice: len(choice[2]))
    if not points:
        return []
    axis = f"latency in {runtime}, ms" if what == "latency" else f"size of the {file} model, MB"
    title = f"{metric} against {what}"
    note = f"{runtime}; dotted lines lead from FP32 to what was made of it. The vertical axis does not begin at zero."
    drawing = scatter(f"{identity}-{what}", title, (axis, metric), points, _pairs(drawn))
    return [_figure(title, note, drawing)]


def baseline_key(key: str, keys: Sequence[str]) -> str | None:
    """The FP32 row that a row is compared with: that of its own kind if there is one; none for one that is FP32."""
    if "fp32" in key.lower():
        return None
    return next((k for k in (key.replace("int8", "fp32"), "fp32") if k in keys and k != key), None)


def _pairs(keys: Sequence[str]) -> list[tuple[int, int]]:
    """Which rows belong together: each with the FP32 row of its own kind, or else with the one called fp32."""
    pairs = []
    for number, key in enumerate(keys):
        base = baseline_key(key, keys)
        if base is not None:
            pairs.append((keys.index(base), number))
    return pairs


def _training(task: Mapping[str, Any], rows: Sequence[Row], identity: str) -> list[str]:
    series = [(row["label"], _colour(row, task), row["curve"]) for row in rows if row.get("curve")]
    drawing = curves(f"{identity}-loss", "Training loss", "loss", series) if series else None
    note = "As logged (thin), and its moving average over about a fifteenth of the training."
    return [_figure("Training loss", note, drawing)] if drawing else []


def _ranges(row: Row, identity: str) -> str:
    """Per-layer ranges of weights, then of activations, each on one axis."""
    parts = [f"<h3>Ranges of the quantizers: {escape(row['label'])}</h3>"]
    for colour, (kind, what) in enumerate((("weight", "Weights"), ("activation", "Activations")), 1):
        entries = [entry for entry in row["quantizers"] if entry["kind"] == kind]
        if not entries:
            parts.append(f'<p class="soft">{what}: no quantizers.</p>')
            continue
        axis = range_scale(entries)
        form = f"; the axis is logarithmic beyond ±{axis[2]:g}" if axis[2] else ""
        each = "" if kind == "activation" else ", over all channels of a tensor"
        layers, alone = by_layer(entries)
        where = "a bar a layer, numbered on the left" if layers else "a bar a tensor"
        parts.append(f'<p class="soft"><b>{what}</b>: {len(entries)} quantizers, {where}{each}{form}.</p>')
        panels = [
            _figure(
                "",
                _place(prefix, role),
                ranges_by_layer(f"{identity}{kind[0]}{n}", f"{what}: {prefix}.*.{role}", found, axis, colour),
            )
            for n, ((prefix, role), found) in enumerate(layers.items())
        ]
        parts.append(f'<div class="panels">{"".join(panels)}</div>' if panels else "")
        if alone:
            title = f"{what} outside the layers" if layers else what
            drawing = ranges_alone(f"{identity}{kind[0]}x", title, alone, axis, colour)
            parts.append(f'<div class="charts">{_figure(title, "", drawing)}</div>')
    return "".join(parts)


def _place(prefix: str, role: str) -> str:
    """What a panel shows, short: a model has one or two lists of layers."""
    part = next((word for word in prefix.split(".") if word in ("encoder", "decoder")), "")
    return f"{part}: {role}" if part == "decoder" else role


def _sparsity(row: Row, identity: str) -> str:
    """Zeros by layer, or one sentence where there are none."""
    entries = row["sparsity"]
    title = f"Zeros in the weights: {row['label']}"
    total = sum(_size(entry) for entry in entries)
    zeros = sum(_size(entry) * entry["sparsity"] for entry in entries if finite(entry["sparsity"]))
    share = f"{100 * zeros / total:.1f} % of {total:,} weights are zero" if total else "no weights"
    if not zeros:
        return f'<h3>{escape(title)}</h3><p class="soft">None in {len(entries)} layers.</p>'
    layers, alone = by_layer(entries)
    figures = []
    for n, prefix in enumerate(dict.fromkeys(prefix for prefix, _ in layers)):
        roles = {role: found for (where, role), found in layers.items() if where == prefix}
        numbers = sorted({number for found in roles.values() for number in found})
        drawing = sparsity_by_layer(f"{identity}h{n}", f"{title}, {prefix}", roles, numbers)
        figures.append(_figure(prefix, "Percent of zeros; a column a layer.", drawing))
    if alone:
        drawing = sparsity_alone(f"{identity}x", f"{title}, other layers", alone)
        figures.append(_figure("Other layers" if layers else "By layer", "Percent of zeros.", drawing))
    return f'<h3>{escape(title)}</h3><p class="soft">{share}.</p><div class="charts">{"".join(figures)}</div>'


def _size(entry: Row) -> int:
    size = 1
    for side in entry["shape"]:
        size *= int(side)
    return size
