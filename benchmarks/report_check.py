"""Is a file what the tables' runner writes? Says where it is not, in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nncf_transformers.errors import IntegrityError, UsageError

FORMAT = 1
DONE, NOT_RUN, FAILED = "done", "not run here", "failed"
STATUSES = (DONE, NOT_RUN, FAILED)
SCALES = ("smoke", "cpu", "full")

# Raises ValueError, whose text is what was expected.
_Check = Callable[[Any], Any]


def read_results(path: Path) -> dict[str, Any]:
    """Read and check a file of results.

    Raises:
        UsageError: there is none, or it is of another kind.
        IntegrityError: it is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); make it with `make tables`") from error
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path}: is no text ({error.reason}); make it anew with `make tables`") from error
    try:
        results = json.loads(text)
    except ValueError as error:
        raise IntegrityError(f"{path}: is not JSON ({error}); make it anew with `make tables`") from error
    check_results(results, str(path))
    return results


def check_results(results: Any, source: str = "the results") -> None:
    """Check the form of results.

    Args:
        results: as ``benchmarks`` writes them for its tables.
        source: for the message.

    Raises:
        UsageError: which value is wrong, and what belongs there.
    """
    if not isinstance(results, dict) or results.get("benchmark") != "tables" or "tasks" not in results:
        raise UsageError(
            f"{source}: holds no results of the tables; give a results.json that `make tables` has written"
        )
    if results.get("format") != FORMAT:
        raise UsageError(
            f"{source}: format {results.get('format')!r}, this report reads {FORMAT}; make it anew with `make tables`"
        )
    _fields(results, _TOP, source, "")
    for name, task in results["tasks"].items():
        _fields(task, _TASK, source, f"tasks.{name}")
        for number, row in enumerate(task["rows"]):
            _fields(row, _ROW, source, f"tasks.{name}.rows[{number}]")


def _fields(value: Any, wanted: dict[str, tuple[bool, _Check]], source: str, place: str) -> None:
    if not isinstance(value, dict):
        raise UsageError(f"{source}: {place}: must be an object; make the file anew with `make tables`")
    for key, (needed, check) in wanted.items():
        item = value.get(key)
        if item is None and not needed:
            continue
        try:
            check(item)
        except ValueError as error:
            where = f"{place}.{key}" if place else key
            short = json.dumps(item, default=repr)[:60]
            raise UsageError(
                f"{source}: {where} is {short}, but must be {error}; make the file anew with `make tables`"
            ) from None


def _text(value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError("a text")


def _number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number")


def _maybe_number(value: Any) -> None:
    if value is not None:
        _number(value)


def _one_of(*allowed: str) -> _Check:
    def check(value: Any) -> None:
        if value not in allowed:
            raise ValueError(" or ".join(allowed))

    return check


def _list_of(check: _Check) -> _Check:
    def check_all(value: Any) -> None:
        if not isinstance(value, list):
            raise ValueError("a list")
        for item in value:
            check(item)

    return check_all


def _dict_of(check: _Check) -> _Check:
    def check_all(value: Any) -> None:
        if not isinstance(value, dict):
            raise ValueError("an object")
        for item in value.values():
            check(item)

    return check_all


def _record(**fields: _Check) -> _Check:
    def check(value: Any) -> None:
        if not isinstance(value, dict) or not fields.keys() <= value.keys():
            raise ValueError(f"made of objects with {', '.join(fields)}")
        for name, field in fields.items():
            try:
                field(value[name])
            except ValueError as error:
                raise ValueError(f"made of objects whose {name} is {error}") from None

    return check


def _point(value: Any) -> None:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("a list of [step, value]")
    _number(value[0])
    _maybe_number(value[1])


_QUANTIZER = _record(name=_text, kind=_one_of("weight", "activation"), low=_number, high=_number)
_LAYER = _record(name=_text, shape=_list_of(_number), sparsity=_number)
# By key: whether it must be there, and what it must be.
_TOP: dict[str, tuple[bool, _Check]] = {
    "title": (True, _text),
    "scale": (True, _one_of(*SCALES)),
    "tasks": (True, _dict_of(_record())),
}
_TASK: dict[str, tuple[bool, _Check]] = {
    "title": (True, _text),
    **dict.fromkeys(("source", "published_title"), (False, _text)),
    "metrics": (True, _list_of(_text)),
    "data": (False, _list_of(_record(file=_text, sha256=_text))),
    "rows": (True, _list_of(_record())),
}
_ROW: dict[str, tuple[bool, _Check]] = {
    "key": (True, _text),
    "label": (True, _text),
    "status": (True, _one_of(*STATUSES)),
    "published": (False, _dict_of(_maybe_number)),
    "measured": (False, _dict_of(_dict_of(_maybe_number))),
    **dict.fromkeys(
        ("published_label", "published_note", "command", "wants", "reason", "model", "run_command", "source"),
        (False, _text),
    ),
    **{name: (False, _dict_of(_maybe_number)) for name in ("latency_ms", "throughput", "size_mb")},
    **dict.fromkeys(("parameters", "zeros", "seconds"), (False, _number)),
    "curve": (False, _list_of(_point)),
    "latency_spread_ms": (False, _dict_of(_list_of(_number))),
    "load": (False, _record(average=_number, cores=_number)),
    "quantizers": (False, _list_of(_QUANTIZER)),
    "sparsity": (False, _list_of(_LAYER)),
}
