"""What benchmarks/language.py computes itself: its texts, its tokenizer, its command lines, its table."""

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import language
from benchmarks.harness import RUNTIMES
from nncf_transformers.errors import UsageError

# Three articles, and lines with more equality signs that are no titles.
ARTICLES = [f" = Article {i} = \n \n The text of it is {i} words long . \n = = Part = = \n Yes . \n" for i in range(3)]


def test_no_article_is_on_both_sides() -> None:
    text = "".join(ARTICLES)
    for part, held_out in ((0.34, ARTICLES[2:]), (0.5, ARTICLES[2:]), (0.7, ARTICLES[1:])):
        train, valid = language.split_text(text, part)
        assert (train, valid) == (text.removesuffix("".join(held_out)), "".join(held_out))


@pytest.mark.parametrize("text", ["no article at all\n" * 9, ARTICLES[0]])
def test_a_text_that_cannot_be_split(text: str) -> None:
    with pytest.raises(UsageError, match=r"no article begins in the last 10 %.*wiki\.train\.raw"):
        language.split_text(text, 0.1)


def test_tokenizer_and_blocks(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    text = "".join(ARTICLES) + " Zürich – 東京 \n"
    language.train_tokenizer(text, 300, 16, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert 257 < len(tokenizer) <= 300 and tokenizer.model_max_length == 16
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (language.END, 0)
    blocks = language.blocks_of(tokenizer, text, 16)
    assert blocks.dtype == np.int64 and blocks.shape[1] == 16
    # Bytes, so nothing is unknown and nothing gets lost but the remainder.
    assert text.startswith(tokenizer.decode(blocks.ravel()).rstrip("\ufffd"))
    assert len(tokenizer(text)["input_ids"]) - blocks.size < 16
    batches = list(language.batches_of(blocks, 4))
    assert np.array_equal(np.concatenate([batch["labels"] for batch in batches]), blocks)
    assert all(batch["input_ids"].shape[0] <= 4 and batch["attention_mask"].all() for batch in batches)
    with pytest.raises(UsageError, match="fewer than a block of 16"):
        language.blocks_of(tokenizer, "Yes .\n", 16)


def test_tokenizer_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        language.train_tokenizer("".join(ARTICLES), 300, 16, tmp_path / name)
    first, second = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("a", "b"))
    assert first == second


def test_texts_of_a_folder_and_of_a_file(tmp_path: Path) -> None:
    for split, article in (("train", 0), ("valid", 1)):
        (tmp_path / f"wiki.{split}.raw").write_text(ARTICLES[article])
    files = language._texts(tmp_path, 0.4, tmp_path / "out")
    assert {name: file.read_text() for name, file in files.items()} == {"train": ARTICLES[0], "valid": ARTICLES[1]}
    (tmp_path / "whole.txt").write_text("".join(ARTICLES), newline="\r\n")
    files = language._texts(tmp_path / "whole.txt", 0.4, tmp_path / "out")
    assert list(files) == ["text", "train", "valid"] and files["valid"].read_bytes() == ARTICLES[2].encode()
    with pytest.raises(UsageError, match=r"cannot read .*wiki\.train\.raw"):
        language._texts(tmp_path / "out", 0.4, tmp_path / "out")


def test_every_row_starts_from_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: dict[str, list[str]] = {}

    def run(command: list[Any], log: Path) -> float:
        commands[log.stem] = [str(word) for word in command]
        return 1.2

    monkeypatch.setattr(language, "run", run)
    rows = [
        {"name": "a", "arguments": {"max_steps": 3}},
        {"name": "b", "start": "a", "config": "c.json", "arguments": {"max_steps": 0, "learning_rate": 0.1}},
    ]
    settings = {"training": {"learning_rate": 0.5}, "rows": rows}
    (tmp_path / "text").write_text("a text")

    def train(reuse: bool) -> dict[str, int]:
        made = language._made_already(tmp_path, settings, tmp_path / "text", reuse)
        language._train(made, ["run"], ["--new"], tmp_path)
        seconds: dict[str, int] = made["seconds"]
        return seconds

    assert train(reuse=True) == {"a": 1, "b": 1}
    new, further = (shlex.join(words) for words in commands.values())
    assert "--new" in new and "--model_name_or_path" not in new and "--nncf-config" not in new
    assert "--learning_rate 0.5 --max_steps 3" in new
    assert f"--model_name_or_path {tmp_path}/a --nncf-config {language.ROOT}/c.json" in further
    assert "--new" not in further and "--learning_rate 0.1 --max_steps 0" in further
    assert f"--to-onnx {tmp_path}/b.onnx --to-openvino {tmp_path}/b-openvino" in further
    # What is there stays, and so does the time that it took; unless it was made from something else.
    commands.clear()
    assert train(reuse=True) == {"a": 1, "b": 1} and not commands
    assert train(reuse=False) == {"a": 1, "b": 1} and list(commands) == ["a", "b"]
    (tmp_path / "text").write_text("another")
    with pytest.raises(UsageError, match="made with other settings or another text; leave it out"):
        train(reuse=True)


def test_table_compares_with_the_first_row_in_torch() -> None:
    def result(title: str, perplexity: float) -> dict[str, Any]:
        figures = {name: perplexity + i for i, name in enumerate(RUNTIMES)}
        return {"title": title, "perplexity": figures, "size_mb": figures, "latency_ms": figures}

    results = {"a": result("FP32", 100.0), "b": result("INT8", 104.0), "c": result("another", 99.9999)}
    lines = language.table({"results": results, "settings": {"block": 64}}).splitlines()
    assert lines[0].endswith("| latency ms (1 × 64) |") and len(lines) == 2 + 3 * len(RUNTIMES)
    assert lines[2] == "| FP32 | torch | 100.00 | +0.00 % | 100.0 | 100.0 |"
    assert lines[6].startswith("| INT8 | ONNX Runtime | 105.00 | +5.00 % |")
    assert "| +0.00 % |" in lines[8]


def test_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["language.py", "--name", "n", "--data", "d"]
    monkeypatch.setattr(sys, "argv", words)
    args = language._parse()
    assert (args.data, args.held_out, args.tokenizer, args.reuse) == (Path("d"), 10, None, False)
    monkeypatch.setattr(sys, "argv", [*words, "--held-out", "100"])
    with pytest.raises(SystemExit):
        language._parse()
    assert "--held-out 100: takes percent" in capsys.readouterr().err
