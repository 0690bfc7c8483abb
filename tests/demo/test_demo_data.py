"""The generated data are what they claim: reproducible, answerable, with nothing of dev in train."""

import csv
import hashlib
import json

import pytest
from transformers import AutoTokenizer

from demo.data import PAIRS, PARAGRAPHS, REVIEWS, generate, split_people
from demo.pairs import LABELS


def checksums(folder):
    """Return the sha256 of each file by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def paragraphs(folder, split):
    data = json.loads((folder / "squad" / f"{split}-v1.1.json").read_text(encoding="utf-8"))["data"]
    return [paragraph for article in data for paragraph in article["paragraphs"]]


def test_same_seed_gives_same_bytes(demo_dir, tmp_path):
    generate(tmp_path / "again", seed=0, size="tiny")
    generate(tmp_path / "other", seed=1, size="tiny")
    first, again, other = (checksums(folder) for folder in (demo_dir, tmp_path / "again", tmp_path / "other"))
    assert again == first
    assert other.keys() == first.keys()
    assert other["squad/train-v1.1.json"] != first["squad/train-v1.1.json"]
    assert other["model/model.safetensors"] != first["model/model.safetensors"]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_answers_stand_where_they_should(demo_dir, split):
    found = paragraphs(demo_dir, split)
    assert len(found) == PARAGRAPHS["tiny"][split]
    ids = [item["id"] for paragraph in found for item in paragraph["qas"]]
    assert len(set(ids)) == len(ids)
    for paragraph in found:
        for item in paragraph["qas"]:
            (answer,) = item["answers"]
            assert paragraph["context"][answer["answer_start"] :].startswith(answer["text"])
            assert answer["text"]


def test_splits_share_neither_paragraphs_nor_people(demo_dir):
    train, dev = ({p["context"] for p in paragraphs(demo_dir, split)} for split in ("train", "dev"))
    assert not train & dev
    parts = split_people(seed=0)
    names = {split: {str(person) for person in persons} for split, persons in parts.items()}
    assert not names["train"] & names["dev"] and not names["train"] & names["test"]
    assert not any(name in context for name in names["dev"] for context in train)


def test_tables_have_their_columns_and_labels(demo_dir):
    for split, count in PAIRS["tiny"].items():
        rows = read_table(demo_dir / "xnli" / "en" / f"{split}.tsv")
        assert len(rows) == count
        assert {row["label"] for row in rows} == set(LABELS)
    for split in ("train", "dev"):
        rows = read_table(demo_dir / "glue" / "SST-2" / f"{split}.tsv")
        assert len(rows) == REVIEWS["tiny"][split]
        assert {row["label"] for row in rows} == {"0", "1"}
    assert list(read_table(demo_dir / "glue" / "SST-2" / "test.tsv")[0]) == ["index", "sentence"]


def test_vocabulary_covers_all_texts(demo_dir):
    tokenizer = AutoTokenizer.from_pretrained(demo_dir / "model")
    for paragraph in paragraphs(demo_dir, "train") + paragraphs(demo_dir, "dev"):
        assert tokenizer.unk_token not in tokenizer.tokenize(paragraph["context"])
