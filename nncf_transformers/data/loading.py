"""What the scripts see as ``load_dataset``."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from nncf_transformers.data.arrow import as_streams, no_rows, pick
from nncf_transformers.data.files import broken_json, read_text
from nncf_transformers.data.hub import from_hub
from nncf_transformers.data.local import LocalData
from nncf_transformers.data.squad import is_nested_squad
from nncf_transformers.data.squad_dataset import Unanswered, squad_dataset, unanswered_in
from nncf_transformers.errors import CompressionError, UsageError

logger = logging.getLogger(__name__)

# A script calls load_dataset without our flags at hand; its arguments object sets this before.
_local_data: LocalData | None = None

# The format names that the scripts take from a file's extension and pass as ``path``.
_FILE_FORMATS = ("json", "csv", "text", "parquet", "arrow")

# Collections whose configurations are data sets of their own right: what was asked for is the configuration.
_COLLECTIONS = ("glue", "super_glue")

# The path and configuration that load_dataset was last called with.
_asked_for: tuple[str, str | None] | None = None

# What load_dataset last returned has so many questions to evaluate, and so many of them without an answer.
_unanswered: Unanswered | None = None


def set_local_data(
    directory: str | Path | None, *, need_test: bool, need_train: bool = True, need_validation: bool = True
) -> None:
    """Let :func:`load_dataset` read the benchmark data sets from a folder instead of the hub.

    Args:
        directory: The folder (``--data_dir``); None goes back to the hub.
        need_test: Whether the run predicts, so that a missing test file is an error and not an empty split.
        need_train: The same for training.
        need_validation: The same for evaluation.

    Raises:
        UsageError: There is no such folder.
    """
    global _local_data
    if directory is None:
        _local_data = None
        return
    needs = {"train": need_train, "validation": need_validation, "test": need_test}
    _local_data = LocalData(Path(directory).expanduser(), frozenset(name for name, need in needs.items() if need))


def dataset_name() -> str | None:
    """The name of the data set that :func:`load_dataset` was last asked for.

    It is the last component of the data set's path: ``squad`` for ``rajpurkar/squad``, ``xnli`` for
    ``facebook/xnli`` in any language. GLUE is a collection; there it is the task, such as ``sst2``.

    Returns:
        The name as it was given, None for files (``"json"``, ``"text"``, …) and before any call.
    """
    if _asked_for is None or _asked_for[0] in _FILE_FORMATS:
        return None
    path, configuration = _asked_for
    name = path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return configuration if name in _COLLECTIONS and configuration else name or None


def unanswered_questions() -> Unanswered | None:
    """The questions without an answer in the evaluation data of the last :func:`load_dataset`; None if there are none.

    Such data is scored by SQuAD 2.0's metric, whatever metric the script asks for.
    """
    return _unanswered


def load_dataset(
    path: str,
    name: str | None = None,
    *,
    data_files: Any = None,
    field: str | None = None,
    split: Any = None,
    cache_dir: str | None = None,
    **options: Any,
) -> Any:
    """``datasets.load_dataset``, which can also do without the hub.

    - ``"json"`` files in SQuAD's nested format become flat data sets with the public data set's columns; the
      splits whose files are in another format are loaded as always.
    - With a folder from :func:`set_local_data`, glue, xnli, squad and wikitext are read from it.
    - All else goes to the original unchanged.

    Args:
        path: A data set on the hub, or a file format.
        name: Its configuration: the GLUE task, the XNLI language.
        data_files: A file, a list of files, or a mapping from split to these.
        field: The key in a JSON file under which the examples are.
        split: The split or slice to return; None returns all.
        cache_dir: Root of the data cache.
        **options: All else that the original takes. ``streaming`` is heeded for local data, too; nothing else
            has a meaning there.

    Returns:
        What the original returns: a ``Dataset`` for one split, a ``DatasetDict`` for all.

    Raises:
        UsageError: A file or folder is missing, empty or not what the data set needs.
        IntegrityError: A file is damaged.
        UnreachableError: The data set is on a hub that cannot be reached.
    """
    global _asked_for, _unanswered
    _asked_for = (path, name)
    if field is not None:
        options["field"] = field
    loaded = _load(path, name, data_files, split, cache_dir, options)
    _unanswered = unanswered_in(loaded)
    return loaded


def _load(
    path: str, name: str | None, data_files: Any, split: Any, cache_dir: str | None, options: dict[str, Any]
) -> Any:
    """Find out who can load it: we, or the original, with or without the hub."""
    if data_files is not None and path in _FILE_FORMATS:
        if _local_data is not None:
            logger.warning("--data_dir %s has no effect: the script was given files", _local_data.directory)
        return _load_files(path, name, _by_split(data_files), data_files, split, cache_dir, options)

    on_disk = Path(path).exists()
    if _local_data is not None and (_local_data.serves(path) or not on_disk):
        local = _local_data.load(path, name, split, cache_dir)
        return as_streams(local) if options.get("streaming") else local

    def call() -> Any:
        return datasets.load_dataset(path, name, data_files=data_files, split=split, cache_dir=cache_dir, **options)

    if on_disk:
        return call()
    what = f"the data set {path!r}" + (f" ({name})" if name else "")
    remedy = "pass its files with --data_dir DIR (make: DATA=DIR), or run `make demo`, which needs no hub"
    return from_hub(call, datasets.config, "HF_HUB_OFFLINE", what, remedy)


def _by_split(data_files: Any) -> dict[str, list[str]]:
    """The files of each split; what has no split is training data, as in the original."""
    if not isinstance(data_files, Mapping):
        data_files = {"train": data_files}
    return {
        str(split): [str(file) for file in (files if isinstance(files, list | tuple) else [files])]
        for split, files in data_files.items()
        if files is not None
    }


def _load_files(
    file_format: str,
    name: str | None,
    files: dict[str, list[str]],
    data_files: Any,
    split: Any,
    cache_dir: str | None,
    options: dict[str, Any],
) -> Any:
    """Load files; only the splits in SQuAD's nested format do not go through the original."""
    for one, paths in files.items():
        _check_files(one, paths)
    nested = set()
    if file_format == "json" and options.get("field") in (None, "data"):
        nested = {one for one, paths in files.items() if any(is_nested_squad(Path(path)) for path in paths)}

    if not nested:
        loaded = _original(file_format, files, name, data_files=data_files, split=split, cache_dir=cache_dir, **options)
        _check_not_empty(loaded, files, split)
        return loaded

    splits = {}
    for one, paths in files.items():
        if one in nested:
            splits[one] = squad_dataset([Path(path) for path in paths], one, cache_dir=cache_dir)
        else:
            others = {**options, "streaming": False, "data_files": {one: paths}, "split": one}
            splits[one] = _original(file_format, {one: paths}, name, cache_dir=cache_dir, **others)
            _check_not_empty(splits[one], files, one)
    picked = pick(splits, split)
    return as_streams(picked) if options.get("streaming") else picked


