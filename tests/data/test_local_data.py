"""Benchmark folders on disk in place of the hub (``--data_dir``)."""

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest
from squad_like import Write, nested, question

from nncf_transformers.data import load_dataset, set_local_data
from nncf_transformers.errors import IntegrityError, UsageError

NLI = ["entailment", "neutral", "contradiction"]

# Per task: the distribution's header and two rows of it, and what the first must become.
LAYOUTS: dict[str, tuple[str, list[tuple[Any, ...]], list[str], dict[str, Any]]] = {
    "cola": (
        "CoLA",
        [("gj04", 1, "", "Cats sleep."), ("gj04", 0, "*", "Sleep cats the.")],
        ["unacceptable", "acceptable"],
        {"sentence": "Cats sleep.", "label": 1, "idx": 0},
    ),
    "sst2": (
        "SST-2",
        [("sentence", "label"), ('a "fine film', 1), ("dull", 0)],
        ["negative", "positive"],
        {"sentence": 'a "fine film', "label": 1, "idx": 0},
    ),
    "mrpc": (
        "MRPC",
        [
            ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
            (1, 11, 12, 'He said "no', "No"),
            (0, 1, 2, "a", "b"),
        ],
        ["not_equivalent", "equivalent"],
        {"sentence1": 'He said "no', "sentence2": "No", "label": 1, "idx": 0},
    ),
    "qqp": (
        "QQP",
        [
            ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
            (0, 1, 2, "a?", "b?", 1),
            (1, 3, 4, "c", "d", 0),
        ],
        ["not_duplicate", "duplicate"],
        {"question1": "a?", "question2": "b?", "label": 1, "idx": 0},
    ),
    "qnli": (
        "QNLI",
        [
            ("index", "question", "sentence", "label"),
            (0, "q", "s", "not_entailment"),
            (1, "q", "s", "entailment"),
        ],
        ["entailment", "not_entailment"],
        {"question": "q", "sentence": "s", "label": 1, "idx": 0},
    ),
    "rte": (
        "RTE",
        [("index", "sentence1", "sentence2", "label"), (0, "p", "h", "entailment")],
        ["entailment", "not_entailment"],
        {"sentence1": "p", "sentence2": "h", "label": 0, "idx": 0},
    ),
    "wnli": (
        "WNLI",
        [("index", "sentence1", "sentence2", "label"), (0, "p", "h", 1)],
        ["not_entailment", "entailment"],
        {"sentence1": "p", "sentence2": "h", "label": 1, "idx": 0},
    ),
}


@pytest.mark.parametrize("task", LAYOUTS)
@pytest.mark.parametrize("nested_folder", [True, False])
def test_glue_distributions(write: Write, tmp_path: Path, task: str, nested_folder: bool) -> None:
    folder, rows, labels, first = LAYOUTS[task]
    for name in ("train", "dev"):
        write(f"data/{folder}/{name}.tsv", rows)
    data = tmp_path / "data"
    set_local_data(data if nested_folder else data / folder, need_test=False)
    loaded = load_dataset("nyu-mll/glue", task, token=None)
    assert list(loaded) == ["train", "validation", "test"]
    assert loaded["train"][0] == first
    for split in loaded.values():
        assert list(split.features) == list(first)
        assert split.features["label"] == datasets.ClassLabel(names=labels)
        assert split.features["idx"] == datasets.Value("int32")
    assert len(loaded["test"]) == 0


def test_stsb_is_a_regression(write: Write, tmp_path: Path) -> None:
    header = (
        "index",
        "genre",
        "filename",
        "year",
        "old_index",
        "source1",
        "source2",
        "sentence1",
        "sentence2",
    )
    row = (0, "news", "f", 2012, 1, "s", "s", "a", "b")
    for name in ("train", "dev"):
        write(f"STS-B/{name}.tsv", [(*header, "score"), (*row, "3.25")])
    write("STS-B/test.tsv", [header, row])
    set_local_data(tmp_path, need_test=True)
    loaded = load_dataset("glue", "stsb")
    assert loaded["train"].features["label"] == datasets.Value("float32")
    assert loaded["train"][0] == {"sentence1": "a", "sentence2": "b", "label": 3.25, "idx": 0}
    assert loaded["test"][0]["label"] == -1.0


