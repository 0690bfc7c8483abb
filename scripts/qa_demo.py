#!/usr/bin/env python
"""Answer questions on texts, with an exported question-answering model in OpenVINO.

    python scripts/qa_demo.py --model runs/qa-openvino --input article.txt --questions "Who wrote it?" "When?"
    python scripts/qa_demo.py --model runs/qa-openvino --input notes/            # then type questions
    cat article.txt | python scripts/qa_demo.py --model runs/qa-openvino --input - --questions "Who wrote it?" --json

--model is a folder that --to-openvino wrote, INT8 or not. For every question this is printed: the answer and its score,
its file and its first and last character there, the text around it with the answer **marked**, and the time it took:

    Q: Who wrote it?
    A: Joseph Priestley (score 0.91)
       article.txt, characters 1204-1220
       … "An Account of Further Discoveries in Air", was written by **Joseph Priestley** in 1775 …
       31 ms

The score is a probability between 0 and 1: that the answer starts where it starts, times that it ends where it ends,
among all positions in the piece of text that the model saw at once. A low one says: the text probably does not tell.
Everything is read for every question; with more than a few long texts, scripts/qa_search_demo.py is faster.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# No library behind this calls home, and no model is looked for on a hub.
os.environ.update(HF_HUB_OFFLINE="1", OPENVINO_TELEMETRY_DISABLE="1", TOKENIZERS_PARALLELISM="false")

from nncf_transformers import excepthook  # noqa: E402
from nncf_transformers.errors import UsageError  # noqa: E402

if TYPE_CHECKING:
    from nncf_transformers.reading import Answer


def main() -> int:
    """Load, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR", help="exported question-answering model")
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="PATH",
        help="text, Markdown or HTML files in UTF-8, folders of them, or - for standard input",
    )
    add_common_flags(parser)
    args = parser.parse_args()
    check_questions(args)
    say("loading the model ...")

    from nncf_transformers.reading import load_reader
    from nncf_transformers.retrieval.documents import read_documents
    from nncf_transformers.retrieval.index import Passage

    documents = read_documents(args.input)
    passages = [Passage(document.name, 0, document.text) for document in documents]
    reader = load_reader(args.model, **reader_settings(args))
    size = sum(len(document.text) for document in documents)
    say(f"read {len(documents)} file{'s' * (len(documents) != 1)}, {size:,} characters")

    def ask(question: str) -> None:
        start = time.perf_counter()
        answers = reader.answer(question, passages, args.best_n)
        milliseconds = 1e3 * (time.perf_counter() - start)
        if args.json:
            found = [as_json(answer) for answer in answers]
            print_json({"question": question, "answers": found, "latency_ms": {"read": round(milliseconds, 2)}})
        else:
            print_answers(question, answers)
            print(f"   {milliseconds:.0f} ms\n", flush=True)

    ask_all(args.questions, ask)
    return 0


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of asking, reading and printing, for all demos on a command line."""
    parser.add_argument("--questions", nargs="+", metavar="TEXT", help="default: one a line from standard input")
    parser.add_argument("--best_n", type=positive, default=1, metavar="N", help="answers a question (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a question, a line each")
    add_reader_flags(parser)


def add_reader_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the reading."""
    group = parser.add_argument_group("reading", "all in tokens of the model")
    group.add_argument("--max_seq_length", type=positive, default=384, metavar="N", help="read at once (384)")
    group.add_argument("--doc_stride", type=int, default=128, metavar="N", help="overlap of two such pieces (128)")
    group.add_argument("--max_question_token_num", type=positive, default=64, metavar="N", help="rest is cut (64)")
    group.add_argument("--max_answer_token_num", type=positive, default=30, metavar="N", help="longest answer (30)")


def reader_settings(args: argparse.Namespace) -> dict[str, int]:
    """The flags of the reading as :class:`nncf_transformers.reading.Reader` names them."""
    return {
        "max_seq_length": args.max_seq_length,
        "doc_stride": args.doc_stride,
        "max_question_tokens": args.max_question_token_num,
        "max_answer_tokens": args.max_answer_token_num,
    }