def _original(file_format: str, files: dict[str, list[str]], name: str | None, **arguments: Any) -> Any:
    """``datasets.load_dataset`` on files, with the reason on top where one of them is at fault."""
    try:
        return datasets.load_dataset(file_format, name, **arguments)
    except Exception as error:
        empty = re.search(r'"(\w+)(\[.*\])?" corresponds to no data', str(error))
        if empty:
            raise (no_rows(empty[1] + empty[2]) if empty[2] else _no_examples(empty[1], files)) from error
        if file_format == "json":
            for path in (path for paths in files.values() for path in paths if Path(path).is_file()):
                fault = _json_fault(Path(path), arguments.get("field"))
                if fault:
                    raise fault from error
        raise


def _json_fault(path: Path, field: str | None) -> CompressionError | None:
    """What is wrong with a file: one JSON document with a ``field``, or else a document or JSON Lines."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        fault = broken_json(path, error)
    else:
        if field is None or (isinstance(value, dict) and field in value):
            return None
        return UsageError(f'{path} has no key "{field}": expected {{"{field}": [...]}} with one object per example')
    if field is not None:
        return fault
    # JSON Lines have a complete value on their first line; one document that spans lines has not.
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            json.loads(line or "0")
        except json.JSONDecodeError as error:
            return fault if number == 1 else broken_json(path, error, number)
    return None


def _check_files(split: str, paths: list[str]) -> None:
    """Refuse a local file that is missing or empty; patterns and addresses are the original's business."""
    for path in paths:
        if "://" in path or any(sign in path for sign in "*?["):
            continue
        file = Path(path)
        if not file.is_file():
            fault = "is not a file" if file.exists() else "does not exist"
            raise UsageError(f"the {split} file {path} {fault}: check --{split}_file (make: DATA=DIR)")
        if file.stat().st_size == 0:
            raise UsageError(f"the {split} file {path} is empty: give a file with at least one example")


def _check_not_empty(loaded: Any, files: dict[str, list[str]], split: Any) -> None:
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {str(split): loaded}
    for name, dataset in splits.items():
        if isinstance(dataset, datasets.Dataset) and len(dataset) == 0 and "[" not in name:
            raise _no_examples(name, files)


def _no_examples(split: str, files: dict[str, list[str]]) -> UsageError:
    where = ", ".join(files.get(split, ["?"]))
    return UsageError(f"the {split} file {where} holds no examples: give a file with at least one")
