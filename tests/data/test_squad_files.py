"""Reading SQuAD's own files."""

import json
import logging
from pathlib import Path

import pytest
from squad_like import Write, nested, question

from nncf_transformers.data import SquadExample, load_dataset, read_squad
from nncf_transformers.errors import IntegrityError, UsageError


def test_reads_all_fields_in_order(write: Write) -> None:
    file = write("train.json", nested(question("a", ("cat", 4), ("The cat", 0)), question("b", ("mat", 19))))
    first, second = read_squad(file)
    assert first == SquadExample(
        "a", "Cats", "The cat sat on the mat.", "What is a?", ("cat", "The cat"), (4, 0), is_impossible=False
    )
    assert (second.id, second.answers, second.answer_starts) == ("b", ("mat",), (19,))


def test_impossible_questions_have_no_answers(write: Write) -> None:
    impossible = question("b", ("mat", 19), is_impossible=True)
    examples = read_squad(write("train.json", nested(question("a", ("cat", 4), is_impossible=False), impossible)))
    assert [example.is_impossible for example in examples] == [False, True]
    assert examples[1].answers == ()


def test_reads_flat_files_and_byte_order_marks(write: Write) -> None:
    row = {"id": 7, "context": "a 猫", "question": "q", "answers": {"text": ["猫"], "answer_start": [2]}}
    file = write("flat.json", "\ufeff" + json.dumps({"data": [row]}, ensure_ascii=False))
    assert read_squad(file) == [SquadExample("7", "", "a 猫", "q", ("猫",), (2,))]


def test_misplaced_answers_are_counted_and_kept(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    file = write("train.json", nested(question("a", ("cat", 4)), question("b", ("mat", 999)), question("c", ("x", 0))))
    with caplog.at_level(logging.WARNING):
        assert len(read_squad(file)) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: 2 of 3 answers do not stand at their answer_start (first: question 'b'); they are kept"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ({"data": []}, "has no questions"),
        ({"data": {}}, "is not in SQuAD's format"),
        ([1], "is not in SQuAD's format"),
        ({"data": [{"paragraphs": [{"context": "c"}]}]}, r'data\[0\].paragraphs\[0\] has no "qas"'),
        ({"data": [{"paragraphs": {}}]}, '"paragraphs" that is not a list'),
        (nested({"id": "a"}), r'qas\[0\] has no "question"'),
        (nested({"id": "a", "question": "q", "answers": [{"txt": ""}]}), r'qas\[0\] needs "answers"'),
        (nested(question("a", ("cat", 4)), question("a", ("mat", 19))), "1 questions .* first is 'a'"),
    ],
)
def test_refuses_what_is_not_squad(write: Write, content: object, message: str) -> None:
    file = write("train.json", content)
    with pytest.raises(UsageError, match=message) as caught:
        read_squad(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_truncated_file_names_the_place(write: Write) -> None:
    whole = json.dumps(nested(question("a", ("cat", 4))), indent=1)
    file = write("train.json", whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match=r"train\.json is not valid JSON: .* at line \d+, column \d+; .*truncated"):
        read_squad(file)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_bytes('{"data": "é"}'.encode("latin-1"))
    with pytest.raises(IntegrityError, match=r"not UTF-8 text \(byte 10\)"):
        read_squad(tmp_path / "train.json")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none\.json: No such file"):
        read_squad(tmp_path / "none.json")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_split_without_any_answer_is_refused(write: Write, split: str) -> None:
    file = write("test.json", nested({"id": "a", "question": "q"}))
    with pytest.raises(UsageError, match="none of its 1 questions has an answer"):
        load_dataset("json", data_files={split: str(file)}, field="data")
    assert len(load_dataset("json", data_files={"test": str(file)}, field="data")["test"]) == 1


def test_unanswerable_validation_data_is_fine(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    file = write("dev.json", nested(question("a", is_impossible=True)))
    with caplog.at_level(logging.INFO):
        assert len(load_dataset("json", data_files={"validation": str(file)})["validation"]) == 1
    assert "1 of 1 questions have no answer; the script needs --version_2_with_negative" in caplog.text


def test_ids_must_be_unique_across_the_files_of_a_split(write: Write) -> None:
    files = [str(write(f"{name}.json", nested(question("a", ("cat", 4))))) for name in "xy"]
    with pytest.raises(UsageError, match=r"x\.json, .*y\.json has 1 questions"):
        load_dataset("json", data_files={"train": files})
