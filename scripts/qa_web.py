#!/usr/bin/env python
"""A web page that answers questions, with exported models in OpenVINO.

    python scripts/qa_web.py --model runs/qa-openvino
    python scripts/qa_web.py --model runs/qa-openvino --embedding runs/emb-openvino --input docs/
    make qa-web

It prints the page's address, http://127.0.0.1:7860 unless told otherwise, and serves until Ctrl-C. The first form
answers questions on a text that is pasted into the page, the second one also on the documents of a folder (see
scripts/qa_search_demo.py). Nothing leaves this machine, and the page loads nothing from elsewhere.
"""

import argparse
import html
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.update(GRADIO_ANALYTICS_ENABLED="False")

from nncf_transformers.errors import UsageError  # noqa: E402
from scripts.qa_demo import add_reader_flags, positive, reader_settings, run, say  # noqa: E402
from scripts.qa_search_demo import add_search_flags, open_searcher  # noqa: E402

if TYPE_CHECKING:
    from nncf_transformers.reading import Answer, Reader
    from nncf_transformers.retrieval.search import Searcher

# Answers on the page: the best one, and a list below it.
BEST = 5
# Below this score, say that the text may not hold the answer at all; below that, leave an answer out of the list.
UNSURE, NEGLIGIBLE = 0.1, 0.01
DOCUMENTS, TEXT = "My documents", "A text of mine"
EXAMPLE = (
    "The Bell Rock Lighthouse stands on a reef in the North Sea, about 18 kilometres off the coast of Angus in "
    "Scotland. The reef lies under water for most of every tide, so the builders could work for only a few hours a "
    "day, and only in summer. Robert Stevenson led the work, which began in 1807 and took four years. The tower is 35 "
    "metres high and made of granite and sandstone; its stones are cut so that they lock into each other. The light "
    "was first lit on 1 February 1811. It has been automatic since 1988, and runs on solar power today."
)
EXAMPLE_QUESTIONS = ("Who built the lighthouse?", "How tall is the tower?", "Why could they work only a few hours?")
CSS = """
.gradio-container { max-width: 46rem !important; margin: 0 auto !important; }
#result { line-height: 1.55; overflow-wrap: anywhere; }
#result .best { font-size: 1.5rem; line-height: 1.3; font-weight: 600; margin: 0 0 .25rem; }
#result .about, #result .where { color: var(--body-text-color); opacity: .7; font-size: .9rem; }
#result .about { margin: 0 0 .75rem; }
#result blockquote, #result .note { padding: .75rem 1rem; margin: 0 0 1rem; border-radius: 6px;
  background: var(--background-fill-secondary); }
#result blockquote { border-left: 3px solid var(--color-accent); border-radius: 0 6px 6px 0; }
#result mark { background: #ffe27a; color: #1f1f1f; padding: .1em .2em; border-radius: 3px; }
#result ol { list-style: none; margin: 0; padding: 0; }
#result h2 { font-size: 1rem; margin: 0 0 .25rem; }
#result li { display: grid; grid-template-columns: 3.5rem 1fr; padding: .5rem 0; margin: 0;
  border-top: 1px solid var(--border-color-primary); }
#result .where { grid-column: 2; }
"""

# Answers a question, given the choice of where to look, the pasted text and the question, as HTML.
Ask = Callable[[str, str, str], str]


def main() -> int:
    """Load the models and serve the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR", help="exported question-answering model")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=7860, help="0 for any free one (7860)")
    parser.add_argument("--top", type=positive, default=BEST, metavar="N", help="passages to find and read (5)")
    add_search_flags(parser, required=False)
    add_reader_flags(parser)
    args = parser.parse_args()
    if bool(args.embedding) != bool(args.input):
        raise UsageError("--embedding and --input: give both to search documents, or neither")
    if args.input and "-" in args.input:
        raise UsageError("--input -: a web page takes no standard input; name files or folders")
    # Before the models are loaded, which takes longer.
    listener = listen(args.host, args.port)
    say("loading the models ...")
    from nncf_transformers.reading import load_reader

    reader = load_reader(args.model, **reader_settings(args))
    searcher = open_searcher(args) if args.input else None
    serve(listener, page(answerer(reader, searcher, args.top), searcher is not None))
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Take the port, so that a busy one is an error at once.

    Raises:
        UsageError: it cannot be had.
    """
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).split(" (")[0]
        raise UsageError(f"--host {host} --port {port}: {reason}; choose another port, or 0 for any") from error


