"""The report's charts: each takes rows of a task and gives one SVG, or None where there is nothing to draw."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.report_svg import (
    Box,
    Scale,
    cut,
    escape,
    finite,
    fixed,
    padded,
    place_labels,
    short,
    smooth,
    spread,
    symmetric_log,
    text_width,
    thin,
)

# The drawing of a chart is so wide, which is about its width on a phone: its text is as large as that of the page.
WIDTH = 360
_FONT, _SMALL = 11, 10
# Colours in the order of the rows; the first is for the model that the others are compared with.
COLOURS = 6
_POINTS = 300
_LAYER = re.compile(r"(.+?)\.(\d+)\.(.+)")

Row = Mapping[str, Any]


def chart(identity: str, title: str, description: str, height: float, body: Iterable[str], width: float = WIDTH) -> str:
    """An SVG with a title and a description, which programs that read pages aloud say."""
    return (
        f'<svg viewBox="0 0 {fixed(width)} {fixed(height)}" role="img" aria-labelledby="{identity}-t {identity}-d">'
        f'<title id="{identity}-t">{escape(title)}</title><desc id="{identity}-d">{escape(description)}</desc>'
        f"{''.join(body)}</svg>"
    )


def text(x: float, y: float, what: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text."""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{fixed(x)}" y="{fixed(y)}"{kind}{where}>{escape(what)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{fixed(x1)}" y1="{fixed(y1)}" x2="{fixed(x2)}" y2="{fixed(y2)}" class="{kind}"/>'


def scatter(
    identity: str,
    title: str,
    axes: tuple[str, str],
    points: Sequence[tuple[str, int, float, float]],
    pairs: Sequence[tuple[int, int]],
) -> str:
    """Points with labels.

    Args:
        identity: of the drawing, unlike all others of the page.
        title: of the drawing.
        axes: what is measured, x and y.
        points: label, colour, x (from zero on) and y of each.
        pairs: numbers of points to be connected.
    """
    height, frame = 250, Box(44, 26, WIDTH - 8, 214)
    high = max(x for _, _, x, _ in points)
    across = Scale(0, high * 1.08 or 1, frame.left, frame.right)
    up = Scale(*padded([y for *_, y in points], 0.22), frame.bottom, frame.top)
    places = [(across(x), up(y)) for _, _, x, y in points]
    labels = [cut(label, 40) for label, *_ in points]
    lines = [(places[a], places[b]) for a, b in pairs]
    body = [*_grid(across, up, frame), text(4, 12, axes[1], "axis"), text(frame.right, 246, axes[0], "axis", "end")]
    body += [line(*start, *end, "link") for start, end in lines]
    spots = place_labels(
        places, labels, Box(frame.left + 2, frame.top - 8, frame.right, frame.bottom - 3), _FONT, lines
    )
    for (label, colour, x, y), (px, py), name, (left, base, far) in zip(points, places, labels, spots, strict=True):
        if far:
            end = min(max(px, left), left + text_width(name, _FONT))
            body.append(line(px, py, end, base + 2 if base < py else base - _FONT, "leader"))
        tip = f"{label}: {axes[0]} {short(x)}, {axes[1]} {short(y)}"
        body.append(
            f'<circle cx="{fixed(px)}" cy="{fixed(py)}" r="4.5" class="f{colour}"><title>{escape(tip)}</title></circle>'
        )
        body.append(text(left, base, name, "label"))
    description = "; ".join(f"{label}: {short(x)}, {short(y)}" for label, _, x, y in points)
    return chart(identity, title, f"{axes[0]}, {axes[1]}: {description}", height, body)


