"""Errors a user can cause, each with the exit code its command ends with."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `apply_patch.py`; patches/README.md documents them."""

    DONE = 0
    FAILURE = 1
    USAGE = 2
    CONFLICT = 3
    NOTHING_TO_DO = 4
    UNREACHABLE = 5
    INTEGRITY = 6


class OverlayError(Exception):
    """A failure that one line explains: what is wrong, where, and what to do next."""

    exit_code = ExitCode.FAILURE


class UsageError(OverlayError):
    """A command line or `pins.toml` that cannot be meant as it is."""

    exit_code = ExitCode.USAGE


class ConflictError(OverlayError):
    """Edits in the way, or a patch whose context has moved on."""

    exit_code = ExitCode.CONFLICT


class NothingToDo(OverlayError):
    """The command found nothing to work on."""

    exit_code = ExitCode.NOTHING_TO_DO


class UpstreamUnreachable(OverlayError):
    """No connection to upstream, or nothing readable where it should be."""

    exit_code = ExitCode.UNREACHABLE


class IntegrityError(OverlayError):
    """Something is not what the pin or the lock says it is."""

    exit_code = ExitCode.INTEGRITY
