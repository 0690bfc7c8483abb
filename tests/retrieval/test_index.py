"""The index: what it finds, what a file brings back, what survives a kill, and what is refused."""

import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nncf_transformers.errors import CompressionError, IntegrityError, UsageError
from nncf_transformers.retrieval import index as module
from nncf_transformers.retrieval import nearest
from nncf_transformers.retrieval.index import Passage, PassageIndex, fingerprint_file

# The children save an index and die; they need no second interpreter.
FORK = multiprocessing.get_context("fork")


def vectors(rows: int, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, size), dtype=np.float32)


def passages(count: int) -> list[Passage]:
    return [Passage(f"file {i % 3}.txt", 10 * i, f"passage {i}") for i in range(count)]


def make(rows: int = 20, seed: int = 0, **kind: Any) -> PassageIndex:
    return PassageIndex.build(vectors(rows, seed=seed), passages(rows), **{"model": "abc", **kind})


def by_hand(found: PassageIndex, query: np.ndarray, k: int) -> tuple[list[float], list[int]]:
    distances = [float(np.linalg.norm(query.astype(np.float64) - vector)) for vector in found.vectors]
    order = sorted(range(len(distances)), key=lambda i: (distances[i], i))[:k]
    return [distances[i] for i in order], order


@contextmanager
def refused(kind: type[CompressionError], message: str) -> Iterator[None]:
    with pytest.raises(kind, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)


class TestSearch:
    @pytest.mark.parametrize("method", ["exact", "faiss"])
    @pytest.mark.parametrize("k", [1, 7, 300, 1000])
    def test_as_by_hand(self, method: str, k: int) -> None:
        made = make(300, method=method)
        queries = vectors(9, seed=1)
        distances, ids = made.search(queries, k)
        assert made.method == method
        assert distances.dtype == np.float32 and ids.dtype == np.int64
        assert distances.shape == ids.shape == (9, min(k, 300))
        for row, query in enumerate(queries):
            expected, order = by_hand(made, query, k)
            assert ids[row].tolist() == order
            np.testing.assert_allclose(distances[row], expected, rtol=1e-6)

    def test_in_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made, queries = make(50), vectors(11, seed=1)
        whole = made.search(queries, 5)
        for block in (1, 120):
            monkeypatch.setattr(nearest, "_BLOCK", block)
            assert all(map(np.array_equal, whole, made.search(queries, 5)))

    def test_close_together_and_far_from_zero(self) -> None:
        """Where the squares of float32 would tell nothing apart."""
        stored = (1000 + 1e-3 * vectors(200, 64)).astype(np.float32)
        made = PassageIndex.build(stored, passages(200), model="")
        queries = (stored[:20] + 2e-4 * vectors(20, 64, seed=1)).astype(np.float32)
        distances, ids = made.search(queries, 3)
        for row, query in enumerate(queries):
            expected, order = by_hand(made, query, 3)
            assert ids[row].tolist() == order
            # The differences have no rounding here, and one is allowed.
            np.testing.assert_allclose(distances[row], expected, rtol=2**-24)

    @pytest.mark.parametrize("method", ["exact", "faiss"])
    def test_equal_vectors_in_their_order(self, method: str) -> None:
        made = PassageIndex.build(np.repeat(vectors(3), 40, axis=0)[::-1], passages(120), model="", method=method)
        distances, ids = made.search(vectors(1), 60)
        assert ids[0, :40].tolist() == list(range(80, 120)) and not distances[0, :40].any()
        assert ids[0, 40:].tolist() in ([*range(20)], [*range(40, 60)])

    def test_of_one_and_of_none(self) -> None:
        assert make(1).search(vectors(2), 10)[1].tolist() == [[0], [0]]
        assert make(1, method="faiss").search(vectors(2), 10)[1].tolist() == [[0], [0]]
        assert make(5).search(vectors(0), 3)[1].shape == (0, 3)

    def test_a_graph_with_holes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """FAISS says -1 where it reaches fewer than were wanted; then all are looked at."""
        made = make(40, method="faiss")
        real = nearest.import_faiss()

        class Holes:
            SearchParametersHNSW = real.SearchParametersHNSW

        class Graph:
            ntotal = 40

            def search(self, queries: np.ndarray, count: int, params: Any) -> tuple[None, np.ndarray]:
                return None, np.full((len(queries), count), -1)

        monkeypatch.setattr(nearest, "import_faiss", lambda: Holes)
        made._graph = Graph()
        assert made.search(vectors(1, seed=1), 4)[1][0].tolist() == by_hand(made, vectors(1, seed=1)[0], 4)[1]

    def test_faiss_from_a_size_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "FAISS_FROM", 20 * 8)
        assert make(19).method == "exact"
        assert make(20).method == "faiss"
        assert make(20, method="exact").method == "exact"


