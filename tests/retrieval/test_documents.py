"""Files become texts, texts become passages, and nothing gets lost on the way."""

import io
import os
import random
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from demo.model import build_vocabulary, write_tokenizer
from nncf_transformers.errors import UsageError
from nncf_transformers.retrieval.documents import Document, read_documents, split

SENTENCE = "A lighthouse stands on the reef."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, build_vocabulary([SENTENCE, "near far"]))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return AutoTokenizer.from_pretrained(folder)


def test_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "z.md").write_text("# Title")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "a.txt").write_bytes("\ufeffÜber".encode())
    (tmp_path / "c.csv").write_text("x,y")
    (tmp_path / ".hidden").write_text("secret")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "latin.txt").write_bytes("Über".encode("latin-1"))
    (tmp_path / "nothing.txt").write_text(" \n")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    documents = read_documents([tmp_path, tmp_path / "a.txt"])
    texts = {"a.txt": "Über", "c.csv": "x,y", "b/z.md": "# Title"}
    assert [(d.name, d.text) for d in documents] == [(str(tmp_path / name), texts[name]) for name in texts]
    assert "no text in UTF-8: 4 (gone.txt, image.png, latin.txt, ...)" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt: is empty"),
        ("a.html", b"<p> </p>", "a.html: is empty"),
        ("a.bin", b"text\0text", "is a binary file, not a text"),
        ("a.bin", b"x" * 10_000 + b"\0", "is a binary file, not a text"),
        ("a.txt", b"abc\xff", r"is not a text in UTF-8 \(byte 3\)"),
        ("folder", None, "no text files in this folder"),
        ("missing/a.txt", None, "no such file"),
    ],
)
def test_nothing_to_read(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    elif name == "folder":
        path.mkdir()
    with pytest.raises(UsageError, match=message):
        read_documents([path])


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("né".encode())))
    assert [(d.name, d.text) for d in read_documents(["-"])] == [("<stdin>", "né")]
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="closed"):
        read_documents(["-"])


def test_html(tmp_path: Path) -> None:
    page = tmp_path / "page.HTML"
    page.write_text(
        "<!doctype html><html><head><title>T</title><style>p {}</style><script>if (a < b) {}</script></head>"
        "<body><h1>Head &amp; shoulders</h1><p>One\n   <b>bold</b>word<br>next<p>Two &lt;b&gt; &#233;"
        "<ul><li>x<li>y</ul><table><tr><td>1<td>2</table><noscript>no</noscript></body>"
    )
    (document,) = read_documents([page])
    assert document.text == "T\n\nHead & shoulders\n\nOne boldword\nnext\n\nTwo <b> é\n\nx\n\ny\n\n1 2"


def test_paragraphs_stay_whole(tokenizer: Any) -> None:
    paragraphs = [f"{SENTENCE} {SENTENCE}", SENTENCE, " ".join([SENTENCE] * 3)]
    text = "\n\n".join(paragraphs)
    # A sentence has 7 tokens: the first two paragraphs fit together, the last one fits alone.
    passages = split(Document("f", text, ""), tokenizer, 21, 4)
    assert [p.text for p in passages] == ["\n\n".join(paragraphs[:2]), paragraphs[2]]
    assert [p.start for p in passages] == [0, text.rindex(paragraphs[2])]
    # Here it does not, and is cut between sentences.
    assert [p.text for p in split(Document("f", text, ""), tokenizer, 14, 4)] == [
        paragraphs[0],
        f"{SENTENCE}\n\n{SENTENCE}",
        f"{SENTENCE} {SENTENCE}",
    ]


def test_long_sentences_are_cut_between_words_and_overlap(tokenizer: Any) -> None:
    text = " ".join(["near far"] * 20)
    passages = split(Document("f", text, ""), tokenizer, 12, 4)
    assert [len(p.text.split()) for p in passages] == [12, 12, 12, 12, 8]
    for one, other in pairwise(passages):
        shared = text[other.start : one.start + len(one.text)]
        assert len(shared.split()) == 4


def test_a_word_longer_than_a_passage(tokenizer: Any) -> None:
    passages = split(Document("f", "x" * 90, ""), tokenizer, 12, 4)
    assert all(len(p.text) <= 12 for p in passages) and passages[-1].start + len(passages[-1].text) == 90


def test_chinese_sentences(tokenizer: Any) -> None:
    text = "灯塔在礁石上。它很高。" * 5
    assert {p.text for p in split(Document("f", text, ""), tokenizer, 11, 4)} == {"灯塔在礁石上。它很高。"}


@pytest.mark.parametrize("seed", range(20))
def test_nothing_gets_lost(seed: int, tokenizer: Any) -> None:
    random.seed(seed)
    parts = ["near", "far", "lighthouse", "é", "灯", " ", " ", "\n", "\n\n", ". ", "! ", "。", "unheardof", '."']
    text = "".join(random.choices(parts, k=random.randint(1, 400)))
    limit = random.randint(5, 40)
    passages = split(Document("f", text, ""), tokenizer, limit, limit // 4)
    covered = [False] * len(text)
    for passage in passages:
        end = passage.start + len(passage.text)
        assert text[passage.start : end] == passage.text == passage.text.strip() != ""
        covered[passage.start : end] = [True] * len(passage.text)
        assert len(tokenizer(passage.text, add_special_tokens=False)["input_ids"]) <= limit + 2
    assert all(seen or re.match(r"\s", c) for seen, c in zip(covered, text, strict=True))
    assert [p.start for p in passages] == sorted(p.start for p in passages)
