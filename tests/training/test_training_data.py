"""Features of questions and contexts, against a slow and direct computation."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from demo.model import build_vocabulary, write_tokenizer
from nncf_transformers.data import SquadExample
from nncf_transformers.errors import UsageError
from nncf_transformers.training.data import (
    Encoded,
    check_lengths,
    cut_questions,
    encode_answers,
    encode_texts,
    retrieval_of,
)

CONTEXT = (
    "Zoë Müller-Lüdenscheidt, née O'Hara, moved to Zürich in 1987; there she wrote 3,141 letters (all of them unsent), "
    "two operas and “Das kleine Öl”. Her neighbour 王小明 kept bees. She died at 92 — or 93 — in Genève, unforgotten."
)
QUESTION = "Where did Zoë move in 1987?"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    # Long words fall into characters: an answer may end within a word.
    write_tokenizer(folder, build_vocabulary([CONTEXT.replace("letters", ""), QUESTION]))
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def roberta() -> Any:
    made = ByteLevelBPETokenizer()
    made.train_from_iterator([CONTEXT, QUESTION], vocab_size=330, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    made._tokenizer.post_processor = roberta_processing(made)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=made._tokenizer, **names)
    fast.model_input_names = ["input_ids", "attention_mask"]
    return fast


def roberta_processing(tokenizer: Any) -> Any:
    from tokenizers.processors import RobertaProcessing

    return RobertaProcessing(("</s>", tokenizer.token_to_id("</s>")), ("<s>", tokenizer.token_to_id("<s>")))


def example(answer: str | None, context: str = CONTEXT, question: str = QUESTION, **more: Any) -> SquadExample:
    if answer is None:
        return SquadExample("q", "", context, question)
    return SquadExample("q", "", context, question, (answer,), (more.pop("start", context.index(answer)),), **more)


def rows(data: Encoded) -> list[dict[str, list[int]]]:
    """Features of each text alone, without padding."""
    return [{name: value[0].tolist() for name, value in data.batch([i]).items()} for i in range(len(data))]


def row_labels(row: dict[str, Any]) -> tuple[int, int]:
    return row["start_positions"], row["end_positions"]


def labelled(data: Encoded) -> list[tuple[list[int], tuple[int, int]]]:
    found = []
    for i in range(len(data)):
        row = data.batch([i])
        found.append((row["input_ids"][0].tolist(), (int(row["start_positions"]), int(row["end_positions"]))))
    return found


def directly(
    tokenizer: Any, one: SquadExample, *, length: int, stride: int, specials: int
) -> Iterator[tuple[list[int], tuple[int, int]]]:
    """Windows and labels: token after token, character after character."""
    question = tokenizer(one.question.lstrip(), add_special_tokens=False)["input_ids"]
    encoded = tokenizer(one.context, add_special_tokens=False, return_offsets_mapping=True)
    tokens, spans = encoded["input_ids"], encoded["offset_mapping"]
    room, begin = length - len(question) - specials, 0
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    while True:
        part = tokens[begin : begin + room]
        head = [cls, *question, *[sep] * (specials - 2)]
        label = (0, 0)
        if one.answers:
            first, last = one.answer_starts[0], one.answer_starts[0] + len(one.answers[0]) - 1
            holding = [[i for i in range(len(part)) if in_span(spans[begin + i], c)] for c in (first, last)]
            if all(holding):
                label = (len(head) + holding[0][-1], len(head) + holding[1][0])
        yield [*head, *part, sep], label
        if begin + room >= len(tokens):
            return
        begin += room - stride


def in_span(span: tuple[int, int], character: int) -> bool:
    return span[0] <= character < span[1]


ANSWERS = [
    "Zoë",
    "Zürich",
    "1987",
    "3,141 letters",
    "Öl",
    "王小明",
    "unforgotten",
    "unforgotten.",
    "née O'Hara",
    "wrote 3,141 letters (all of them unsent), two operas",
    CONTEXT,
    None,
]


@pytest.mark.parametrize(("length", "stride"), [(200, 20), (40, 9), (30, 0), (24, 5), (23, 8)])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_windows_and_labels(tokenizer: Any, roberta: Any, kind: str, length: int, stride: int) -> None:
    used, specials = (tokenizer, 3) if kind == "bert" else (roberta, 4)
    question = QUESTION if kind == "bert" else " Zoë?"
    examples = [example(answer, question=question) for answer in ANSWERS]
    data = encode_answers(used, examples, max_question=10, max_length=length, stride=stride)
    expected = [
        window for one in examples for window in directly(used, one, length=length, stride=stride, specials=specials)
    ]
    assert labelled(data) == expected
    found = [label != (0, 0) for _, label in expected]
    # Some windows hold their answer, and some do not.
    assert any(found) and not all(found)


def test_every_answer_is_found_in_the_text(tokenizer: Any) -> None:
    for answer in filter(None, ANSWERS):
        data = encode_answers(tokenizer, [example(answer)], max_question=10, max_length=250, stride=0)
        ((ids, (start, end)),) = labelled(data)
        inside = tokenizer(answer, add_special_tokens=False)["input_ids"]
        assert ids[start : end + 1] == inside


def test_an_answer_within_a_word_takes_the_tokens_that_hold_it(tokenizer: Any) -> None:
    # "letters" is not in the vocabulary: one token a character.
    data = encode_answers(tokenizer, [example("tter")], max_question=10, max_length=250, stride=0)
    ((ids, (start, end)),) = labelled(data)
    assert tokenizer.convert_ids_to_tokens(ids[start : end + 1]) == ["##t", "##t", "##e", "##r"]
    # "Müller" is one: all of it.
    data = encode_answers(tokenizer, [example("ülle")], max_question=10, max_length=250, stride=0)
    ((ids, (start, end)),) = labelled(data)
    assert tokenizer.convert_ids_to_tokens(ids[start : end + 1]) == ["Müller"]


def test_the_first_answer_counts_and_an_unknown_place_is_none(tokenizer: Any) -> None:
    lengths = {"max_question": 10, "max_length": 250, "stride": 0}
    two = SquadExample("q", "", "a b c d", "a?", ("c", "a"), (4, 0))
    unknown = SquadExample("q", "", "a b c d", "a?", ("c",), (-1,))
    first, second = (labelled(encode_answers(tokenizer, [one], **lengths))[0] for one in (two, unknown))
    assert tokenizer.convert_ids_to_tokens(first[0])[first[1][0]] == "c" and first[1][0] == first[1][1]
    assert second[1] == (0, 0)


def test_many_examples_give_what_each_of_them_gives(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nncf_transformers.training.data._CHUNK", 5)
    lengths = {"max_question": 10, "max_length": 30, "stride": 4}
    together = encode_answers(tokenizer, [example(answer) for answer in ANSWERS], **lengths)
    alone = [row for answer in ANSWERS for row in labelled(encode_answers(tokenizer, [example(answer)], **lengths))]
    assert labelled(together) == alone


def test_questions_are_cut(tokenizer: Any) -> None:
    words = "Where did Zoë move in 1987?"
    assert cut_questions(tokenizer, [words, words, "", "Zoë"], 3) == ["Where did Zoë", "Where did Zoë", "", "Zoë"]
    assert cut_questions(tokenizer, [words], 7) == [words] and cut_questions(tokenizer, [words], 6) == [words[:-1]]
    # Within a word that is several tokens.
    assert cut_questions(tokenizer, ["letters"], 4) == ["lett"]
    data = encode_answers(
        tokenizer, [example("Zürich", question="  " + words)], max_question=3, max_length=99, stride=0
    )
    tokens = tokenizer.convert_ids_to_tokens(data.batch([0])["input_ids"][0])
    assert tokens[:6] == ["[CLS]", "Where", "did", "Zoë", "[SEP]", "Zoë"]


def test_a_question_in_no_language_and_an_empty_one(tokenizer: Any) -> None:
    for question in ("", "   ", "\u200b\u0000", "😀😀😀"):
        data = encode_answers(
            tokenizer, [example("Zürich", question=question)], max_question=10, max_length=99, stride=0
        )
        row = data.batch([0])
        place = int(row["start_positions"])
        assert tokenizer.convert_ids_to_tokens(row["input_ids"][0].tolist())[place] == "Zürich"


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((64, 67, 0), "--max_seq_length_q 64 and --max_seq_length_c 67: leave no token"),
        ((64, 68, 0), "--max_seq_length_q 64 and --max_seq_length_c 68: leave no token"),
        ((0, 68, 0), "--max_seq_length_q 0"),
        ((64, 128, 60), "--doc_stride 60: windows of 60 context tokens"),
    ],
)
def test_lengths_that_leave_no_room_are_refused(lengths: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_lengths(*lengths)


def test_the_tightest_lengths_work(tokenizer: Any, roberta: Any) -> None:
    check_lengths(64, 69, 0)
    check_lengths(64, 128, 59)
    long = "Where did Zoë move in 1987? " * 3
    for used in (tokenizer, roberta):
        for length, stride in ((13, 0), (14, 1), (20, 7)):
            data = encode_answers(
                used, [example("Zürich", question=long)], max_question=8, max_length=length, stride=stride
            )
            assert max(data.length(i) for i in range(len(data))) <= length
            assert any(label != (0, 0) for _, label in labelled(data)) or used is roberta


def test_batches_are_padded_to_their_longest(tokenizer: Any) -> None:
    data = encode_texts(tokenizer, ["Zoë", "Zoë moved to Zürich", "in"], 5, owner=[7, 8, 9])
    assert [data.length(i) for i in range(3)] == [3, 5, 3] and len(data) == 3
    batch = data.batch([1, 2])
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "owner"}
    assert batch["owner"].tolist() == [8, 9] and all(value.dtype == torch.int64 for value in batch.values())
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    # Cut, with the last token a [SEP] all the same.
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) == ["[CLS]", "Zoë", "moved", "to", "[SEP]"]
    assert batch["input_ids"][1, 3:].tolist() == [tokenizer.pad_token_id] * 2
    assert data.batch([2, 0])["input_ids"].shape == (2, 3)
    # A batch does not change the texts.
    assert data.batch([2])["input_ids"].shape == (1, 3)


def test_padding_of_a_tokenizer_without_token_types(roberta: Any) -> None:
    assert roberta.pad_token_id == 1
    batch = encode_texts(roberta, ["Zoë", "moved to Zürich"], 50).batch([0, 1])
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"][0, -1] == 1 and batch["attention_mask"][0, -1] == 0


def test_retrieval_pairs_questions_with_contexts(caplog: pytest.LogCaptureFixture) -> None:
    examples = [
        example("b", "a b", " one? "),
        example("c", "c d", "two?"),
        example(None, "e f", "three?"),
        example("a", "a b", "four?"),
    ]
    with caplog.at_level(logging.INFO, logger="nncf_transformers"):
        found = retrieval_of(examples, Path("train.json"))
    assert found.questions == ["one?", "two?", "four?"]
    # One that answers nothing is a candidate all the same.
    assert found.contexts == ["a b", "c d", "e f"] and found.owners == [0, 1, 0]
    assert "train.json: 1 questions have no answer" in caplog.text


def test_retrieval_needs_something_to_tell_apart() -> None:
    for examples in ([example("a", "a b"), example("b", "a b")], [example(None, "a b"), example(None, "c d")], []):
        with pytest.raises(UsageError, match=r"dev.json: has \d contexts with \d questions"):
            retrieval_of(examples, "dev.json")
