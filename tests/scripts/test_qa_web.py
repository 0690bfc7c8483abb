"""The web page, in a real browser: it answers, it says what is missing, and it talks to nobody else."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import ROOT
from exported import heed_ctrl_c, write_pointing_model, write_word_counting_model

from nncf_transformers.errors import UsageError
from nncf_transformers.reading import Answer
from nncf_transformers.retrieval.index import Passage
from scripts.qa_web import DOCUMENTS, TEXT, answerer, answers_html, listen

TEXT_OF_MINE = "Robert Stevenson built <b>the</b> lighthouse ."
RHINE = "Robert Stevenson never saw the Rhine , a river ."
QUESTION = "Who built the lighthouse ?"
# None of these changes what is tested; they keep a browser from calling home.
BROWSER = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def test_texts_are_escaped() -> None:
    passage = Passage("<i>.txt", 0, "a <script>alert(1)</script> & <b>bold</b>")
    answers = [Answer("<b>bold</b>", 0.5, passage, 30, 41), Answer("<script>", 0.2, passage, 2, 10)]
    page = answers_html(answers, {"read": 3.2})
    assert not re.search("<(b|i|script)>", page)
    assert "<mark>&lt;b&gt;bold&lt;/b&gt;</mark>" in page and "&lt;i&gt;.txt, characters 30-41 · 3 ms" in page


def test_messages() -> None:
    ask = answerer(None, None, 5)
    assert "type a question" in ask(TEXT, "text", "  ") and "paste a text" in ask(TEXT, " ", "who")
    assert "paste a text" in ask(DOCUMENTS, "", "who")
    assert "No answer found" in answers_html([], {"read": 0.0})
    passage = Passage("", 0, "a b c")
    page = answers_html([Answer("a", 0.05, passage, 0, 1), Answer("b", 0.001, passage, 2, 3)], {"read": 1.0})
    assert "score is low" in page and "Further answers" not in page


def test_busy_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy, pytest.raises(UsageError, match="choose another port"):
        listen("127.0.0.1", busy.getsockname()[1])
    for host, port in (("127.0.0.1", 70_000), ("no such host", 0)):
        with pytest.raises(UsageError, match="choose another"):
            listen(host, port)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page over a text and documents; afterwards, Ctrl-C must end it quietly."""
    folder, texts = tmp_path_factory.mktemp("web"), [TEXT_OF_MINE, RHINE, QUESTION]
    points = {"Robert": (9.0, 0.0), "Stevenson": (0.0, 9.0)}
    model = write_pointing_model(folder / "qa", texts, points)
    embedding = write_word_counting_model(folder / "emb", texts)
    (folder / "docs").mkdir()
    (folder / "docs" / "rhine.txt").write_text(RHINE)
    words = ["--model", model, "--embedding", embedding, "--input", folder / "docs", "--index", folder / "index"]
    command = [sys.executable, ROOT / "scripts/qa_web.py", *words, "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heed_ctrl_c)
    assert process.stderr is not None
    try:
        said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        yield found[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().strip() == ""
    finally:
        process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, which drives a browser, is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no browser is installed (chromium, chromium-browser or google-chrome)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=BROWSER.split())
        yield browser
        browser.close()


@pytest.mark.slow
def test_page(address: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    # A busy machine is slow, and that is no mistake of the page.
    page.set_default_timeout(120_000)
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    result = page.locator("#result")

    # The documents, by keyboard alone.
    question = page.get_by_label("Question", exact=True)
    for _ in range(20):
        # The box is there before it listens.
        question.press("Enter")
        page.wait_for_timeout(500)
        if result.get_by_text("Please type a question.").is_visible():
            break
    else:
        pytest.fail("an empty question got no message")
    question.fill(QUESTION)
    question.press("Enter")
    result.get_by_text("rhine.txt, characters 0-16").wait_for()
    assert result.locator(".best").inner_text() == "Robert Stevenson"
    assert result.locator("blockquote mark").inner_text() == "Robert Stevenson"
    assert re.search(r"score 1\.00 .* \d+ ms", result.locator(".about").inner_text())

    # A text, with the button.
    page.get_by_label(TEXT).check()
    text = page.get_by_label("Text", exact=True)
    text.fill("")
    page.get_by_role("button", name="Ask").click()
    result.get_by_text("Please paste a text").wait_for()
    text.fill(TEXT_OF_MINE)
    page.get_by_role("button", name="Ask").click()
    result.get_by_text("built <b>the</b> lighthouse .").wait_for()
    question.fill("🙂?")
    question.press("Enter")
    result.get_by_text("No answer found").wait_for()

    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "wider than a phone"
    assert {urlsplit(url).hostname for url in requests if not url.startswith(("data:", "blob:"))} == {"127.0.0.1"}
    assert errors == []
