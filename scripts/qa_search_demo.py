#!/usr/bin/env python
"""Search documents for the answer to a question, with exported embedding and question-answering models in OpenVINO.

    python scripts/qa_search_demo.py --embedding runs/emb-openvino --model runs/qa-openvino --input docs/ \\
        --questions "Who discovered oxygen?"
    python scripts/qa_search_demo.py --embedding runs/emb-openvino --input docs/      # passages only; type questions

The documents are split into passages, and the embedding model makes a vector of each. These are kept on disk, and made
again only for files that have changed. A question becomes a vector, too; in the passages with the nearest vectors (L2
distance) the other model reads the answer. For every question this is printed: answer, score, its file and its first
and last character there, the distance of its passage, the text around it with the answer **marked**, and the time that
each of the three steps took:

    Q: Who discovered oxygen?
    A: Joseph Priestley (score 0.91)
       docs/oxygen.txt, characters 1204-1220, distance 0.62
       … oxygen was discovered by **Joseph Priestley** in 1774 …
       9 ms: embed 2 ms, search 0.1 ms, read 7 ms

The score is a probability between 0 and 1: that the passage is the right one of those found, by their distances, times
that the answer starts where it starts, times that it ends where it ends, among all positions in its passage. A low one
says: the passages probably do not tell. A distance says how far a passage is from the question, and means something
beside other distances of the same model only.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.qa_demo import (  # noqa: E402
    add_common_flags,
    as_json,
    ask_all,
    check_questions,
    positive,
    print_answers,
    print_json,
    print_place,
    print_text,
    reader_settings,
    run,
    say,
)

if TYPE_CHECKING:
    from nncf_transformers.retrieval.search import Found, Searcher


def main() -> int:
    """Open the index, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="DIR", help="exported question-answering model; without, passages only")
    add_search_flags(parser, required=True)
    parser.add_argument("--top", type=positive, default=5, metavar="N", help="passages to find and read (5)")
    add_common_flags(parser)
    args = parser.parse_args()
    check_questions(args)
    say("loading the models ...")
    searcher = open_searcher(args)

    def ask(question: str) -> None:
        found = searcher.ask(question, args.top, args.best_n)
        if args.json:
            _print_json(question, found, read=args.model is not None)
        else:
            _print(question, found, read=args.model is not None)

    ask_all(args.questions, ask)
    return 0


def add_search_flags(parser: argparse.ArgumentParser, required: bool) -> None:
    """The flags that say what is searched, and with what."""
    group = parser.add_argument_group("documents")
    group.add_argument("--embedding", required=required, metavar="DIR", help="exported embedding model")
    group.add_argument(
        "--input",
        required=required,
        nargs="+",
        metavar="PATH",
        help="folders or files to search: text, Markdown or HTML in UTF-8",
    )
    group.add_argument("--index", metavar="DIR", help="where the vectors are kept (a folder in your cache)")
    group.add_argument("--rebuild", action="store_true", help="make all vectors again")
    group.add_argument(
        "--passage_tokens", type=positive, metavar="N", help="longest passage, in tokens of the embedding model (192)"
    )


def open_searcher(args: argparse.Namespace) -> "Searcher":
    """Load the models, read the documents, open or make the index, and say which of these it was."""
    from nncf_transformers.reading import load_reader
    from nncf_transformers.retrieval.documents import read_documents
    from nncf_transformers.retrieval.search import (
        PASSAGE_TOKENS,
        Searcher,
        default_folder,
        load_embedder,
        open_index,
    )

    documents = read_documents(args.input)
    embedder = load_embedder(args.embedding)
    reader = load_reader(args.model, **reader_settings(args)) if args.model else None
    folder = args.index or default_folder(args.input, embedder)
    length = args.passage_tokens or PASSAGE_TOKENS
    opened = open_index(documents, embedder, folder, passage_tokens=length, rebuild=args.rebuild)
    count, files = len(opened.index.passages), len(documents)
    if not opened.embedded and not opened.removed:
        done = "reused, nothing has changed"
    elif opened.embedded == count:
        done = "made anew"
    else:
        done = f"updated, {opened.embedded:,} passages embedded, {opened.removed:,} files removed"
    say(f"index: {count:,} passages of {files:,} file{'s' * (files != 1)}, {done} ({folder})")
    searcher = Searcher(opened.index, embedder, reader)
    # The first call of a model takes much longer than any other, and says nothing of its speed.
    searcher.ask("Is anybody here?")
    return searcher


def _print(question: str, found: "Found", read: bool) -> None:
    from nncf_transformers.reading import one_line

    if read or not found.hits:
        print_answers(question, found.answers, [f", distance {found.distance(a):.2f}" for a in found.answers])
    else:
        print(f"Q: {one_line(question)}")
        for hit in found.hits:
            print_place(hit.passage.source, hit.passage.start, len(hit.passage.text), f", distance {hit.distance:.2f}")
            print_text(_shortened(hit.passage.text))
    parts = ", ".join(f"{name} {value:.1f} ms" for name, value in found.milliseconds.items())
    print(f"   {sum(found.milliseconds.values()):.1f} ms{f': {parts}' if parts else ''}\n", flush=True)


def _print_json(question: str, found: "Found", read: bool) -> None:
    passages = [
        {
            "source": hit.passage.source,
            "start": hit.passage.start,
            "end": hit.passage.start + len(hit.passage.text),
            "distance": round(hit.distance, 6),
            "text": hit.passage.text,
        }
        for hit in found.hits
    ]
    content = {"question": question, "passages": passages}
    if read:
        answers = [as_json(answer) | {"distance": round(found.distance(answer), 6)} for answer in found.answers]
        content["answers"] = answers
    times = {name: round(value, 2) for name, value in found.milliseconds.items()}
    print_json(content | {"latency_ms": times})


def _shortened(text: str) -> str:
    from nncf_transformers.reading import one_line

    text = one_line(text)
    return text if len(text) <= 400 else f"{text[:400].rsplit(' ', 1)[0]} …"


if __name__ == "__main__":
    run(main)