class TestOnDisk:
    @pytest.mark.parametrize("method", ["exact", "faiss"])
    def test_round_trip(self, tmp_path: Path, method: str) -> None:
        odd = [
            Passage("", 0, "two\nlines\u2028and \x85 more"),
            Passage("ä.txt", 7, "half a pair \ud83d"),
            *passages(18),
        ]
        made = PassageIndex.build(
            vectors(20), odd, model="abc", sources={"ä.txt": "12", "": ""}, settings={"words": [1, None]}, method=method
        )
        made.save(tmp_path / "new" / "index")
        found = PassageIndex.load(tmp_path / "new" / "index", model="abc")
        assert found.passages == odd and found.method == method and found.model == "abc"
        assert found.sources == {"ä.txt": "12", "": ""} and found.settings == {"words": [1, None]}
        np.testing.assert_array_equal(found.vectors, made.vectors)
        queries = vectors(4, seed=1)
        assert all(map(np.array_equal, made.search(queries, 5), found.search(queries, 5)))

    def test_in_the_place_of_another(self, tmp_path: Path) -> None:
        make(30, method="faiss").save(tmp_path)
        make(20, model="def").save(tmp_path)
        assert len(PassageIndex.load(tmp_path).passages) == 20
        assert sorted(re.sub(r"-\w+", "", p.name) for p in tmp_path.iterdir()) == [
            "index.json",
            "passages.jsonl",
            "vectors.npy",
        ]

    def test_another_model(self, tmp_path: Path) -> None:
        make(model="1" * 64).save(tmp_path)
        with refused(UsageError, r"built by another model \(111111111111, now 222222222222\)"):
            PassageIndex.load(tmp_path, model="2" * 64)

    def test_nothing_there(self, tmp_path: Path) -> None:
        for folder in (tmp_path, tmp_path / "missing"):
            with refused(UsageError, "there is no index here"):
                PassageIndex.load(folder)

    def test_a_folder_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with refused(UsageError, r"holds something else than an index \(notes.txt\)"):
            make().save(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
        with refused(UsageError, "notes.txt: cannot be written"):
            make().save(tmp_path / "notes.txt")
        with refused(UsageError, "cannot be written"):
            make().save(tmp_path / "notes.txt" / "index")

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make().save(tmp_path)
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

        def full(self: PassageIndex, path: Path) -> None:
            path.write_text("half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(PassageIndex, "_write_passages", full)
        with refused(UsageError, "No space left"):
            make().save(tmp_path)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
        with refused(UsageError, "cannot be written"):
            nearest_file = tmp_path / "missing" / "file"
            with module._one_line(nearest_file, "written"):
                nearest.write_graph(make(method="faiss")._graph, nearest_file)


def spoil(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


class TestDamage:
    @pytest.mark.parametrize("what", ["vectors", "passages", "faiss"])
    @pytest.mark.parametrize("damage", [spoil, lambda content: content[:-1], lambda content: b"", None])
    def test_a_file(self, tmp_path: Path, what: str, damage: Callable[[bytes], bytes] | None) -> None:
        make(method="faiss").save(tmp_path)
        (path,) = tmp_path.glob(f"{what}-*")
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage(path.read_bytes()))
        with refused(IntegrityError, "is missing" if damage is None else "has changed since it was written"):
            PassageIndex.load(tmp_path)
        # It can be built again in the same place.
        make().save(tmp_path)
        PassageIndex.load(tmp_path)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "{}",
            '{"format": 1}',
            '{"format": 1, "model": 3, "count": 20, "size": 8, "sources": {}, "settings": {}, "files": {}}',
            '{"format": 1, "model": "", "count": 20, "size": 8, "sources": {}, "settings": {}, "files": {}}',
            '{"format": 1, "model": "", "count": 1, "size": 1, "sources": {}, "settings": {}, "files": {"a": 3}}',
            "\udcff",
        ],
    )
    def test_index_json(self, tmp_path: Path, text: str) -> None:
        make().save(tmp_path)
        (tmp_path / "index.json").write_text(text, errors="surrogateescape")
        with refused(IntegrityError, r"index\.json: damaged"):
            PassageIndex.load(tmp_path)

    def test_a_name_that_leads_elsewhere(self, tmp_path: Path) -> None:
        make().save(tmp_path)
        about = json.loads((tmp_path / "index.json").read_text())
        about["files"]["vectors"]["name"] = "../secret.npy"
        (tmp_path / "index.json").write_text(json.dumps(about))
        with refused(IntegrityError, r"index\.json: damaged"):
            PassageIndex.load(tmp_path)

    def test_another_format(self, tmp_path: Path) -> None:
        make().save(tmp_path)
        text = (tmp_path / "index.json").read_text()
        (tmp_path / "index.json").write_text(text.replace('"format": 1', '"format": 2'))
        with refused(UsageError, "has format 2, not 1; build the index again"):
            PassageIndex.load(tmp_path)

    @pytest.mark.parametrize(
        ("what", "content"),
        [
            ("vectors", b"no array"),
            ("passages", b"no line\n"),
            ("passages", b'{"source": "", "start": 0}\n'),
            ("passages", b"[]\n"),
            ("passages", "ä\n".encode()),
            ("passages", b""),
            ("faiss", b"no graph"),
        ],
    )
    def test_wrong_content_with_the_right_checksum(self, tmp_path: Path, what: str, content: bytes) -> None:
        make(method="faiss").save(tmp_path)
        (path,) = tmp_path.glob(f"{what}-*")
        self.put(tmp_path, path, content)
        with refused(IntegrityError, "damaged|cannot read"):
            PassageIndex.load(tmp_path)

    def test_a_pickle_is_not_opened(self, tmp_path: Path) -> None:
        make().save(tmp_path)
        (path,) = tmp_path.glob("vectors-*")
        np.save(tmp_path / "evil.npy", np.array([print, 1], dtype=object), allow_pickle=True)
        content = (tmp_path / "evil.npy").read_bytes()
        self.put(tmp_path, path, content)
        with refused(IntegrityError, "damaged"):
            PassageIndex.load(tmp_path)

    @pytest.mark.parametrize("other", [vectors(19), vectors(20, 9), vectors(20).astype(np.float64), vectors(20)[0]])
    def test_files_that_do_not_fit(self, tmp_path: Path, other: np.ndarray) -> None:
        make().save(tmp_path)
        (path,) = tmp_path.glob("vectors-*")
        np.save(tmp_path / "other.npy", other)
        self.put(tmp_path, path, (tmp_path / "other.npy").read_bytes())
        with refused(IntegrityError, "its files are of different sizes"):
            PassageIndex.load(tmp_path)

    @staticmethod
    def put(folder: Path, path: Path, content: bytes) -> None:
        """Replace a file, and its checksum in index.json."""
        old = fingerprint_file(path)
        path.write_bytes(content)
        text = (folder / "index.json").read_text()
        (folder / "index.json").write_text(text.replace(f'"sha256": "{old}"', f'"sha256": "{fingerprint_file(path)}"'))


