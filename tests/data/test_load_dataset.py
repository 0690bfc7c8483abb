"""``load_dataset`` on files, and where the hub is needed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
from squad_like import Write, nested, question

from nncf_transformers.data import load_dataset, set_local_data, sha256_of
from nncf_transformers.errors import IntegrityError, UnreachableError, UsageError

FLAT = {"id": "1", "context": "a b", "question": "q", "answers": {"text": ["a"], "answer_start": [0]}}


def lengths(batch: dict[str, Any]) -> dict[str, Any]:
    return {"length": [len(text) for text in batch["context"]]}


def test_nested_json_becomes_the_public_data_set(write: Write) -> None:
    train = write("train.json", nested(question("a", ("cat", 4)), question("b", is_impossible=True)))
    loaded = load_dataset("json", data_files={"train": str(train)}, field="data", token=None)
    assert isinstance(loaded, datasets.DatasetDict)
    text = datasets.Value("string")
    answers = datasets.Sequence({"text": text, "answer_start": datasets.Value("int32")})
    expected = {"id": text, "title": text, "context": text, "question": text, "answers": answers}
    assert loaded["train"].features == datasets.Features(expected)
    assert loaded["train"][0] == {
        "id": "a",
        "title": "Cats",
        "context": "The cat sat on the mat.",
        "question": "What is a?",
        "answers": {"text": ["cat"], "answer_start": [4]},
    }
    assert loaded["train"][1]["answers"] == {"text": [], "answer_start": []}
    assert str(loaded["train"].split) == "train"


def test_nested_and_flat_splits_mix(write: Write) -> None:
    files = {
        "train": str(write("train.json", nested(question("a", ("cat", 4))))),
        "validation": [str(write("dev.json", {"data": [FLAT]}))],
    }
    loaded = load_dataset("json", data_files=files, field="data")
    assert {name: len(split) for name, split in loaded.items()} == {"train": 1, "validation": 1}
    assert loaded["validation"][0]["answers"] == FLAT["answers"]


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        ("train", "abcd"),
        ("train[:2]", "ab"),
        ("train[75%:]", "d"),
        ("train[:1]+validation", "ae"),
        (None, None),
    ],
)
def test_splits_and_slices(write: Write, split: str | None, ids: str | None) -> None:
    train = write("train.json", nested(*(question(key, ("cat", 4)) for key in "abcd")))
    dev = write("dev.json", nested(question("e", ("cat", 4))))
    loaded = load_dataset("json", data_files={"train": str(train), "validation": str(dev)}, split=split)
    if ids is None:
        assert set(loaded) == {"train", "validation"}
    else:
        assert "".join(loaded["id"]) == ids


def test_unknown_split_and_lists_and_streams(write: Write) -> None:
    files = {"train": str(write("train.json", nested(*(question(key, ("cat", 4)) for key in "ab"))))}
    with pytest.raises(UsageError, match="there is no split 'dev'; choose among train"):
        load_dataset("json", data_files=files, split="dev")
    assert [len(part) for part in load_dataset("json", data_files=files, split=["train", "train[:1]"])] == [
        2,
        1,
    ]
    stream = load_dataset("json", data_files=files, streaming=True)["train"]
    assert isinstance(stream, datasets.IterableDataset)
    assert [row["id"] for row in stream] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("rows.csv", 'sentence1,sentence2,label\n"a, b",c,0\nd,e,1\n', {}),
        ("rows.json", '{"sentence1": "a", "label": 1}\n{"sentence1": "b", "label": 0}\n', {}),
        ("flat.json", json.dumps({"data": [FLAT]}), {"field": "data"}),
    ],
)
def test_other_files_load_as_in_the_original(
    write: Write, tmp_path: Path, name: str, content: str, options: dict[str, Any]
) -> None:
    files = {"train": str(write(name, content)), "validation": str(write(f"dev-{name}", content))}
    kind = name.rpartition(".")[2]
    ours = load_dataset(kind, data_files=files, cache_dir=str(tmp_path / "one"), token=None, **options)
    theirs = datasets.load_dataset(kind, data_files=files, cache_dir=str(tmp_path / "two"), token=None, **options)
    assert set(ours) == set(theirs)
    for split in theirs:
        assert ours[split].features == theirs[split].features
        assert ours[split].to_list() == theirs[split].to_list()
        assert ours[split]._fingerprint == theirs[split]._fingerprint


def test_map_is_cached_until_the_file_changes(write: Write) -> None:
    train = write("train.json", nested(question("a", ("cat", 4))))

    def load() -> datasets.Dataset:
        return load_dataset("json", data_files={"train": str(train)})["train"]

    first = load().map(lengths, batched=True)
    stamp = os.stat(first.cache_files[0]["filename"]).st_mtime_ns
    again = load().map(lengths, batched=True)
    assert again._fingerprint == first._fingerprint
    assert again.cache_files == first.cache_files
    assert os.stat(again.cache_files[0]["filename"]).st_mtime_ns == stamp

    write("train.json", nested(question("a", ("The", 0))))
    changed = load()
    assert changed.map(lengths, batched=True)._fingerprint != first._fingerprint
    assert changed[0]["answers"]["text"] == ["The"]


def test_fingerprints_do_not_depend_on_process_or_place(write: Write, tmp_path: Path) -> None:
    train = write("train.json", nested(question("a", ("cat", 4))))
    here = load_dataset("json", data_files={"train": str(train)}, split="train")._fingerprint
    copy = write("elsewhere/copy.json", train.read_text(encoding="utf-8"))
    code = (
        "from nncf_transformers.data import load_dataset\n"
        f"files, cache = {{'train': {str(copy)!r}}}, {str(tmp_path / 'other')!r}\n"
        "print(load_dataset('json', data_files=files, cache_dir=cache, split='train')._fingerprint)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert there.stdout.split()[-1] == here


def test_cache_that_cannot_be_written(write: Write, tmp_path: Path) -> None:
    train = write("train.json", nested(question("a", ("cat", 4))))
    write("blocked", "a file where a folder should be")
    with pytest.raises(UsageError, match=r"cannot write the data cache .*blocked.* --cache_dir"):
        load_dataset("json", data_files={"train": str(train)}, cache_dir=str(tmp_path / "blocked"))


@pytest.mark.parametrize(
    ("name", "content", "field", "kind", "message"),
    [
        (
            "t.json",
            '{"data": [{"id": "1", "conte',
            "data",
            IntegrityError,
            r"at line 1, column 23; .* truncated",
        ),
        ("t.json", '{"a": 1}\n{"a": 2}\n{"a":', None, IntegrityError, r"at line 3, column 6; .* truncated"),
        ("t.json", '{"rows": []}', "data", UsageError, r'has no key "data"'),
        ("t.json", '{"data": []}', "data", UsageError, "train file .* holds no examples"),
        ("t.csv", "sentence,label\n", None, UsageError, "train file .* holds no examples"),
        ("t.csv", "", None, UsageError, r"train file .*t\.csv is empty"),
    ],
)
def test_broken_flat_files(
    write: Write, name: str, content: str, field: str | None, kind: type[Exception], message: str
) -> None:
    files = {"train": str(write(name, content))}
    with pytest.raises(kind, match=message) as caught:
        load_dataset(name.rpartition(".")[2], data_files=files, field=field)
    assert "\n" not in str(caught.value)


def test_missing_files_name_the_flag(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"validation file .*none\.json does not exist: check --validation_file"):
        load_dataset("json", data_files={"validation": str(tmp_path / "none.json")}, field="data")
    with pytest.raises(UsageError, match="is not a file"):
        load_dataset("csv", data_files=str(tmp_path))


def test_files_win_over_a_data_folder_and_say_so(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    set_local_data(tmp_path, need_test=False)
    load_dataset("json", data_files={"train": str(write("t.json", nested(question("a", ("cat", 4)))))})
    assert "--data_dir" in caplog.text and "has no effect" in caplog.text


def test_unreachable_hub_is_one_fast_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    start = time.monotonic()
    with pytest.raises(UnreachableError) as caught:
        load_dataset("nyu-mll/glue", "mrpc", token=None)
    assert time.monotonic() - start < 3
    assert str(caught.value) == (
        "cannot reach the hub (http://127.0.0.1:9) for the data set 'nyu-mll/glue' (mrpc): pass its files "
        "with --data_dir DIR (make: DATA=DIR), or run `make demo`, which needs no hub"
    )
    assert not datasets.config.HF_HUB_OFFLINE  # the mode was for this call
    assert not caplog.records


def test_offline_mode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnreachableError, match=r"in offline mode for the data set 'squad'"):
        load_dataset("squad")


def test_reachable_hub_keeps_its_own_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("nncf_transformers.data.hub.is_reachable", lambda endpoint: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    error: Exception = ValueError("unknown configuration")
    with pytest.raises(ValueError, match="unknown configuration"):
        load_dataset("nyu-mll/glue", "nope")
    error = ConnectionError("lost half way")
    with pytest.raises(UnreachableError):
        load_dataset("nyu-mll/glue", "mrpc")


def test_sha256_of(write: Write) -> None:
    file = write("abc.txt", "abc")
    assert sha256_of(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