def mnli_rows(*pairs: tuple[str, str, str]) -> list[tuple[Any, ...]]:
    header = ("index", "promptID", "sentence1_parse", "sentence1", "sentence2", "label1", "gold_label")
    return [header, *((i, 7, "(x)", one, two, "neutral", gold) for i, (one, two, gold) in enumerate(pairs))]


def test_mnli_splits_labels_and_undecided_rows(write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write("MNLI/train.tsv", mnli_rows(("a", "b", "contradiction"), ("c", "d", "-"), ("e", "f", "entailment")))
    write("MNLI/dev_matched.tsv", mnli_rows(("m", "m", "neutral")))
    write("MNLI/dev_mismatched.tsv", mnli_rows(("n", "n", "neutral")))
    set_local_data(tmp_path, need_test=False)
    with caplog.at_level(logging.INFO):
        loaded = load_dataset("nyu-mll/glue", "mnli")
    assert {name: len(split) for name, split in loaded.items()} == {
        "train": 2,
        "validation_matched": 1,
        "validation_mismatched": 1,
        "test_matched": 0,
        "test_mismatched": 0,
    }
    assert loaded["train"].features["label"].names == NLI
    assert loaded["train"].to_list() == [
        {"premise": "a", "hypothesis": "b", "label": 2, "idx": 0},
        {"premise": "e", "hypothesis": "f", "label": 0, "idx": 2},
    ]
    assert "1 rows without an agreed label ('-') left out" in caplog.text


def test_mnli_needs_matched_and_mismatched(write: Write, tmp_path: Path) -> None:
    for name in ("train", "dev"):
        write(f"{name}.tsv", mnli_rows(("a", "b", "neutral")))
    set_local_data(tmp_path, need_test=False)
    with pytest.raises(UsageError, match=r"expected dev_matched\.\{tsv,.*; dev\.tsv does not say which of the two"):
        load_dataset("nyu-mll/glue", "mnli")


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("tsv", "sentence1\tsentence2\tlabel\na\tb\tequivalent\nc\td\tnot_equivalent\n"),
        ("tsv", "\ufeffsentence1\tsentence2\tlabel\r\na\tb\t1\r\nc\td\t0\r\n"),
        ("csv", 'sentence1,sentence2,label\n"a",b,1\nc,d,0\n'),
        ("json", json.dumps([{"sentence1": s, "sentence2": t, "label": n} for s, t, n in ("ab1", "cd0")])),
        (
            "json",
            '{"data": [{"sentence1":"a","sentence2":"b","label":1},{"sentence1":"c","sentence2":"d","label":0}]}',
        ),
        (
            "json",
            '{"sentence1":"a","sentence2":"b","label":1}\n{"sentence1":"c","sentence2":"d","label":0}\n',
        ),
        (
            "jsonl",
            '{"sentence1":"a","sentence2":"b","label":"1"}\n\n{"sentence1":"c","sentence2":"d","label":0.0}',
        ),
    ],
)
def test_plain_files_with_the_public_columns(write: Write, tmp_path: Path, suffix: str, content: str) -> None:
    write(f"train.{suffix}", content)
    write(f"validation.{suffix}", content)
    set_local_data(tmp_path, need_test=False)
    loaded = load_dataset("nyu-mll/glue", "mrpc")
    assert loaded["validation"].to_list() == [
        {"sentence1": "a", "sentence2": "b", "label": 1, "idx": 0},
        {"sentence1": "c", "sentence2": "d", "label": 0, "idx": 1},
    ]


def test_msr_paraphrase_distribution(write: Write, tmp_path: Path) -> None:
    header = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    write("MRPC/msr_paraphrase_train.txt", [header, (1, 10, 11, "a", "b"), (0, 20, 21, "c", "d")])
    write("MRPC/msr_paraphrase_test.txt", [header, (1, 30, 31, "e", "f")])
    set_local_data(tmp_path, need_test=True)
    with pytest.raises(UsageError, match=r"msr_paraphrase_train\.txt with dev_ids\.tsv"):
        load_dataset("glue", "mrpc")
    write("MRPC/dev_ids.tsv", [("20", "21")])
    loaded = load_dataset("glue", "mrpc")
    assert {name: split["sentence1"][:] for name, split in loaded.items()} == {
        "train": ["a"],
        "validation": ["c"],
        "test": ["e"],
    }