def save_and_die(folder: Path, steps: int) -> None:
    """Save a new index, and be killed at the n-th time that a file is opened, renamed or removed."""
    left = [steps]

    def count(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return counted

    for name in ("open", "replace", "unlink"):
        setattr(Path, name, count(getattr(Path, name)))
    make(30, seed=9).save(folder)


@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
def test_killed_at_any_moment(tmp_path: Path, old: bool) -> None:
    seen = set()
    for steps in range(1, 100):
        folder = tmp_path / str(steps)
        if old:
            make(20).save(folder)
        process = FORK.Process(target=save_and_die, args=(folder, steps))
        process.start()
        process.join()
        try:
            seen.add(len(PassageIndex.load(folder).passages))
        except UsageError as error:
            assert not old and "there is no index here" in str(error)
            seen.add(0)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        # What was left behind is in nobody's way, and does not stay.
        make(25).save(folder)
        assert len(PassageIndex.load(folder).passages) == 25
        assert len(list(folder.iterdir())) == 3
    assert process.exitcode == 0 and steps > 8
    assert seen == ({20, 30} if old else {0, 30})


def save_often(folder: Path, seed: int, rounds: int) -> None:
    for i in range(rounds):
        make(20 + seed, seed=seed + i).save(folder)


def test_several_at_once(tmp_path: Path) -> None:
    """Two write and one reads: what is read is always one of the two."""
    make(20).save(tmp_path)
    writers = [FORK.Process(target=save_often, args=(tmp_path, seed, 8)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    deadline = time.monotonic() + 30
    while any(writer.is_alive() for writer in writers) and time.monotonic() < deadline:
        assert len(PassageIndex.load(tmp_path).passages) in (20, 21, 22)
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(PassageIndex.load(tmp_path).passages) in (21, 22)
    assert len(list(tmp_path.iterdir())) == 3


class TestBadInput:
    def test_nothing_to_index(self) -> None:
        with refused(UsageError, "there are no passages to index"):
            PassageIndex.build(np.zeros((0, 8), np.float32), [], model="")

    def test_queries_of_another_size(self) -> None:
        with refused(UsageError, "question's vector has 9 numbers, those of the index 8"):
            make().search(vectors(1, 9), 3)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
    @pytest.mark.parametrize("method", ["exact", "faiss"])
    def test_not_finite(self, value: float, method: str) -> None:
        bad = vectors(20)
        bad[3, 4] = value
        with refused(UsageError, "the vector of a passage is not finite"):
            PassageIndex.build(bad, passages(20), model="", method=method)
        with refused(UsageError, "the vector of a question is not finite"):
            make(method=method).search(bad, 3)

    def test_wrong_use(self) -> None:
        for call in (
            lambda: PassageIndex.build(vectors(3), passages(4), model=""),
            lambda: PassageIndex.build(vectors(3)[0], passages(8), model=""),
            lambda: make(method="magic"),
            lambda: make().search(vectors(3), 0),
            lambda: make().search(vectors(3)[0], 1),
        ):
            with pytest.raises(ValueError, match=r"vectors|queries|method"):
                call()

    def test_without_faiss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "faiss", None)
        with refused(UsageError, "faiss, which searches large sets of vectors, is not installed"):
            make(method="faiss")


def test_fingerprint(tmp_path: Path) -> None:
    onnx, xml, weights = tmp_path / "m.onnx", tmp_path / "openvino_model.xml", tmp_path / "openvino_model.bin"
    onnx.write_bytes(b"abc")
    assert fingerprint_file(onnx) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    xml.write_bytes(b"abc")
    weights.write_bytes(b"1")
    first = fingerprint_file(tmp_path)
    assert first == fingerprint_file(xml) != fingerprint_file(onnx)
    weights.write_bytes(b"2")
    second = fingerprint_file(xml)
    xml.write_bytes(b"abd")
    assert len({first, second, fingerprint_file(xml)}) == 3
    assert re.fullmatch(r"[0-9a-f]{64}", second)
    with refused(UsageError, "missing.onnx: cannot be read"):
        fingerprint_file(tmp_path / "missing.onnx")
