"""What the report's charts are drawn with: numbers, scales, ticks, labels that do not overlap."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

# Average width of a character, as a part of the font's size; generous, for a system font is whatever it is.
_CHARACTER = 0.57


def escape(value: Any) -> str:
    """Text for HTML and SVG, in and outside attributes."""
    return html.escape(str(value), quote=True)


def fixed(value: float) -> str:
    """A coordinate: one decimal, none where it is zero."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def short(value: float) -> str:
    """A number for an axis."""
    size = abs(value)
    if math.isfinite(value) and size and (size >= 1e5 or size < 1e-3):
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def finite(value: Any) -> bool:
    """Whether a value is a number that can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def cut(text: str, characters: int) -> str:
    """The text, or its beginning."""
    return text if len(text) <= characters else f"{text[: characters - 1].rstrip()}…"


def text_width(text: str, size: float) -> float:
    """About how wide a text is, in the units of its font's size."""
    return len(text) * size * _CHARACTER


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``count`` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    values = []
    while first * step <= high + step * 1e-9:
        values.append(round(first * step, 12) + 0.0)
        first += 1
    return values


@dataclass(frozen=True)
class Scale:
    """Where values of an axis come to lie.

    Attributes:
        low: the least value.
        high: the greatest.
        start: where ``low`` lies.
        end: where ``high`` lies.
        linear: for a symmetric logarithm, the value up to which the axis is about linear; None for a linear one.
    """

    low: float
    high: float
    start: float
    end: float
    linear: float | None = None

    def __call__(self, value: float) -> float:
        low, high, here = self._map(self.low), self._map(self.high), self._map(value)
        if high == low:
            return (self.start + self.end) / 2
        return self.start + (here - low) / (high - low) * (self.end - self.start)

    def _map(self, value: float) -> float:
        if self.linear is None:
            return value
        return math.copysign(math.log10(1 + abs(value) / self.linear), value)

    def ticks(self, count: int = 5) -> list[float]:
        """Values to mark."""
        if self.linear is None:
            return _apart(self, ticks(self.low, self.high, count))
        powers = [0.0]
        exponent = math.floor(math.log10(self.linear)) + 1
        while 10.0**exponent <= max(abs(self.low), abs(self.high)):
            powers += [10.0**exponent, -(10.0**exponent)]
            exponent += 1
        return _apart(self, sorted(v for v in powers if self.low <= v <= self.high))


def _apart(scale: Scale, values: list[float]) -> list[float]:
    """Leave out values until their marks have room, from zero to both sides."""
    kept: list[float] = []
    for value in sorted(values, key=abs):
        width = text_width(short(value), 9) + 6
        if all(abs(scale(value) - scale(other)) >= width for other in kept):
            kept.append(value)
    return sorted(kept)


def padded(values: Sequence[float], part: float = 0.12) -> tuple[float, float]:
    """The range of some values, with room at both ends."""
    low, high = min(values), max(values)
    room = (high - low) * part or abs(high) * 0.02 or 1.0
    return low - room, high + room


def symmetric_log(values: Sequence[float]) -> float | None:
    """Up to where an axis should be linear, if it should be logarithmic beyond.

    It should where the magnitudes of ``values`` span two decades, or few of them dwarf most of the others.
    """
    sizes = sorted(abs(v) for v in values if v)
    if not sizes or (sizes[-1] / sizes[0] < 100 and sizes[-1] / sizes[len(sizes) // 2] < 10):
        return None
    # Magnitudes below a thousandth of the greatest are as good as zero to the eye.
    return max(10.0 ** math.floor(math.log10(sizes[0])), sizes[-1] * 1e-4)


@dataclass(frozen=True)
class Box:
    """A rectangle that is taken."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """The common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    frame: Box,
    size: float,
    lines: Sequence[tuple[tuple[float, float], tuple[float, float]]] = (),
) -> list[tuple[float, float, bool]]:
    """Find a place for the label of each point, where it covers no point, no other label and as little line as may be.

    Args:
        points: x and y.
        texts: a label each.
        frame: labels stay in it.
        size: of the font.
        lines: from point to point.

    Returns:
        For each label the left end of its baseline, and whether it is so far off that a line should lead to it.
    """
    taken = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    taken_by_lines = [box for line in lines for box in _boxes(*line)]
    placed = []
    for (x, y), text in zip(points, texts, strict=True):
        width = text_width(text, size)
        best: tuple[float, float, float, Box] | None = None
        for rank, (dx, dy) in enumerate(_offsets(width, size)):
            left = min(max(x + dx, frame.left), frame.right - width)
            top = min(max(y + dy, frame.top), frame.bottom - size)
            box = Box(left - 1, top - 1, left + width + 1, top + size + 1)
            cost = 1000 * sum(box.overlap(other) for other in taken) + rank
            cost += 0.1 * sum(box.overlap(other) for other in taken_by_lines)
            if best is None or cost < best[0]:
                best = (cost, left, top, box)
        assert best is not None
        _, left, top, box = best
        taken.append(box)
        nearest = (min(max(x, box.left), box.right), min(max(y, box.top), box.bottom))
        placed.append((left, top + size * 0.82, math.dist(nearest, (x, y)) > 14))
    return placed


def _offsets(width: float, size: float) -> list[tuple[float, float]]:
    """Where a label may lie as seen from its point, the best first."""
    near = [(8, -size / 2), (-8 - width, -size / 2), (-width / 2, -size - 7), (-width / 2, 7)]
    corners = [(6, -size - 4), (6, 4), (-6 - width, -size - 4), (-6 - width, 4)]
    far = [
        (dx, sign * step * (size + 3) - size / 2)
        for step in range(1, 7)
        for sign in (-1, 1)
        for dx in (10, -width - 10)
    ]
    return near + corners + far


def _boxes(start: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """Small squares along a line."""
    count = max(2, int(math.dist(start, end) / 5))
    spots = [
        (start[0] + (end[0] - start[0]) * i / count, start[1] + (end[1] - start[1]) * i / count) for i in range(count)
    ]
    return [Box(x - 2, y - 2, x + 2, y + 2) for x, y in spots]


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart until neighbours are ``gap`` apart, between ``low`` and ``high`` as far as they fit."""
    order = sorted(range(len(positions)), key=lambda i: (positions[i], i))
    gap = min(gap, (high - low) / max(1, len(order) - 1))
    result = [0.0] * len(positions)
    below = low - gap
    for index in order:
        below = result[index] = max(positions[index], below + gap)
    # Those that were pushed over the edge come back, and push the others.
    above = high + gap
    for index in reversed(order):
        above = result[index] = min(result[index], above - gap)
    return result


def smooth(values: Sequence[float], span: float) -> list[float]:
    """Exponential moving average over about ``span`` values, without a bias towards zero at its beginning."""
    keep = 1 - 1 / max(1.0, span)
    total = weight = 0.0
    result = []
    for value in values:
        total = keep * total + value
        weight = keep * weight + 1
        result.append(total / weight)
    return result


def thin(points: Sequence[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """At most ``count`` points: means of neighbours."""
    if len(points) <= count:
        return list(points)
    edges = [round(i * len(points) / count) for i in range(count + 1)]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part))
        for part in (points[a:b] for a, b in pairwise(edges))
    ]
