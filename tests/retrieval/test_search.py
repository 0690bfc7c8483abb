"""The index on disk follows the files, and a question finds the passage that shares its words."""

from pathlib import Path

import numpy as np
import pytest
from exported import SIZE, write_pointing_model, write_word_counting_model
from tiny import tiny_model
from transformers import AutoTokenizer, BertConfig, BertModel

from nncf_transformers import export_model
from nncf_transformers.embedding import embedding_class
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.reading import load_reader
from nncf_transformers.retrieval.documents import read_documents
from nncf_transformers.retrieval.search import Embedder, Opened, Searcher, default_folder, load_embedder, open_index

TEXTS = {
    "light.txt": "Robert Stevenson built the lighthouse on the reef .",
    "rhine.txt": "The Rhine is a river that ends in the sea at Rotterdam .",
    "oxygen.txt": "Oxygen is a gas with number eight .",
}
QUESTION = "Who built the lighthouse ?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_word_counting_model(tmp_path_factory.mktemp("emb"), [*TEXTS.values(), QUESTION])


@pytest.fixture
def embedder(folder: Path) -> Embedder:
    return load_embedder(folder)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def counted(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are embedded."""
    texts: list[str] = []
    embed = embedder.embed
    monkeypatch.setattr(embedder, "embed", lambda new: texts.extend(new) or embed(new))
    return texts


def opened(docs: Path, embedder: Embedder, **settings: int) -> Opened:
    return open_index(read_documents([docs]), embedder, docs.parent / "index", **settings)


def test_an_index_is_reused(docs: Path, embedder: Embedder, counted: list[str]) -> None:
    first = opened(docs, embedder)
    assert (first.embedded, sorted(counted)) == (3, sorted(TEXTS.values()))
    again = opened(docs, embedder)
    assert (again.embedded, again.removed, len(counted)) == (0, 0, 3)
    np.testing.assert_array_equal(again.index.vectors, first.index.vectors)
    assert again.index.passages == first.index.passages and again.index.vectors.shape == (3, SIZE)


def test_only_what_has_changed_is_embedded(docs: Path, embedder: Embedder, counted: list[str]) -> None:
    opened(docs, embedder)
    counted.clear()
    (docs / "rhine.txt").write_text("The Rhine ends at Rotterdam .")
    (docs / "light.txt").rename(docs / "a_light.txt")
    (docs / "oxygen.txt").unlink()
    (docs / "copy.md").write_text(TEXTS["light.txt"])
    now = opened(docs, embedder)
    assert (now.embedded, now.removed, counted) == (1, 2, ["The Rhine ends at Rotterdam ."])
    assert [Path(p.source).name for p in now.index.passages] == ["a_light.txt", "copy.md", "rhine.txt"]
    fresh = open_index(read_documents([docs]), embedder, docs.parent / "fresh")
    np.testing.assert_array_equal(now.index.vectors, fresh.index.vectors)
    assert now.index.passages == fresh.index.passages and now.index.sources == fresh.index.sources


def test_removed_files_alone(docs: Path, embedder: Embedder, counted: list[str]) -> None:
    opened(docs, embedder)
    counted.clear()
    (docs / "oxygen.txt").unlink()
    now = opened(docs, embedder)
    assert (now.embedded, now.removed, len(now.index.passages), counted) == (0, 1, 2, [])
    assert opened(docs, embedder).removed == 0


def test_rebuild_and_other_settings_embed_everything(docs: Path, embedder: Embedder, counted: list[str]) -> None:
    opened(docs, embedder)
    assert opened(docs, embedder, rebuild=True).embedded == 3
    assert opened(docs, embedder, passage_tokens=6).embedded > 3
    assert opened(docs, embedder, passage_tokens=6).embedded == 0


def test_another_model(docs: Path, embedder: Embedder, tmp_path: Path) -> None:
    opened(docs, embedder)
    other = load_embedder(write_word_counting_model(tmp_path / "other", [*TEXTS.values(), QUESTION], seed=1))
    with pytest.raises(UsageError, match="built by another model.*--rebuild"):
        opened(docs, other)
    assert opened(docs, other, rebuild=True).embedded == 3
    assert default_folder([docs], embedder) != default_folder([docs], other)
    assert default_folder([docs], embedder) == default_folder([f"{docs}/"], embedder)


def test_damaged_index(docs: Path, embedder: Embedder) -> None:
    opened(docs, embedder)
    vectors = next((docs.parent / "index").glob("vectors*"))
    vectors.write_bytes(vectors.read_bytes()[:-5])
    with pytest.raises(IntegrityError, match="--rebuild"):
        opened(docs, embedder)
    assert opened(docs, embedder, rebuild=True).embedded == 3


def test_folder_with_something_else(docs: Path, embedder: Embedder) -> None:
    with pytest.raises(UsageError, match="holds something else"):
        open_index(read_documents([docs]), embedder, docs)
    assert sorted(path.name for path in docs.iterdir()) == sorted(TEXTS)


@pytest.mark.parametrize("length", [0, 511, 9999])
def test_passages_that_do_not_fit(length: int, docs: Path, embedder: Embedder) -> None:
    with pytest.raises(UsageError, match=f"passage_tokens {length}: .* 1 to 510 tokens"):
        opened(docs, embedder, passage_tokens=length)


def test_a_question_is_answered_from_the_nearest_passage(docs: Path, embedder: Embedder, tmp_path: Path) -> None:
    points = {"Robert": (9.0, 0.0), "Stevenson": (0.0, 9.0)}
    reader = load_reader(write_pointing_model(tmp_path / "qa", [*TEXTS.values(), QUESTION], points))
    found = Searcher(opened(docs, embedder).index, embedder, reader).ask(QUESTION, top=2, best_n=3)
    assert Path(found.hits[0].passage.source).name == "light.txt" and len(found.hits) == 2
    assert found.hits[0].distance < found.hits[1].distance
    assert found.answers[0].text == "Robert Stevenson"
    assert found.distance(found.answers[0]) == found.hits[0].distance
    assert set(found.milliseconds) == {"embed", "search", "read"} and min(found.milliseconds.values()) > 0


def test_the_distance_of_a_passage_counts(docs: Path, embedder: Embedder, tmp_path: Path) -> None:
    # Read alone, the passage that is farther away has the better answer.
    points = {"Rotterdam": (3.3, 3.3), "Robert": (3.0, 3.0)}
    reader = load_reader(write_pointing_model(tmp_path / "qa", [*TEXTS.values(), QUESTION], points))
    found = Searcher(opened(docs, embedder).index, embedder, reader).ask(QUESTION, top=3, best_n=2)
    alone = {a.text: a.score for a in reader.answer(QUESTION, [hit.passage for hit in found.hits], best_n=2)}
    weights = np.exp([-hit.distance for hit in found.hits])
    weights = dict(zip((hit.passage for hit in found.hits), weights / weights.sum(), strict=True))
    assert alone["Rotterdam"] > alone["Robert"]
    assert [answer.text for answer in found.answers] == ["Robert", "Rotterdam"]
    for answer in found.answers:
        assert answer.score == pytest.approx(alone[answer.text] * weights[answer.passage])


def test_without_a_reader_passages_are_found(docs: Path, embedder: Embedder) -> None:
    searcher = Searcher(opened(docs, embedder).index, embedder)
    found = searcher.ask("Oxygen", top=99)
    assert found.answers == [] and len(found.hits) == 3
    assert Path(found.hits[0].passage.source).name == "oxygen.txt"
    assert searcher.ask("???").hits == []
    with pytest.raises(UsageError, match="empty"):
        searcher.ask(" ")
    assert searcher.ask("Oxygen " * 2000, top=1).hits


def test_an_exported_model(docs: Path, folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sizes = tiny_model().config.to_dict() | {"vocab_size": len(tokenizer), "embedding_dim": SIZE}
    model = embedding_class(BertModel)(BertConfig(**sizes)).eval()
    export_model(model, to_openvino=str(tmp_path / "ir"), tokenizer=tokenizer)
    embedder = load_embedder(tmp_path / "ir")
    assert opened(docs, embedder, passage_tokens=126).index.vectors.shape == (3, SIZE)
    with pytest.raises(UsageError, match="is an embedding model; a question-answering model is needed"):
        load_reader(tmp_path / "ir")


def test_model_of_the_other_kind(tmp_path: Path) -> None:
    folder = write_pointing_model(tmp_path, [QUESTION], {})
    with pytest.raises(UsageError, match="is a question-answering model; an embedding model is needed"):
        load_embedder(folder)
