"""The classification tasks that a local data folder can serve: their columns, labels and files.

Columns, label names and label order are those of the public data sets ``nyu-mll/glue`` and ``xnli``, because
a script's models and metrics rely on them. File names and headers are those of the benchmarks' own
distributions (GLUE: Wang et al., 2018; XNLI: Conneau et al., 2018), with the public column names accepted
too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

NLI_LABELS = ("entailment", "neutral", "contradiction")
TABLE_SUFFIXES = ("tsv", "csv", "json", "jsonl")

_PLAIN_STEMS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("dev", "validation"),
    "test": ("test",),
}


@dataclass(frozen=True)
class Task:
    """One classification or regression task.

    Attributes:
        name: Its name on the hub.
        texts: Text columns in the order of the hub's features, each with the headers it goes by in files.
        labels: Names of the classes in the hub's order; none for a regression task.
        label_headers: The headers that the label goes by, the best first.
        folders: Sub-folders of the data folder to look into before the folder itself.
        stems: For each split, the file names without suffix, the best first.
        files: For each split, further file names, considered last.
        held_out: A file of the training file's ids that belong to the validation split; only for the files
            that ``files`` names for these two splits.
        headerless: Column names of a distribution without a header line.
        has_index: Whether the hub's version has a column ``idx``.
        language: Keep only the rows of this language, where a file has a column ``language``.
    """

    name: str
    texts: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...]
    label_headers: tuple[str, ...] = ("label",)
    folders: tuple[str, ...] = ()
    stems: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _PLAIN_STEMS)
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held_out: str | None = None
    headerless: tuple[str, ...] = ()
    has_index: bool = True
    language: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the hub's order."""
        return tuple(self.stems)

    def candidates(self, split: str) -> list[str]:
        """Names of the files that may hold a split, the best first."""
        plain = [f"{stem}.{suffix}" for stem in self.stems[split] for suffix in TABLE_SUFFIXES]
        return [*plain, *self.files.get(split, ())]

    def expected(self, split: str) -> str:
        """The same names in words, for an error."""
        plain = [f"{stem}.{{{','.join(TABLE_SUFFIXES)}}}" for stem in self.stems[split]]
        further = [
            f"{name} with {self.held_out}" if self.is_shared(name, split) else name
            for name in self.files.get(split, ())
        ]
        return ", ".join([*plain, *further])

    def is_shared(self, name: str, split: str) -> bool:
        """Whether a file holds both the training and the validation split, told apart by ``held_out``."""
        return self.held_out is not None and split != "test" and name in self.files.get(split, ())


_PAIR = {"sentence1": ("sentence1",), "sentence2": ("sentence2",)}
_ENTAILED = ("entailment", "not_entailment")

_GLUE = (
    Task(
        "cola",
        {"sentence": ("sentence",)},
        ("unacceptable", "acceptable"),
        folders=("CoLA",),
        headerless=("source", "label", "star", "sentence"),
    ),
    Task("sst2", {"sentence": ("sentence",)}, ("negative", "positive"), folders=("SST-2",)),
    Task(
        "mrpc",
        {"sentence1": ("sentence1", "#1 string"), "sentence2": ("sentence2", "#2 string")},
        ("not_equivalent", "equivalent"),
        label_headers=("label", "quality"),
        folders=("MRPC",),
        files={
            "train": ("msr_paraphrase_train.txt",),
            "validation": ("msr_paraphrase_train.txt",),
            "test": ("msr_paraphrase_test.txt",),
        },
        held_out="dev_ids.tsv",
    ),
    Task(
        "qqp",
        {"question1": ("question1",), "question2": ("question2",)},
        ("not_duplicate", "duplicate"),
        label_headers=("label", "is_duplicate"),
        folders=("QQP",),
    ),
    Task("stsb", _PAIR, (), label_headers=("label", "score"), folders=("STS-B",)),
    Task(
        "mnli",
        {"premise": ("premise", "sentence1"), "hypothesis": ("hypothesis", "sentence2")},
        NLI_LABELS,
        label_headers=("gold_label", "label"),
        folders=("MNLI",),
        stems={
            "train": ("train",),
            "validation_matched": ("dev_matched", "validation_matched"),
            "validation_mismatched": ("dev_mismatched", "validation_mismatched"),
            "test_matched": ("test_matched",),
            "test_mismatched": ("test_mismatched",),
        },
    ),
    Task("qnli", {"question": ("question",), "sentence": ("sentence",)}, _ENTAILED, folders=("QNLI",)),
    Task("rte", _PAIR, _ENTAILED, folders=("RTE",)),
    Task("wnli", _PAIR, ("not_entailment", "entailment"), folders=("WNLI",)),
)

GLUE_TASKS: Mapping[str, Task] = {task.name: task for task in _GLUE}


def xnli_task(language: str) -> Task:
    """XNLI in one language: the 2019 distribution (machine-translated training set), or plain files."""
    train = f"multinli.train.{language}.tsv"
    return Task(
        name=f"xnli ({language})",
        texts={"premise": ("premise", "sentence1"), "hypothesis": ("hypothesis", "hypo", "sentence2")},
        labels=NLI_LABELS,
        label_headers=("gold_label", "label"),
        folders=("XNLI", "xnli"),
        stems={split: (*(f"{s}.{language}" for s in stems), *stems) for split, stems in _PLAIN_STEMS.items()},
        files={
            "train": (f"XNLI-MT-1.0/multinli/{train}", f"multinli/{train}", train),
            "validation": ("XNLI-1.0/xnli.dev.tsv", "xnli.dev.tsv"),
            "test": ("XNLI-1.0/xnli.test.tsv", "xnli.test.tsv"),
        },
        has_index=False,
        language=language,
    )
