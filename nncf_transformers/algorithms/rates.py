"""Learning rates over the epochs of a training: pure functions (inventory 5.4)."""

import math
from collections.abc import Callable, Sequence

from nncf_transformers.config.errors import ConfigError, nearest
from nncf_transformers.config.model import RATE_FORMS, RatePiece

# What the forms of torch take, and which of it they cannot do without. SparseML has other names for some.
_SETTINGS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "step": (frozenset({"step_size", "gamma"}), frozenset({"step_size"})),
    "multistep": (frozenset({"milestones", "gamma"}), frozenset({"milestones"})),
    # The step size of an exponential is one epoch; SparseML writes it down.
    "exponential": (frozenset({"gamma", "step_size"}), frozenset({"gamma"})),
    "cosine_restarts": (frozenset({"T_0", "T_mult", "eta_min"}), frozenset({"T_0"})),
}
_OTHER_NAMES = {"lr_min": "eta_min", "cycle_epochs": "T_0"}
# Epochs are fractions of step numbers, which do not come out even.
_SMALL = 1e-9


def check_pieces(pieces: Sequence[RatePiece], place: str) -> None:
    """Refuse what :func:`rate_at` could not compute.

    Raises:
        ConfigError: naming the setting.
    """
    for piece in pieces:
        if piece.form not in RATE_FORMS:
            raise ConfigError(f'{place}: the learning rate has no form "{piece.form}"{nearest(piece.form, RATE_FORMS)}')
        if piece.end_epoch is not None and piece.end_epoch <= piece.start_epoch:
            raise ConfigError(
                f"{place}.end_epoch: is {piece.end_epoch:g}, must be greater than start_epoch, {piece.start_epoch:g}"
            )
        if piece.form in ("linear", "cosine", "cyclic_linear") and (piece.final_lr is None or piece.end_epoch is None):
            raise ConfigError(f'{place}: the form "{piece.form}" needs final_lr and end_epoch')
        if piece.cycle_epochs <= 0:
            raise ConfigError(f"{place}.cycle_epochs: is {piece.cycle_epochs:g}, must be greater than 0")
        known, needed = _SETTINGS.get(piece.form, (frozenset(), frozenset()))
        given = {_OTHER_NAMES.get(name, name) for name in piece.settings}
        for name in sorted(given - known):
            raise ConfigError(f'{place}.lr_kwargs: unknown "{name}"{nearest(name, known)} for "{piece.form}"')
        for name in sorted(needed - given):
            raise ConfigError(f'{place}.lr_kwargs: "{piece.form}" needs "{name}"')
        lengths = [_setting(piece, name, 1) for name in ("step_size", "T_0", "T_mult")]
        if min(lengths) <= 0:
            raise ConfigError(f"{place}.lr_kwargs: step_size, T_0 and T_mult must be greater than 0")


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
    given = {_OTHER_NAMES.get(key, key): value for key, value in piece.settings.items()}
    return float(given.get(name, default))


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