def curves(
    identity: str, title: str, what: str, series: Sequence[tuple[str, int, Sequence[Sequence[Any]]]]
) -> str | None:
    """Values over optimizer steps (thin) and their moving averages, with the names at the ends of these.

    Args:
        identity: of the drawing.
        title: of the drawing.
        what: the quantity.
        series: label, colour and points [step, value] of each.
    """
    drawn = [
        (label, colour, [(x, y) for x, y in points if finite(x) and finite(y)]) for label, colour, points in series
    ]
    drawn = [entry for entry in drawn if entry[2]]
    if not drawn:
        return None
    names = [cut(label, 18) for label, *_ in drawn]
    room = max(text_width(name, _FONT) for name in names) + 12
    height, frame = 250, Box(44, 26, WIDTH - room, 214)
    xs, ys = ([p[i] for _, _, points in drawn for p in points] for i in (0, 1))
    across = Scale(min(0, *xs), max(xs) or 1, frame.left, frame.right)
    up = Scale(*_value_range(ys), frame.bottom, frame.top)
    body = [
        *_grid(across, up, frame),
        text(4, 12, what, "axis"),
        text(frame.right, 246, "optimizer step", "axis", "end"),
    ]
    ends = []
    for _, colour, points in drawn:
        values = [y for _, y in points]
        means = smooth(values, len(values) / 15)
        if len(points) > 2:
            body.append(_path(thin(points, _POINTS), across, up, f"raw s{colour}"))
        path = thin([(x, y) for (x, _), y in zip(points, means, strict=True)], _POINTS)
        body.append(_path(path, across, up, f"curve s{colour}"))
        if len(points) < 3:
            body += [
                f'<circle cx="{fixed(across(x))}" cy="{fixed(up(y))}" r="2.5" class="f{colour}"/>' for x, y in path
            ]
        ends.append((across(path[-1][0]), up(path[-1][1])))
    heights = spread([y for _, y in ends], _FONT + 3, frame.top, frame.bottom)
    for (label, colour, _), name, (x, y), target in zip(drawn, names, ends, heights, strict=True):
        if abs(target - y) > 4 or x < frame.right - 8:
            body.append(line(x + 3, y, frame.right + 6, target, "leader"))
        body.append(
            f'<text x="{fixed(frame.right + 8)}" y="{fixed(target + 4)}" class="t{colour}">{escape(name)}'
            f"<title>{escape(label)}</title></text>"
        )
    told = "; ".join(
        f"{label}: {short(p[0][1])} at first, {short(p[-1][1])} at step {short(p[-1][0])}" for label, _, p in drawn
    )
    return chart(identity, title, told, height, body)


def by_layer(entries: Iterable[Row]) -> tuple[dict[tuple[str, str], dict[int, Row]], list[Row]]:
    """Sort what has a layer's number in its name by what it is in its layer.

    Returns:
        By the name before and after the number, the entries by number; and all entries that stand alone.
    """
    entries = list(entries)
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for entry in entries:
        if match := _LAYER.fullmatch(entry["name"]):
            found.setdefault((match[1], match[3]), {}).setdefault(int(match[2]), entry)
    found = {key: layers for key, layers in found.items() if len(layers) > 1}
    grouped = {id(entry) for layers in found.values() for entry in layers.values()}
    return found, [entry for entry in entries if id(entry) not in grouped]


def range_scale(entries: Sequence[Row]) -> tuple[float, float, float | None]:
    """The axis that all ranges of one kind share: ends, and where it is linear if it is logarithmic beyond that."""
    ends = [e[key] for e in entries for key in ("low", "high") if finite(e[key])]
    if not ends:
        return 0.0, 1.0, None
    sizes = [max(abs(e["low"]), abs(e["high"])) for e in entries if finite(e["low"]) and finite(e["high"])]
    return min(0.0, *ends), max(0.0, *ends), symmetric_log(sizes)


def ranges_by_layer(
    identity: str, title: str, layers: Mapping[int, Row], axis: tuple[float, float, float | None], colour: int
) -> str:
    """One horizontal bar a layer, from the low to the high end of its quantizer's range."""
    width, pitch, top = 180, 9, 4
    numbers = sorted(layers)
    bottom = top + pitch * len(numbers)
    across = Scale(axis[0], axis[1], 22, width - 8, axis[2])
    body = _range_axis(across, top, bottom)
    every = 1 if len(numbers) < 8 else 2
    for place, number in enumerate(numbers):
        y = top + pitch * (place + 0.5)
        if place % every == 0:
            body.append(text(16, y + 3, str(number), "tick", "end"))
        body.append(_bar(across, layers[number], y, 5, colour))
    told = "; ".join(f"{n}: {short(layers[n]['low'])} to {short(layers[n]['high'])}" for n in numbers)
    return chart(identity, title, f"layer: {told}", bottom + 16, body, width)


def ranges_alone(
    identity: str, title: str, entries: Sequence[Row], axis: tuple[float, float, float | None], colour: int
) -> str:
    """One horizontal bar an entry, below its name."""
    pitch, top = 26, 4
    bottom = top + pitch * len(entries)
    across = Scale(axis[0], axis[1], 8, WIDTH - 8, axis[2])
    body = _range_axis(across, top, bottom)
    for place, entry in enumerate(entries):
        y = top + pitch * place
        body.append(text(8, y + 11, cut(entry["name"], 58), "small"))
        body.append(_bar(across, entry, y + 18, 6, colour))
    told = "; ".join(f"{e['name']}: {short(e['low'])} to {short(e['high'])}" for e in entries)
    return chart(identity, title, told, bottom + 16, body)


