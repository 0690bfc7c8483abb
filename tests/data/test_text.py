"""Running text from a folder, as the public WikiText has it."""

import logging
from pathlib import Path

import datasets
import pytest
from squad_like import Write

from nncf_transformers.data import load_dataset, set_local_data
from nncf_transformers.errors import IntegrityError, UsageError

RAW = "wikitext-2-raw-v1"
# As the distribution has it: titles between blank lines, every line with a space before its end.
ARTICLE = " \n = Cats = \n \n The cat sat on the mat . \n A line \x85 with \u2028 others in it \n"
ROWS = ["", " = Cats = \n", "", " The cat sat on the mat . \n", " A line \x85 with \u2028 others in it \n"]


def lines(*words: str) -> str:
    return "".join(f" {word} \n" for word in words)


@pytest.mark.parametrize("path", ["wikitext", "Salesforce/wikitext"])
@pytest.mark.parametrize("folder", ["", "wikitext-2-raw/", "wikitext-2-raw-v1/"])
def test_the_distribution(write: Write, tmp_path: Path, path: str, folder: str) -> None:
    for name in ("train", "valid", "test"):
        write(f"data/{folder}wiki.{name}.raw", ARTICLE)
    set_local_data(tmp_path / "data", need_test=True)
    loaded = load_dataset(path, RAW, token=None, streaming=False, trust_remote_code=False)
    assert list(loaded) == ["test", "train", "validation"], "the hub's order"
    for split in loaded.values():
        assert split.features == datasets.Features({"text": datasets.Value("string")})
        assert split["text"][:] == ROWS


def test_the_rows_are_what_the_original_makes_of_the_file_but_for_blank_lines(write: Write, tmp_path: Path) -> None:
    text = "One\r\n\ttwo \x0b\n\n  \nthree"
    file = write("data/train.txt", text)
    file.write_bytes(text.encode())
    set_local_data(tmp_path / "data", need_test=False, need_validation=False)
    ours = load_dataset("wikitext", RAW, split="train")["text"][:]
    assert ours == ["One\n", "\ttwo \x0b\n", "", "", "three"]


@pytest.mark.parametrize("name", ["valid", "validation", "dev"])
def test_plain_files(write: Write, tmp_path: Path, name: str) -> None:
    write("train.txt", lines("a", "b"))
    write(f"{name}.txt", lines("c"))
    set_local_data(tmp_path, need_test=False)
    loaded = load_dataset("Salesforce/wikitext", RAW)
    assert {split: data["text"][:] for split, data in loaded.items()} == {
        "train": [" a \n", " b \n"],
        "validation": [" c \n"],
    }


def test_raw_and_tokens_are_not_mistaken_for_each_other(write: Write, tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        write(f"wiki.{name}.tokens", lines("a <unk> c"))
    set_local_data(tmp_path, need_test=False)
    assert load_dataset("wikitext", "wikitext-2-v1")["train"]["text"][:] == [" a <unk> c \n"]
    with pytest.raises(UsageError, match=r"expected wiki\.train\.raw, train\.txt; wiki\.train\.tokens is of another"):
        load_dataset("wikitext", RAW)


def test_a_missing_validation_set_is_left_to_the_script(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write("train.txt", lines(*map(str, range(40))))
    set_local_data(tmp_path, need_test=False)
    loaded = load_dataset("wikitext", RAW)
    assert set(loaded) == {"train"}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the script takes --validation_split_percentage" in caplog.text
    # What run_mlm and run_clm do next.
    assert load_dataset("wikitext", RAW, split="train[:5%]")["text"][:] == [" 0 \n", " 1 \n"]
    assert load_dataset("wikitext", RAW, split="train[5%:]")["text"][:] == [f" {i} \n" for i in range(2, 40)]
    assert [row["text"] for row in load_dataset("wikitext", RAW, split="train", streaming=True)][:1] == [" 0 \n"]


@pytest.mark.parametrize(
    ("present", "needs", "missing"),
    [
        ("valid", {"need_train": True, "need_validation": True}, "train"),
        ("test", {"need_train": False, "need_validation": True}, "validation"),
        ("train", {"need_test": True}, "test"),
    ],
)
def test_missing_files_are_named(
    write: Write, tmp_path: Path, present: str, needs: dict[str, bool], missing: str
) -> None:
    write(f"{present}.txt", lines("a"))
    set_local_data(tmp_path, **({"need_test": False} | needs))
    with pytest.raises(UsageError, match=rf"no file for the {missing} split of {RAW} in .*: expected wiki\.") as caught:
        load_dataset("wikitext", RAW)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_run_does_not_need_may_be_missing(write: Write, tmp_path: Path) -> None:
    write("valid.txt", lines("a"))
    set_local_data(tmp_path, need_test=False, need_train=False)
    assert set(load_dataset("wikitext", RAW)) == {"validation"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "wikitext needs a configuration: pass --dataset_config_name, one of wikitext-2-raw-v1, "),
        ("wikitext-3", "wikitext has no configuration 'wikitext-3': pass --dataset_config_name, one of "),
    ],
)
def test_configurations(write: Write, tmp_path: Path, name: str | None, message: str) -> None:
    write("train.txt", lines("a"))
    set_local_data(tmp_path, need_test=False)
    with pytest.raises(UsageError, match=message):
        load_dataset("wikitext", name)


def test_files_without_text(write: Write, tmp_path: Path) -> None:
    write("train.txt", " \n\n")
    set_local_data(tmp_path, need_test=False)
    with pytest.raises(UsageError, match=r"train\.txt has no text: it cannot serve as the train split"):
        load_dataset("wikitext", RAW)
    (tmp_path / "train.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(IntegrityError, match=r"train\.txt is not UTF-8 text \(byte 3\)"):
        load_dataset("wikitext", RAW)


def test_map_is_cached_until_the_file_changes(write: Write, tmp_path: Path) -> None:
    write("train.txt", lines("a"))
    set_local_data(tmp_path, need_test=False)
    first = load_dataset("wikitext", RAW)["train"]._fingerprint
    assert load_dataset("Salesforce/wikitext", RAW)["train"]._fingerprint == first
    write("train.txt", lines("b"))
    assert load_dataset("wikitext", RAW)["train"]._fingerprint != first


def test_txt_files_without_validation_are_split_as_the_original_does(write: Write) -> None:
    files = {"train": str(write("train.txt", lines(*map(str, range(40)))))}
    part = load_dataset("text", data_files=files, split="train[:5%]", keep_linebreaks=True)
    assert part["text"][:] == [" 0 \n", " 1 \n"]


def test_too_small_a_part_is_named(write: Write, tmp_path: Path) -> None:
    file = write("train.txt", lines("a", "b", "c"))
    message = r"^train\[:5%\] has no row, the data are too few for it: give a validation file"
    with pytest.raises(UsageError, match=message):
        load_dataset("text", data_files={"train": str(file)}, split="train[:5%]")
    set_local_data(tmp_path, need_test=False)
    with pytest.raises(UsageError, match=message):
        load_dataset("wikitext", RAW, split="train[:5%]")
