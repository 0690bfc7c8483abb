"""The demos on a command line: what they print, and how they end."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Result
from exported import heed_ctrl_c, write_pointing_model, write_word_counting_model

from nncf_transformers.errors import UsageError
from scripts import qa_demo, qa_search_demo

LIGHT = "Robert Stevenson built the lighthouse on the reef ."
RHINE = "The Rhine is a river that ends in the sea ."
QUESTION = "Who built the lighthouse ?"
Demo = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, texts = tmp_path_factory.mktemp("models"), [LIGHT, RHINE, QUESTION]
    points = {"Robert": (9.0, 0.0), "Stevenson": (0.0, 9.0)}
    return {
        "qa": write_pointing_model(folder / "qa", texts, points),
        "embedding": write_word_counting_model(folder / "emb", texts),
    }


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "light.txt").write_text(LIGHT)
    (folder / "rhine.txt").write_text(RHINE)
    return folder


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Demo:
    """Run a demo; returns what it printed, and what it said beside."""

    def demo(script: Any, *words: Any, stdin: str | None = "") -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", [script.__file__, *map(str, words)])
        stream = None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin.encode(errors="surrogateescape")))
        monkeypatch.setattr(sys, "stdin", stream)
        capsys.readouterr()
        assert script.main() == 0
        printed = capsys.readouterr()
        return printed.out, printed.err

    return demo


def test_an_answer(demo: Demo, models: dict[str, Path], docs: Path) -> None:
    out, err = demo(qa_demo, "--model", models["qa"], "--input", docs, "--questions", QUESTION, "???")
    lines = out.splitlines()
    assert lines[:4] == [
        f"Q: {QUESTION}",
        "A: Robert Stevenson (score 1.00)",
        f"   {docs}/light.txt, characters 0-16",
        "   **Robert Stevenson** built the lighthouse on the reef .",
    ]
    assert lines[4].endswith(" ms") and lines[6:8] == ["Q: ???", "A: no answer found"]
    assert "read 2 files, 94 characters" in err


def test_json_and_further_answers(demo: Demo, models: dict[str, Path], docs: Path) -> None:
    words = ("--model", models["qa"], "--input", docs / "light.txt", "--best_n", 2, "--json", "--questions")
    out, _ = demo(qa_demo, *words, QUESTION, "Où ?")
    first, second = map(json.loads, out.splitlines())
    assert (first["question"], second["question"]) == (QUESTION, "Où ?")
    answer = first["answers"][0]
    assert answer.pop("score") > 0.9 and len(first["answers"]) == 2 and first["latency_ms"]["read"] > 0
    assert answer == {
        "answer": "Robert Stevenson",
        "source": str(docs / "light.txt"),
        "start": 0,
        "end": 16,
        "excerpt": LIGHT,
    }


def test_questions_from_standard_input(demo: Demo, models: dict[str, Path], docs: Path) -> None:
    words = ("--model", models["qa"], "--input", docs)
    out, err = demo(qa_demo, *words, stdin=f"\n{QUESTION}\n  \n\udcff who\n")
    assert out.count("A: Robert Stevenson") == 2 and err.count("question was empty") == 2
    for stdin in ("", "\n"):
        with pytest.raises(UsageError, match="no question: give --questions"):
            demo(qa_demo, *words, stdin=stdin)
    with pytest.raises(UsageError, match="standard input is closed"):
        demo(qa_demo, *words, stdin=None)


def test_text_from_standard_input(demo: Demo, models: dict[str, Path]) -> None:
    out, _ = demo(qa_demo, "--model", models["qa"], "--input", "-", "--questions", QUESTION, stdin=LIGHT)
    assert "<stdin>, characters 0-16" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--questions", QUESTION, " "), "--questions: one of them is empty"),
        (("--questions", QUESTION, "--max_seq_length", "100"), "max_seq_length 100 leaves 33 tokens"),
        (("--questions", QUESTION, "--max_seq_length", "600"), "takes at most 512 tokens"),
        (("--questions", QUESTION, "--input", "missing.txt"), "missing.txt: no such file"),
        (("--input", "-"), "give the questions as --questions"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str, demo: Demo, models: dict[str, Path], docs: Path) -> None:
    for script, more in ((qa_demo, ()), (qa_search_demo, ("--embedding", models["embedding"]))):
        with pytest.raises(UsageError, match=message):
            demo(script, "--model", models["qa"], "--input", docs, *more, *words)


def test_flags_that_are_no_number(demo: Demo, models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        demo(qa_demo, "--model", models["qa"], "--input", "x", "--best_n", 0)
    assert "argument --best_n: 0 is not a positive number" in capsys.readouterr().err


def test_search(demo: Demo, models: dict[str, Path], docs: Path, tmp_path: Path) -> None:
    words = ("--embedding", models["embedding"], "--input", docs, "--index", tmp_path / "index")
    words += ("--questions", QUESTION)
    out, err = demo(qa_search_demo, *words, "--model", models["qa"])
    lines = out.splitlines()
    assert lines[1] == "A: Robert Stevenson (score 0.60)"
    assert lines[2].startswith(f"   {docs}/light.txt, characters 0-16, distance ")
    assert all(f"{name} " in lines[4] for name in ("embed", "search", "read"))
    assert f"index: 2 passages of 2 files, made anew ({tmp_path}/index)" in err

    out, err = demo(qa_search_demo, *words, "--top", 1)
    assert LIGHT in out and RHINE not in out and "A:" not in out and "read" not in out
    assert "reused, nothing has changed" in err
    (docs / "rhine.txt").write_text(f"{RHINE} {RHINE}")
    assert "updated, 1 passages embedded, 0 files removed" in demo(qa_search_demo, *words)[1]
    assert "made anew" in demo(qa_search_demo, *words, "--rebuild")[1]


def test_search_as_json(demo: Demo, models: dict[str, Path], docs: Path, tmp_path: Path) -> None:
    words = ("--embedding", models["embedding"], "--input", docs, "--index", tmp_path / "index", "--json")
    out, _ = demo(qa_search_demo, *words, "--model", models["qa"], "--questions", QUESTION)
    found = json.loads(out)
    assert [passage["text"] for passage in found["passages"]] == [LIGHT, RHINE]
    assert found["answers"][0]["distance"] == found["passages"][0]["distance"] < found["passages"][1]["distance"]
    assert set(found["latency_ms"]) == {"embed", "search", "read"}
    assert "answers" not in json.loads(demo(qa_search_demo, *words, "--questions", QUESTION)[0])


def test_search_keeps_its_index_in_the_cache(
    demo: Demo, models: dict[str, Path], docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ("--embedding", models["embedding"], "--input", docs, "--questions", QUESTION)
    assert str(tmp_path / "cache") in demo(qa_search_demo, *words)[1]
    assert "reused" in demo(qa_search_demo, *words)[1]
    with pytest.raises(UsageError, match="is a question-answering model; an embedding model is needed"):
        demo(qa_search_demo, *words, "--embedding", models["qa"])


def test_one_line_for_a_mistake(run: Callable[..., Result], models: dict[str, Path]) -> None:
    result = run("scripts/qa_demo.py", "--model", models["qa"], "--input", "-", code=2)
    assert result.error.startswith("error: --input -: ")


def test_terminal(models: dict[str, Path], docs: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, ROOT / "scripts/qa_demo.py", "--model", models["qa"], "--input", docs]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "dumb"}
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(command, **streams, env=environment, preexec_fn=heed_ctrl_c)
    os.close(theirs)
    try:
        seen = _read_until(ours, r"\n> $")
        os.write(ours, f"\n{QUESTION}\n".encode())
        seen += _read_until(ours, r" ms\s+> $")
        # A signal between the prompt and the waiting for a key would be noticed only at the next key.
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        os.close(ours)
    assert "Ctrl-D ends" in seen and "That question was empty." in seen
    assert "\x1b[1mRobert Stevenson\x1b[0m built" in seen and "Traceback" not in seen


def _read_until(terminal: int, pattern: str) -> str:
    seen = ""
    while not re.search(pattern, seen):
        assert select.select([terminal], [], [], 60)[0], seen
        seen += os.read(terminal, 4096).decode()
    return seen
