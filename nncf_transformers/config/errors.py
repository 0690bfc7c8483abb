"""The one exception that a wrong configuration raises."""

import difflib
from collections.abc import Iterable

from nncf_transformers.errors import UsageError


class ConfigError(UsageError):
    """A configuration file, or a scope in it, is wrong.

    The message names the file, the path of the key inside it and the value, and says what to write instead.
    """


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return ``' (did you mean "x"?)'`` for the candidate closest to ``name``, or nothing."""
    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f' (did you mean "{found[0]}"?)' if found else ""
