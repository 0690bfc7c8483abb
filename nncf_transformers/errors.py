"""Errors that a user can cause, with the exit code a script ends on (see :mod:`nncf_transformers.excepthook`)."""


class CompressionError(Exception):
    """A mistake in what the user gave us: one line that says what, where, and what to do next."""

    exit_code = 1


class UsageError(CompressionError):
    """A flag, a configuration or an input file is wrong (exit code 2)."""

    exit_code = 2


class UnreachableError(CompressionError):
    """Something that lives on a hub is needed and cannot be reached (exit code 5)."""

    exit_code = 5


class IntegrityError(CompressionError):
    """A file exists, but its content is damaged or does not fit (exit code 6)."""

    exit_code = 6