def test_xnli_distribution_of_2019(write: Write, tmp_path: Path) -> None:
    write(
        "XNLI-MT-1.0/multinli/multinli.train.zh.tsv",
        [("premise", "hypo", "label"), ("他", "她", "contradictory"), ("我", "你", "neutral")],
    )
    header = ("language", "gold_label", "sentence1_parse", "sentence1", "sentence2", "label1")
    rows = [("en", "neutral", "", "he", "she", "x"), ("zh", "entailment", "", "甲", "乙", "x")]
    write("XNLI-1.0/xnli.dev.tsv", [header, *rows])
    write("XNLI-1.0/xnli.test.tsv", [header, *rows])
    set_local_data(tmp_path, need_test=False)
    train = load_dataset("xnli", "zh", split="train", cache_dir=None, token=None)
    assert train.features["label"].names == NLI
    assert train.to_list() == [
        {"premise": "他", "hypothesis": "她", "label": 2},
        {"premise": "我", "hypothesis": "你", "label": 1},
    ]
    assert load_dataset("facebook/xnli", "zh", split="test").to_list() == [
        {"premise": "甲", "hypothesis": "乙", "label": 0}
    ]
    assert load_dataset("xnli", "en", split="validation")["premise"][:] == ["he"]
    with pytest.raises(UsageError, match="no examples in the language 'fr'"):
        load_dataset("xnli", "fr", split="validation")
    with pytest.raises(UsageError, match=r"no file for the train split of xnli \(fr\).*multinli\.train\.fr\.tsv"):
        load_dataset("xnli", "fr", split="train")


def test_xnli_plain_files(write: Write, tmp_path: Path) -> None:
    write(
        "train.tsv",
        [("sentence1", "sentence2", "label"), ("a", "b", "neutral"), ("c", "d", 0), ("e", "f", 2)],
    )
    write("dev.tsv", [("premise", "hypothesis", "label"), ("g", "h", "entailment")])
    write("dev.zh.tsv", [("premise", "hypothesis", "label"), ("甲", "乙", "entailment")])
    set_local_data(tmp_path, need_test=False)
    assert load_dataset("xnli", "en", split="train")["label"][:] == [1, 0, 2]
    assert load_dataset("xnli", "en", split="validation")["premise"][:] == ["g"]
    assert load_dataset("xnli", "zh", split="validation")["premise"][:] == ["甲"]


@pytest.mark.parametrize("name", ["squad", "rajpurkar/squad"])
def test_squad_folder(write: Write, tmp_path: Path, name: str) -> None:
    write("train-v1.1.json", nested(question("a", ("cat", 4))))
    write("dev-v1.1.json", nested(question("b", ("mat", 19))))
    set_local_data(tmp_path, need_test=False)
    loaded = load_dataset(name, None, trust_remote_code=False)
    assert {split: rows["id"][:] for split, rows in loaded.items()} == {"train": ["a"], "validation": ["b"]}


def test_squad_v2_takes_its_own_files(write: Write, tmp_path: Path) -> None:
    for version, key in (("1.1", "old"), ("2.0", "new")):
        write(f"train-v{version}.json", nested(question(key, ("cat", 4))))
        write(f"dev-v{version}.json", nested(question(key, ("cat", 4)), question("none", is_impossible=True)))
    set_local_data(tmp_path, need_test=False)
    assert load_dataset("squad_v2")["validation"]["id"][:] == ["new", "none"]
    assert load_dataset("squad")["train"]["id"][:] == ["old"]