def sparsity_by_layer(identity: str, title: str, roles: Mapping[str, Mapping[int, Row]], numbers: Sequence[int]) -> str:
    """A cell a weight, the darker the more of it is zero; a line for each place in a layer, a column for each layer."""
    left = min(170.0, max(text_width(cut(role, 26), _SMALL) for role in roles) + 8)
    side, pitch, top = (WIDTH - left - 4) / len(numbers), 22, 18
    body = []
    for column, number in enumerate(numbers):
        if len(numbers) <= 14 or column % 2 == 0:
            body.append(text(left + side * (column + 0.5), 12, str(number), "tick", "middle"))
    for place, (role, layers) in enumerate(roles.items()):
        y = top + pitch * place
        body.append(text(left - 6, y + 14, cut(role, 26), "small", "end"))
        for column, number in enumerate(numbers):
            if number in layers:
                body.append(_cell(left + side * column, y, side, pitch, layers[number]))
    told = "; ".join(f"{r} {n}: {_percent(e)}" for r, layers in roles.items() for n, e in sorted(layers.items()))
    return chart(identity, title, told, top + pitch * len(roles) + 2, body)


def sparsity_alone(identity: str, title: str, entries: Sequence[Row]) -> str:
    """One bar an entry, from 0 to 100 %, below its name."""
    pitch, top, right = 26, 4, WIDTH - 50
    body = []
    for place, entry in enumerate(entries):
        y = top + pitch * place
        share = min(1.0, max(0.0, entry["sparsity"])) if finite(entry["sparsity"]) else 0.0
        body.append(text(8, y + 11, cut(entry["name"], 58), "small"))
        body.append(f'<rect x="8" y="{fixed(y + 15)}" width="{right - 8}" height="6" class="track"/>')
        body.append(f'<rect x="8" y="{fixed(y + 15)}" width="{fixed((right - 8) * share)}" height="6" class="f1"/>')
        body.append(text(WIDTH - 8, y + 22, _percent(entry), "tick", "end"))
    told = "; ".join(f"{e['name']}: {_percent(e)}" for e in entries)
    return chart(identity, title, told, top + pitch * len(entries) + 4, body)


def _percent(entry: Row) -> str:
    return f"{100 * entry['sparsity']:.0f} %" if finite(entry["sparsity"]) else "unknown"


def _cell(x: float, y: float, width: float, height: float, entry: Row) -> str:
    share = min(1.0, max(0.0, entry["sparsity"])) if finite(entry["sparsity"]) else 0.0
    shape = " × ".join(str(side) for side in entry["shape"])
    tip = f"{entry['name']} ({shape}): {_percent(entry)} zero"
    number = ""
    if width >= 17:
        kind = "number on" if share > 0.5 else "number"
        number = text(x + width / 2, y + height / 2 + 3, f"{100 * share:.0f}", kind, "middle")
    return (
        f'<g><title>{escape(tip)}</title><rect x="{fixed(x + 0.5)}" y="{fixed(y + 0.5)}" width="{fixed(width - 1)}" '
        f'height="{fixed(height - 1)}" class="cell"/><rect x="{fixed(x + 0.5)}" y="{fixed(y + 0.5)}" '
        f'width="{fixed(width - 1)}" height="{fixed(height - 1)}" class="f1" fill-opacity="{share:.2f}"/>{number}</g>'
    )


def _bar(across: Scale, entry: Row, y: float, thickness: float, colour: int) -> str:
    low, high = entry["low"], entry["high"]
    if not (finite(low) and finite(high)):
        return text(across(0) + 4, y + 3, "not finite", "tick")
    left, right = across(low), across(high)
    tip = f"{entry['name']}: {short(low)} to {short(high)}"
    return (
        f'<rect x="{fixed(left)}" y="{fixed(y - thickness / 2)}" width="{fixed(max(right - left, 1))}" '
        f'height="{fixed(thickness)}" class="f{colour}"><title>{escape(tip)}</title></rect>'
    )


def _range_axis(across: Scale, top: float, bottom: float) -> list[str]:
    body = []
    for value in across.ticks(6):
        body.append(line(across(value), top, across(value), bottom, "zero" if value == 0 else "grid"))
        body.append(text(across(value), bottom + 11, short(value), "tick", "middle"))
    return body


def _grid(across: Scale, up: Scale, frame: Box) -> list[str]:
    """Lines and numbers of both axes."""
    body = []
    for value in up.ticks(5):
        body.append(line(frame.left, up(value), frame.right, up(value), "grid"))
        body.append(text(frame.left - 6, up(value) + 3.5, short(value), "tick", "end"))
    for value in across.ticks(5):
        body.append(text(across(value), frame.bottom + 14, short(value), "tick", "middle"))
    body.append(line(frame.left, frame.bottom, frame.right, frame.bottom, "base"))
    return body


def _path(points: Sequence[tuple[float, float]], across: Scale, up: Scale, kind: str) -> str:
    places = " ".join(f"{fixed(across(x))},{fixed(up(y))}" for x, y in points)
    return f'<polyline points="{places}" class="{kind}"/>'


def _value_range(values: Sequence[float]) -> tuple[float, float]:
    """From zero where the values come near it, else with room at both ends."""
    low, high = min(values), max(values)
    if 0 <= low <= 0.4 * high:
        return 0.0, high * 1.05
    return padded(values) if not math.isclose(low, high) else (low - 1, high + 1)
