"""Data sets in Arrow files whose names follow from their content.

``datasets`` finds the cached result of a ``map`` by the data set's fingerprint, and only for data sets that
live in files. So what we read is written once, under a key made of everything it depends on; the key is the
fingerprint. The same input gives the same fingerprint in every process and on every machine, another input
another one.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import datasets
from datasets.arrow_writer import ArrowWriter

from nncf_transformers.errors import UsageError

# To be raised whenever the readers make something else of the same files: it retires what is cached.
READER_VERSION = 1

AnyDataset: TypeAlias = "datasets.Dataset | datasets.DatasetDict | list[datasets.Dataset]"


def cached_dataset(
    columns: dict[str, list[Any]],
    features: datasets.Features,
    *,
    key: Iterable[str],
    split: str,
    cache_dir: str | Path | None = None,
) -> datasets.Dataset:
    """A memory-mapped data set with the given columns and a fingerprint that depends on ``key`` alone.

    Args:
        columns: Values by column, all of one length.
        features: Types of the columns.
        key: What the content follows from: kind of data, checksums of the files. ``split``, the features and
            the readers' version are added here.
        split: The split's name.
        cache_dir: Root of the cache; None stands for that of ``datasets``.

    Raises:
        UsageError: The cache folder cannot be written.
    """
    parts = [READER_VERSION, *key, split, json.dumps(features.to_dict(), sort_keys=True)]
    fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / "local_files" / fingerprint
    file = folder / f"{split}.arrow"
    if not file.exists():
        try:
            _write(datasets.Dataset.from_dict(columns, features=features), file)
        except OSError as error:
            raise UsageError(
                f"cannot write the data cache {folder}: {error.strerror or error}; name another folder with "
                "--cache_dir or HF_DATASETS_CACHE"
            ) from error
    return datasets.Dataset(
        datasets.table.MemoryMappedTable.from_file(str(file)),
        info=datasets.DatasetInfo(features=features),
        split=datasets.NamedSplit(split),
        fingerprint=fingerprint,
    )


def _write(dataset: datasets.Dataset, file: Path) -> None:
    """Write under a temporary name and rename: of several processes at once none sees half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem}-", suffix=".tmp")
    os.close(handle)
    try:
        with ArrowWriter(path=temporary, features=dataset.features) as writer:
            writer.write_table(dataset.data.table)
            writer.finalize()
        os.replace(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)


def split_names(split: Any) -> list[str]:
    """Names of the splits that a request like ``"train[:10%]+test"`` mentions, each once, in order."""
    parts = re.split(r"[+\s]+", re.sub(r"\([^)]*\)|\[[^\]]*\]", "", str(split)))
    return list(dict.fromkeys(part for part in parts if part))


def pick(splits: dict[str, datasets.Dataset], split: Any) -> AnyDataset:
    """What ``datasets.load_dataset`` returns for the argument ``split``.

    Args:
        splits: The data sets by split, at least those that ``split`` mentions.
        split: None (all of them), a name, a slicing instruction, or a list of these.

    Raises:
        UsageError: ``split`` asks for a split that is not there, or for a part of one that has no row, or is malformed.
    """
    if split is None:
        return datasets.DatasetDict(splits)
    if isinstance(split, list | tuple):
        return [pick(splits, one) for one in split]
    if str(split) in splits:
        return splits[str(split)]
    lengths = {name: len(dataset) for name, dataset in splits.items()}
    try:
        instruction = datasets.ReadInstruction.from_spec(str(split))
        ranges = instruction.to_absolute(lengths)
    except (AssertionError, KeyError, ValueError) as error:
        known = ", ".join(splits)
        raise UsageError(
            f"there is no split {str(split)!r}; choose among {known}, or a slice such as train[:10%]"
        ) from error
    if not any(one.to > one.from_ for one in ranges):
        raise no_rows(str(split))
    parts = [splits[one.splitname].select(range(one.from_, one.to)) for one in ranges]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def no_rows(split: str) -> UsageError:
    """The error for a slice that is too small a part of its split."""
    return UsageError(
        f"{split} has no row, the data are too few for it: give a validation file, or a larger "
        "--validation_split_percentage"
    )


def as_streams(data: AnyDataset) -> Any:
    """The same data as iterable data sets, for a script that asked for ``streaming``."""
    if isinstance(data, datasets.DatasetDict):
        return datasets.IterableDatasetDict({name: one.to_iterable_dataset() for name, one in data.items()})
    if isinstance(data, list):
        return [one.to_iterable_dataset() for one in data]
    return data.to_iterable_dataset()
