"""How sparse a model is to be at which point of its training: pure functions.

``progress`` is always the part of the interval that is over, from 0 to 1; what lies outside is clamped. At 0 and at 1
the results are exactly the values that were given for the start and the end.
"""

from collections.abc import Sequence


def level(
    progress: float, start: float, end: float, form: str = "cubic", power: float = 3.0, concave: bool = True
) -> float:
    """Sparsity at some point between the start and the end of a schedule.

    Args:
        progress: from 0 to 1.
        start: sparsity at 0.
        end: sparsity at 1.
        form: ``polynomial`` and ``exponential`` are those of NNCF 2 (inventory 2.4), ``linear``, ``cubic`` and
            ``inverse_cubic`` those of SparseML (inventory 5.5).
        power: exponent of ``polynomial``.
        concave: whether ``polynomial`` is fast at first, or slow at first.

    Raises:
        ValueError: an unknown form; ``multistep`` has a function of its own.
    """
    if progress <= 0.0:
        return start
    if progress >= 1.0:
        return end
    if form == "exponential":
        # It is the density that falls exponentially: d0 * (dT / d0)^p, written so that d0 may be zero.
        return 1.0 - (1.0 - start) ** (1.0 - progress) * (1.0 - end) ** progress
    return start + (end - start) * _fraction(progress, form, power, concave)


def latest_update(step: int, start: int, frequency: float | None, steps_per_epoch: int) -> int:
    """The last step up to ``step`` at which something that is updated now and then is due.

    It depends on nothing but the step, so a training that is resumed updates when one without a break would have.

    Args:
        step: not before ``start``.
        start: the step of the first update.
        frequency: epochs between two updates; None for every step.
        steps_per_epoch: optimizer steps.
    """
    every = 1 if frequency is None else max(1, int(frequency * steps_per_epoch + 1e-6))
    return step - (step - start) % every


def _fraction(progress: float, form: str, power: float, concave: bool) -> float:
    """The part of the way from start to end that is done."""
    if form == "polynomial":
        return polynomial_progress(progress, power) if concave else progress**power
    if form == "linear":
        return progress
    if form == "cubic":
        return polynomial_progress(progress, 3.0)
    if form == "inverse_cubic":
        return polynomial_progress(progress, 1.0 / 3.0)
    raise ValueError(f"unknown schedule {form!r}")


def polynomial_progress(progress: float, power: float) -> float:
    """1 - (1 - p)^power, from 0 to 1: fast at first where ``power`` is more than one (inventory 2.1.4)."""
    return 1.0 - (1.0 - min(max(progress, 0.0), 1.0)) ** power


def multistep(position: float, points: Sequence[float], levels: Sequence[float]) -> float:
    """A level that changes at some points and is constant between them.

    Args:
        position: where the training is, in the unit of ``points`` (epochs, or steps).
        points: where the level changes, in ascending order; the new level holds at the point itself.
        levels: one more than there are points.
    """
    return levels[sum(position >= point for point in points)]
