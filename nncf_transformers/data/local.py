"""A folder on disk that stands for the hub's benchmark data sets (``--data_dir DIR``)."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nncf_transformers.data.arrow import AnyDataset, pick, split_names
from nncf_transformers.data.labelled import task_dataset
from nncf_transformers.data.squad_dataset import squad_dataset
from nncf_transformers.data.tasks import GLUE_TASKS, Task, xnli_task
from nncf_transformers.data.text_dataset import WIKITEXT_PATHS, WikiText, text_dataset, wikitext
from nncf_transformers.errors import UsageError

logger = logging.getLogger(__name__)

_GLUE = ("glue", "nyu-mll/glue")
_XNLI = ("xnli", "facebook/xnli")
_SQUAD: Mapping[str, str] = {
    "squad": "1.1",
    "rajpurkar/squad": "1.1",
    "squad_v2": "2.0",
    "rajpurkar/squad_v2": "2.0",
}


@dataclass(frozen=True)
class LocalData:
    """A data folder, and the parts of it that this run cannot do without.

    Attributes:
        directory: The folder: a benchmark's distribution, or plain ``train``, ``dev`` and ``test`` files.
        needed: Which of ``train``, ``validation`` and ``test`` must have a file; the others may be missing.
    """

    directory: Path
    needed: frozenset[str] = frozenset({"train", "validation"})

    def __post_init__(self) -> None:
        if not self.directory.is_dir():
            fault = "is not a folder" if self.directory.exists() else "does not exist"
            raise UsageError(f"the data folder {self.directory} {fault}: check --data_dir (make: DATA=DIR)")

    def serves(self, path: str) -> bool:
        """Whether ``path`` names a data set that a folder can stand for."""
        return path in (*_GLUE, *_XNLI, *_SQUAD, *WIKITEXT_PATHS)

    def load(self, path: str, name: str | None, split: Any, cache_dir: str | None) -> AnyDataset:
        """What ``datasets.load_dataset(path, name, split=split)`` would return, read from the folder.

        Raises:
            UsageError: The folder cannot serve this data set, or a file is missing or wrong.
            IntegrityError: A file is damaged.
        """
        if path in _SQUAD:
            return self._load_squad(_SQUAD[path], split, cache_dir)
        if path in WIKITEXT_PATHS:
            return self._load_text(wikitext(name), split, cache_dir)
        return self._load_task(_task(path, name), split, cache_dir)

    def _load_task(self, task: Task, split: Any, cache_dir: str | None) -> AnyDataset:
        folder = self._folder(
            (*task.folders, task.name), [name for one in task.splits for name in task.candidates(one)]
        )
        loaded = {}
        for one in _wanted(split, task.splits):
            file = _first(folder, task.candidates(one))
            if file and task.held_out and task.is_shared(file.name, one):
                file = file if (folder / task.held_out).is_file() else None
            if file is None:
                self._check_optional(one, split, task.name, folder, task.expected(one))
                logger.info("%s: no file for the %s split of %s; it is empty", folder, one, task.name)
            loaded[one] = task_dataset(task, file, one, cache_dir=cache_dir)
        return pick(loaded, split)

    def _load_squad(self, version: str, split: Any, cache_dir: str | None) -> AnyDataset:
        candidates = {
            "train": [f"train-v{version}.json", "train.json"],
            "validation": [f"dev-v{version}.json", "dev.json", "validation.json"],
            "test": [f"test-v{version}.json", "test.json"],
        }
        folder = self._folder(("SQuAD", "squad"), [name for names in candidates.values() for name in names])
        loaded = {}
        for one in _wanted(split, tuple(candidates)):
            file = _first(folder, candidates[one])
            if file is None:
                expected = ", ".join(candidates[one])
                self._check_optional(one, split, f"SQuAD {version}", folder, expected)
                if one == "test":
                    continue  # the public data set has no such split either
                logger.info("%s: no file for the %s split of SQuAD; it is empty", folder, one)
            loaded[one] = squad_dataset([file] if file else [], one, cache_dir=cache_dir)
        return pick(loaded, split)

    def _load_text(self, corpus: WikiText, split: Any, cache_dir: str | None) -> AnyDataset:
        folder = self._folder(corpus.folders, [name for one in corpus.splits for name in corpus.candidates(one)])
        files = {one: _first(folder, corpus.candidates(one)) for one in corpus.splits}
        loaded = {}
        for one in _wanted(split, corpus.splits):
            file = files[one]
            if file is not None:
                loaded[one] = text_dataset(file, one, cache_dir=cache_dir)
            elif split is not None or self._cannot_do_without(one, files):
                raise _no_text(corpus, one, folder)
        if split is None and "validation" not in loaded:
            # A missing split, unlike an empty one, is what the scripts look for.
            logger.warning(
                "%s: no file for the validation split of %s; the script takes --validation_split_percentage of the "
                "training set",
                folder,
                corpus.name,
            )
        return pick(loaded, split)

    def _cannot_do_without(self, split: str, files: Mapping[str, Path | None]) -> bool:
        """Whether a split of running text must be there: for validation, the training set can lend a part of itself."""
        if split == "validation":
            return files["train"] is None
        return split in self.needed

    def _folder(self, names: Iterable[str], files: list[str]) -> Path:
        """The sub-folder of one of these names that holds any of the files, or else the folder itself."""
        folders = [self.directory / name for name in names]
        return next((folder for folder in folders if _first(folder, files)), self.directory)

    def _check_optional(self, split: str, requested: Any, what: str, folder: Path, expected: str) -> None:
        if requested is None and split.partition("_")[0] not in self.needed:
            return
        undivided = _first(folder, ["dev.tsv", "dev.csv", "dev.json", "dev.jsonl"])
        hint = ""
        if "matched" in split and undivided:
            hint = f"; {undivided.name} does not say which of the two it is"
        raise UsageError(f"no file for the {split} split of {what} in {folder}: expected {expected}{hint}")


def _task(path: str, name: str | None) -> Task:
    if path in _XNLI:
        if name is None:
            raise UsageError("xnli needs a language, such as en or zh: pass --language")
        return xnli_task(name)
    if path in _GLUE:
        if name is None or name not in GLUE_TASKS:
            raise UsageError(f"--data_dir has no layout for the GLUE task {name!r}; it serves {', '.join(GLUE_TASKS)}")
        return GLUE_TASKS[name]
    raise UsageError(
        f"--data_dir serves glue, xnli, squad, squad_v2 and wikitext, not the data set {path!r}: leave it out, "
        "or pass files with --train_file and --validation_file"
    )


def _no_text(corpus: WikiText, split: str, folder: Path) -> UsageError:
    other = corpus.other_kind(split)
    hint = f"; {other} is of another configuration of wikitext" if (folder / other).is_file() else ""
    expected = ", ".join(corpus.candidates(split))
    return UsageError(f"no file for the {split} split of {corpus.name} in {folder}: expected {expected}{hint}")


def _wanted(split: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    """The splits to read for a request: all, or those that it mentions and that exist."""
    if split is None:
        return known
    requests = split if isinstance(split, list | tuple) else [split]
    mentioned = {name for request in requests for name in split_names(request)}
    unknown = sorted(mentioned - set(known))
    if unknown:
        raise UsageError(f"there is no split {unknown[0]!r}; choose among {', '.join(known)}")
    return tuple(name for name in known if name in mentioned)


def _first(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
