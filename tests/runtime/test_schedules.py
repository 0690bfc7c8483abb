"""Schedules against the formulas that they come from, written out in NumPy."""

from collections.abc import Callable

import numpy as np
import pytest

from nncf_transformers.algorithms.schedules import level, multistep, polynomial_progress

PROGRESS = np.linspace(0, 1, 41)
Formula = Callable[[np.ndarray, float, float], np.ndarray]

# Inventory 2.4 (NNCF 2) and 5.5 (SparseML), with v0 the sparsity at the start and vT that at the end.
FORMULAS: dict[str, tuple[dict[str, object], Formula]] = {
    "concave": ({"form": "polynomial", "power": 0.9}, lambda p, v0, vT: vT - (vT - v0) * (1 - p) ** 0.9),
    "convex": (
        {"form": "polynomial", "power": 3.0, "concave": False},
        lambda p, v0, vT: v0 + (vT - v0) * np.power(p, 3),
    ),
    "exponential": (
        {"form": "exponential"},
        lambda p, v0, vT: 1 - (1 - v0) * np.exp(p * np.log((1 - vT) / (1 - v0))),
    ),
    "linear": ({"form": "linear"}, lambda p, v0, vT: np.interp(p, [0, 1], [v0, vT])),
    "cubic": ({"form": "cubic"}, lambda p, v0, vT: v0 + (vT - v0) * (3 * p - 3 * p**2 + p**3)),
    "inverse_cubic": ({"form": "inverse_cubic"}, lambda p, v0, vT: v0 + (vT - v0) * (1 - np.cbrt(1 - p))),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.05, 0.9), (0.3, 0.7), (0.4, 0.1)])
def test_the_formula(name: str, start: float, end: float) -> None:
    settings, formula = FORMULAS[name]
    found = [level(p, start, end, **settings) for p in PROGRESS]  # type: ignore[arg-type]
    np.testing.assert_allclose(found, formula(PROGRESS, start, end), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_ends_are_exact_and_hold_beyond(name: str) -> None:
    settings, _ = FORMULAS[name]
    for progress, expected in [(-0.5, 0.1), (0.0, 0.1), (1.0, 0.3), (7.0, 0.3)]:
        assert level(progress, 0.1, 0.3, **settings) == expected  # type: ignore[arg-type]


def test_cubic_in_the_middle() -> None:
    assert level(0.5, 0.2, 0.8) == pytest.approx(0.875 * (0.8 - 0.2) + 0.2, abs=1e-15)


@pytest.mark.parametrize(("start", "end", "expected"), [(1.0, 0.5, 1.0), (0.5, 1.0, 1.0)])
def test_exponential_with_no_density_at_one_end(start: float, end: float, expected: float) -> None:
    assert level(0.5, start, end, "exponential") == expected


def test_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'multistep'"):
        level(0.5, 0.0, 1.0, "multistep")


def test_polynomial_progress() -> None:
    np.testing.assert_allclose([polynomial_progress(p, 3.0) for p in PROGRESS], 1 - (1 - PROGRESS) ** 3)
    assert polynomial_progress(0.5, 3.0) == 0.875
    assert [polynomial_progress(p, 3.0) for p in (-1.0, 0.0, 1.0, 2.0)] == [0.0, 0.0, 1.0, 1.0]


def test_multistep() -> None:
    points, levels = [1.0, 2.5], [0.1, 0.5, 0.8]
    positions = np.arange(0, 4, 0.25)
    expected = np.piecewise(positions, [positions < 1, (positions >= 1) & (positions < 2.5), positions >= 2.5], levels)
    assert [multistep(position, points, levels) for position in positions] == expected.tolist()
    assert multistep(3, [], [0.2]) == 0.2
