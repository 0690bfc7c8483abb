"""Running text as the data set that the hub's ``wikitext`` is, for language modelling."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets

from nncf_transformers.data.arrow import cached_dataset
from nncf_transformers.data.files import read_text, sha256_of
from nncf_transformers.errors import UsageError

WIKITEXT_PATHS = ("wikitext", "Salesforce/wikitext")
WIKITEXT_CONFIGURATIONS = ("wikitext-2-raw-v1", "wikitext-2-v1", "wikitext-103-raw-v1", "wikitext-103-v1")

# The hub's splits in its order, each with what the distribution calls it and the names of plain files.
_SPLITS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "test": ("test", ("test",)),
    "train": ("train", ("train",)),
    "validation": ("valid", ("valid", "validation", "dev")),
}


@dataclass(frozen=True)
class WikiText:
    """One configuration of WikiText (Merity et al., 2016), and the names that its files go by.

    Attributes:
        name: The configuration, such as ``wikitext-2-raw-v1``.
    """

    name: str

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the hub's order."""
        return tuple(_SPLITS)

    @property
    def folders(self) -> tuple[str, ...]:
        """Sub-folders of a data folder to look into before the folder itself."""
        return (self.name.removesuffix("-v1"), self.name, "wikitext")

    def candidates(self, split: str) -> list[str]:
        """Names of the files that may hold a split, the best first."""
        stem, plain = _SPLITS[split]
        return [f"wiki.{stem}.{self._suffix}", *(f"{name}.txt" for name in plain)]

    def other_kind(self, split: str) -> str:
        """The distribution's file of a split that belongs to the other kind of configuration."""
        return f"wiki.{_SPLITS[split][0]}.{'tokens' if self._suffix == 'raw' else 'raw'}"

    @property
    def _suffix(self) -> str:
        # The two differ in more than the name: in .tokens, rare words have become <unk>.
        return "raw" if "-raw-" in self.name else "tokens"


def wikitext(name: str | None) -> WikiText:
    """The configuration that a script asked for.

    Raises:
        UsageError: It asked for none, or for one that there is not.
    """
    if name not in WIKITEXT_CONFIGURATIONS:
        fault = "needs a configuration" if name is None else f"has no configuration {name!r}"
        raise UsageError(f"wikitext {fault}: pass --dataset_config_name, one of {', '.join(WIKITEXT_CONFIGURATIONS)}")
    return WikiText(name)


def text_dataset(file: Path, split: str, *, cache_dir: str | Path | None = None) -> datasets.Dataset:
    r"""The lines of a text file in the column ``text``, one a row, as the public ``wikitext`` has them.

    A row keeps the line end, always as ``"\n"``: ``" = Title = \n"``. A line of nothing but white space becomes the
    empty string, without a line end. Both decide the tokens, and with them the perplexity.

    Args:
        file: The file, UTF-8.
        split: The split's name.
        cache_dir: Root of the cache; None stands for that of ``datasets``.

    Raises:
        UsageError: The file cannot be read, or has no text.
        IntegrityError: The file is not UTF-8.
    """
    # Not str.splitlines(), which also breaks at characters that are part of a line.
    rows = [line if line.strip() else "" for line in io.StringIO(read_text(file), newline=None)]
    if not any(rows):
        raise UsageError(f"{file} has no text: it cannot serve as the {split} split")
    features = datasets.Features({"text": datasets.Value("string")})
    return cached_dataset({"text": rows}, features, key=["text", sha256_of(file)], split=split, cache_dir=cache_dir)