def answerer(reader: "Reader", searcher: "Searcher | None", top: int) -> Ask:
    """What the page does with a question."""
    from nncf_transformers.retrieval.index import Passage

    def ask(where: str, text: str, question: str) -> str:
        if not question.strip():
            return note("Please type a question.")
        if where == DOCUMENTS and searcher is not None:
            found = searcher.ask(question, top, BEST)
            return answers_html(found.answers, found.milliseconds)
        if not text.strip():
            return note("Please paste a text to look in.")
        start = time.perf_counter()
        # What is no Unicode in a hand-made request would be none in the answer, either.
        passage = Passage("", 0, text.encode(errors="replace").decode())
        answers = reader.answer(question, [passage], BEST)
        return answers_html(answers, {"read": 1e3 * (time.perf_counter() - start)})

    return ask


def answers_html(answers: Sequence["Answer"], milliseconds: dict[str, float]) -> str:
    """The best answer with its passage, and a list of the others; whatever comes from a text is escaped."""
    if not answers:
        return note("No answer found. Try other words, or another text.")
    best, *others = answers
    parts = ", ".join(f"{name} {value:.1f}" for name, value in milliseconds.items())
    times = f"{sum(milliseconds.values()):.0f} ms" + (f" ({parts})" if len(milliseconds) > 1 else "")
    about = " · ".join(filter(None, (f"score {best.score:.2f}", _place(best), times)))
    unsure = "" if best.score >= UNSURE else note("The score is low: the text probably does not tell.")
    further = _further([answer for answer in others if answer.score >= NEGLIGIBLE])
    return (
        f'<div role="status"><p class="best">{html.escape(best.excerpt()[1])}</p><p class="about">{about}</p>{unsure}'
        f"<blockquote>{_marked(best, 400)}</blockquote>{further}</div>"
    )


def note(text: str) -> str:
    """A message in the place of an answer."""
    return f'<p class="note" role="alert">{html.escape(text)}</p>'


def _further(answers: Sequence["Answer"]) -> str:
    if not answers:
        return ""
    rows = "".join(
        f"<li><span>{answer.score:.2f}</span><span>{html.escape(answer.excerpt()[1])}</span>"
        f'<span class="where">{_place(answer)}{": " if answer.passage.source else ""}{_marked(answer, 60)}</span></li>'
        for answer in answers
    )
    return f"<h2>Further answers</h2><ol>{rows}</ol>"


def _marked(answer: "Answer", around: int) -> str:
    before, found, after = map(html.escape, answer.excerpt(around))
    return f"{before}<mark>{found}</mark>{after}"


def _place(answer: "Answer") -> str:
    """File and characters; nothing for a text that is no file."""
    start = answer.passage.start + answer.start
    where = f"{answer.passage.source}, characters {start}-{start + len(answer.text)}"
    return html.escape(where) if answer.passage.source else ""


def page(ask: Ask, documents: bool) -> Any:
    """Put the page together.

    Args:
        ask: answers a question.
        documents: whether there are any to search, besides a pasted text.
    """
    import gradio as gr

    title = "Ask your documents" if documents else "Ask a text"
    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {title}\nThe answer is a piece of the text, word for word.")
        choices = [DOCUMENTS, TEXT] if documents else [TEXT]
        where = gr.Radio(choices, value=choices[0], label="Look in", visible=documents)
        text = gr.Textbox(
            EXAMPLE, label="Text", lines=7, max_lines=16, visible=not documents, elem_id="text", autoscroll=False
        )
        question = gr.Textbox(label="Question", placeholder="Type a question and press Enter", elem_id="question")
        button = gr.Button("Ask", variant="primary", elem_id="ask")
        if not documents:
            gr.Examples([[q] for q in EXAMPLE_QUESTIONS], question, label="For example")
        result = gr.HTML(elem_id="result", label="Answer")
        where.change(lambda choice: gr.update(visible=choice == TEXT), where, text, api_visibility="private")
        gr.on([question.submit, button.click], ask, [where, text, question], result, api_visibility="private")
    return blocks


def serve(listener: socket.socket, blocks: Any) -> None:
    """Serve the page until Ctrl-C."""
    import fastapi
    import gradio as gr
    import uvicorn

    # It warns of its own use of a library, once a question.
    warnings.filterwarnings("ignore", module="gradio")
    # System fonts: those of other themes come from a server on the web.
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
    theme = gr.themes.Default(primary_hue="blue", **fonts)
    app = gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None), blocks, "/", footer_links=[], theme=theme, css=CSS, ssr_mode=False
    )
    host, port = listener.getsockname()[:2]
    say(f"the page is at http://{host}:{port}; Ctrl-C ends")
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)).run(sockets=[listener])


if __name__ == "__main__":
    run(main)
