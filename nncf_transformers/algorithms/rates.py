"""Learning rates over the epochs of a training: pure functions (inventory 5.4)."""

import math
from collections.abc import Callable, Sequence

from nncf_transformers.config.model import RatePiece

# Epochs are fractions of step numbers, which do not come out even.
_SMALL = 1e-9


def rate_at(pieces: Sequence[RatePiece], epoch: float, steps_per_epoch: int | None = None) -> float | None:
    """The learning rate of the step that begins at ``epoch``; None before the first piece begins.

    Where pieces overlap, the one that begins later holds; behind its end, a piece keeps its last value.

    Args:
        pieces: in any order.
        epoch: optimizer steps done, divided by those of an epoch.
        steps_per_epoch: for ``cyclic_linear``, whose last step of a cycle is to have the final rate.
    """
    begun = [piece for piece in pieces if piece.start_epoch <= epoch + _SMALL]
    if not begun:
        return None
    # Of two that begin together, the one that is written later.
    piece = sorted(begun, key=lambda item: item.start_epoch)[-1]
    if piece.form == "cyclic_linear":
        return _cyclic_linear(piece, epoch, steps_per_epoch or 1)
    return _FORMS[piece.form](piece, epoch)


def _between(piece: RatePiece, share: float) -> float:
    final = piece.init_lr if piece.final_lr is None else piece.final_lr
    # Exactly the final rate at the end.
    return final if share >= 1.0 else piece.init_lr + share * (final - piece.init_lr)


def _progress(piece: RatePiece, epoch: float) -> float:
    """The part of a piece that is over, from 0 to 1."""
    if piece.end_epoch is None:
        return 0.0
    return min(1.0, max(0.0, (epoch - piece.start_epoch) / (piece.end_epoch - piece.start_epoch)))


def _linear(piece: RatePiece, epoch: float) -> float:
    return _between(piece, _progress(piece, epoch))


def _cosine(piece: RatePiece, epoch: float) -> float:
    progress = _progress(piece, epoch)
    return _between(piece, progress if progress >= 1.0 else (1 - math.cos(math.pi * progress)) / 2)


def _cyclic_linear(piece: RatePiece, epoch: float, steps_per_epoch: int) -> float:
    """From the first rate to the last one, again and again; a last cycle that is cut short gets there, too."""
    assert piece.end_epoch is not None
    total = round((piece.end_epoch - piece.start_epoch) * steps_per_epoch)
    step = round((epoch - piece.start_epoch) * steps_per_epoch)
    if step >= total:
        return _between(piece, 1.0)
    length = max(1, round(piece.cycle_epochs * steps_per_epoch))
    begun = step // length * length
    last = min(length, total - begun) - 1
    return _between(piece, (step - begun) / last if last else 0.0)


def _done(piece: RatePiece, epoch: float) -> float:
    """Epochs since a piece began. At its end nothing changes any more."""
    over = piece.end_epoch is not None and epoch >= piece.end_epoch - _SMALL
    return (piece.end_epoch or 0.0) - piece.start_epoch - 1e-6 if over else epoch - piece.start_epoch + _SMALL


def _setting(piece: RatePiece, name: str, default: float) -> float:
    return float(piece.settings.get(name, default))


def _step(piece: RatePiece, epoch: float) -> float:
    count = math.floor(_done(piece, epoch) / _setting(piece, "step_size", 1))
    return float(piece.init_lr * _setting(piece, "gamma", 0.1) ** count)


def _multistep(piece: RatePiece, epoch: float) -> float:
    """Milestones are epochs of the training, not of the piece (SparseML's ``corrected_lr_info``)."""
    reached = piece.start_epoch + _done(piece, epoch)
    passed = sum(reached >= milestone for milestone in piece.settings["milestones"])
    return float(piece.init_lr * _setting(piece, "gamma", 0.1) ** passed)


def _cosine_restarts(piece: RatePiece, epoch: float) -> float:
    """Moves with every step, not only once an epoch, as SparseML lets torch's scheduler do."""
    done, length = max(0.0, _done(piece, epoch)), _setting(piece, "T_0", 1)
    factor, lowest = _setting(piece, "T_mult", 1), _setting(piece, "eta_min", 0.0)
    while done >= length:
        done, length = done - length, length * factor
    return lowest + (piece.init_lr - lowest) * (1 + math.cos(math.pi * done / length)) / 2


_FORMS: dict[str, Callable[[RatePiece, float], float]] = {
    "constant": lambda piece, epoch: piece.init_lr,
    "linear": _linear,
    "cosine": _cosine,
    "step": _step,
    "multistep": _multistep,
    # Once an epoch.
    "exponential": _step,
    "cosine_restarts": _cosine_restarts,
}