def positive(text: str) -> int:
    """A flag's value that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def check_questions(args: argparse.Namespace) -> None:
    """Find out before anything is loaded that a question cannot be asked."""
    if args.questions is not None and not all(question.strip() for question in args.questions):
        raise UsageError("--questions: one of them is empty; ask something")
    if args.questions is None and "-" in args.input:
        raise UsageError("--input -: the text comes from standard input, so give the questions as --questions")


def ask_all(questions: list[str] | None, ask: Callable[[str], None]) -> None:
    """Ask the questions that were given, or those that are typed."""
    from nncf_transformers.reading import checked_question

    for question in questions if questions is not None else _typed():
        ask(checked_question(question))


def _typed() -> Iterator[str]:
    if sys.stdin is None:
        raise UsageError("standard input is closed; give the questions as --questions")
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    person, asked = sys.stdin.isatty(), False
    if person:
        # Lets a line be edited, and earlier ones be called back.
        import readline  # noqa: F401

        say("Type a question and press Enter; Ctrl-D ends.")
    while True:
        try:
            # A prompt does not belong into a file or a pipe.
            line = input("\n> " if person and sys.stdout.isatty() else "")
        except EOFError:
            if person:
                say("")
            break
        if line.strip():
            asked = True
            yield line
        else:
            say("That question was empty.")
    if not person and not asked:
        raise UsageError("no question: give --questions, or one a line on standard input")


def as_json(answer: "Answer") -> dict[str, Any]:
    """An answer for --json; ``start`` and ``end`` count characters of the source."""
    start = answer.passage.start
    return {
        "answer": answer.text,
        "score": round(answer.score, 6),
        "source": answer.passage.source,
        "start": start + answer.start,
        "end": start + answer.end,
        "excerpt": "".join(answer.excerpt()),
    }


def print_answers(question: str, answers: list["Answer"], notes: list[str] | None = None) -> None:
    """Print answers for people.

    Args:
        question: what was asked.
        answers: the best first.
        notes: for each answer, what to add to its place.
    """
    from nncf_transformers.reading import one_line

    print(f"Q: {one_line(question)}")
    if not answers:
        print("A: no answer found")
    for i, answer in enumerate(answers):
        print(f"{'or' if i else 'A'}: {one_line(answer.text)} (score {answer.score:.2f})")
        print_place(answer.passage.source, answer.passage.start + answer.start, len(answer.text), (notes or {i: ""})[i])
        mark = "\033[1m" if sys.stdout.isatty() else "**"
        before, found, after = answer.excerpt()
        print_text(f"{before}{mark}{found}{chr(27) + '[0m' if mark != '**' else mark}{after}")


def print_place(source: str, start: int, length: int, note: str) -> None:
    """Print where something stands."""
    from nncf_transformers.reading import one_line

    print(f"   {one_line(source)}, characters {start}-{start + length}{note}")


def print_text(text: str) -> None:
    """Print a paragraph as wide as the terminal, if that is not too wide to read."""
    width = min(100, shutil.get_terminal_size().columns)
    print(textwrap.fill(text.strip(), width, initial_indent="   ", subsequent_indent="   "))


def print_json(content: dict[str, Any]) -> None:
    """Print one line of JSON."""
    print(json.dumps(content, ensure_ascii=False), flush=True)


def say(text: str) -> None:
    """Tell a person something that is no result."""
    print(text, file=sys.stderr, flush=True)


def run(main: Callable[[], int]) -> None:
    """Run a script: one line for a user's mistake, none for Ctrl-C or for a reader of the output that went away."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("nncf_transformers").setLevel(logging.INFO)
    excepthook.install()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("")
        sys.exit(130)
    except BrokenPipeError:
        # Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    run(main)