def test_what_a_run_needs_decides_what_may_be_missing(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write("dev.tsv", [("sentence", "label"), ("fine", 1)])
    set_local_data(tmp_path, need_test=False)
    with pytest.raises(UsageError, match=r"no file for the train split of sst2 in .*: expected train\.\{tsv,csv"):
        load_dataset("glue", "sst2")
    set_local_data(tmp_path, need_test=False, need_train=False)
    with caplog.at_level(logging.INFO):
        loaded = load_dataset("glue", "sst2")
    assert len(loaded["train"]) == 0 and loaded["train"].features["label"].names == ["negative", "positive"]
    assert sum("it is empty" in record.getMessage() for record in caplog.records) == 2
    set_local_data(tmp_path, need_test=True, need_train=False)
    with pytest.raises(UsageError, match="no file for the test split"):
        load_dataset("glue", "sst2")


def test_mapping_an_empty_split_works(write: Write, tmp_path: Path) -> None:
    for name in ("train", "dev"):
        write(f"{name}.tsv", [("sentence", "label"), ("fine", 1)])
    set_local_data(tmp_path, need_test=False)
    mapped = load_dataset("glue", "sst2").map(lambda batch: {"n": [len(s) for s in batch["sentence"]]}, batched=True)
    assert mapped["train"]["n"][:] == [4] and len(mapped["test"]) == 0


def test_rows_with_too_few_fields_are_counted(write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write("train.tsv", [("sentence", "label"), ("fine", 1), ("cut",), ("dull", 0)])
    write("dev.tsv", [("sentence", "label"), ("fine", 1)])
    set_local_data(tmp_path, need_test=False)
    assert load_dataset("glue", "sst2")["train"]["idx"][:] == [0, 2]
    assert "1 rows with too few fields left out, the first is line 3" in caplog.text


@pytest.mark.parametrize(
    ("train", "kind", "message"),
    [
        (
            "sentence\tlabel\nfine\tgreat\n",
            UsageError,
            r"line 2: the label 'great' .* negative, positive \(or 0…1\)",
        ),
        ("sentence\tlabel\nfine\t2\n", UsageError, "the label '2' is not one"),
        ("sentence\tlabel\nfine\t-1\n", UsageError, "the label '-1' is not one"),
        (
            "text\tlabel\nfine\t1\n",
            UsageError,
            "lacks the column sentence that sst2 needs; it has text, label",
        ),
        ("sentence\nfine\n", UsageError, "lacks the column label"),
        ("sentence\tlabel\n", UsageError, "has no examples"),
        ("", UsageError, "is empty"),
    ],
)
def test_bad_tables(write: Write, tmp_path: Path, train: str, kind: type[Exception], message: str) -> None:
    write("train.tsv", train)
    write("dev.tsv", [("sentence", "label"), ("fine", 1)])
    set_local_data(tmp_path, need_test=False)
    with pytest.raises(kind, match=message) as caught:
        load_dataset("glue", "sst2")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("train.jsonl", '{"sentence": "a", "label": 1}\n{"sentence"', IntegrityError, "at line 2, column 12"),
        ("train.jsonl", "[1]\n", UsageError, "line 1, is not a JSON object"),
        ("train.json", '["a"]', UsageError, "is not a table"),
        ("train.json", '[{"sentence": "a", "lab', IntegrityError, "not valid JSON"),
    ],
)
def test_bad_json(write: Write, tmp_path: Path, name: str, content: str, kind: type[Exception], message: str) -> None:
    write(name, content)
    set_local_data(tmp_path, need_test=False)
    with pytest.raises(kind, match=message):
        load_dataset("glue", "sst2")


def test_folder_must_exist(write: Write, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data folder .*none does not exist: check --data_dir"):
        set_local_data(tmp_path / "none", need_test=False)
    with pytest.raises(UsageError, match="is not a folder"):
        set_local_data(write("file", "x"), need_test=False)


@pytest.mark.parametrize(
    ("path", "name", "message"),
    [
        (
            "ptb_text_only",
            None,
            "serves glue, xnli, squad, squad_v2 and wikitext, not the data set 'ptb_text_only'",
        ),
        ("nyu-mll/glue", "ax", "no layout for the GLUE task 'ax'; it serves cola"),
        ("glue", None, "no layout for the GLUE task None"),
        ("xnli", None, "xnli needs a language"),
    ],
)
def test_data_sets_without_a_layout(tmp_path: Path, path: str, name: str | None, message: str) -> None:
    set_local_data(tmp_path, need_test=False)
    with pytest.raises(UsageError, match=message):
        load_dataset(path, name)


def test_fingerprint_follows_the_file(write: Write, tmp_path: Path) -> None:
    for name in ("train", "dev"):
        write(f"{name}.tsv", [("sentence", "label"), ("fine", 1)])
    set_local_data(tmp_path, need_test=False)
    first = load_dataset("glue", "sst2")
    assert load_dataset("glue", "sst2")["train"]._fingerprint == first["train"]._fingerprint
    assert first["validation"]._fingerprint != first["train"]._fingerprint
    write("train.tsv", [("sentence", "label"), ("fine", 0)])
    changed = load_dataset("glue", "sst2")["train"]
    assert changed._fingerprint != first["train"]._fingerprint and changed["label"][:] == [0]
