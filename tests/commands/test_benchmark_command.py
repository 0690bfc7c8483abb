"""benchmark: a table of figures that hang together, and its mistakes."""

import json
import os
from pathlib import Path

import numpy as np
import openvino
import pytest
from exported import write_pointing_model
from openvino import opset13 as ops
from tiny import tiny_model

from nncf_transformers import export_model
from nncf_transformers.commands.benchmark import main
from nncf_transformers.errors import IntegrityError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "ir"
    export_model(tiny_model(), to_openvino=str(folder), onnx_beside_ir="model.onnx")
    return folder


def test_lengths_follow_the_model(folder: Path, tmp_path: Path) -> None:
    """Of the usual 128 and 384 tokens, the tiny model takes 128."""
    words = [str(folder), "--batch_size", "1", "--iterations", "1", "--runtime", "openvino"]
    assert main([*words, "--json", str(tmp_path / "figures.json")]) == 0
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert [result["sequence_length"] for result in results] == [128]


def test_table(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(folder), "--batch_size", "1", "2", "--sequence_length", "16", "--iterations", "7", "--threads", "1"]
    assert main([*words, "--json", str(tmp_path / "figures.json")]) == 0
    circumstances, head, *rows = capsys.readouterr().out.splitlines()
    assert "openvino 2" in circumstances and "onnxruntime 1" in circumstances and "cores" in circumstances
    assert [head[: head.index("shape")].split(), len(rows)] == [["model", "runtime"], 4]
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    shapes = [(r["runtime"], r["batch_size"], r["sequence_length"]) for r in results]
    assert shapes == [(name, batch, 16) for name in ("OpenVINO", "ONNX Runtime") for batch in (1, 2)]
    for result in results:
        assert result["calls"] == 7 and 0 < result["median_ms"] <= result["p90_ms"] <= result["p99_ms"]
        assert result["rows_per_second"] == pytest.approx(1e3 * result["batch_size"] / result["median_ms"])
        assert result["tokens_per_second"] == pytest.approx(16 * result["rows_per_second"])
        assert result["rows_per_second_at_once"] > 0
        assert 20 < result["peak_mb"] < 2000
        files = ["model.onnx"] if result["runtime"] == "ONNX Runtime" else ["openvino_model.xml", "openvino_model.bin"]
        assert result["file_mb"] == pytest.approx(sum((folder / name).stat().st_size for name in files) / 1e6)


def test_seconds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(folder / "openvino_model.xml"), "--batch_size", "1", "--sequence_length", "8", "--seconds", "0.1"]
    assert main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def write_static(file: Path, name: str) -> Path:
    """A model that takes one shape only."""
    ids = ops.parameter([1, 8], np.int64)
    ids.output(0).get_tensor().set_names({name})
    openvino.save_model(openvino.Model([ops.convert(ids, np.float32)], [ids]), file)
    return file


def test_mistakes(folder: Path, tmp_path: Path) -> None:
    text, broken = tmp_path / "a.txt", tmp_path / "a.onnx"
    text.write_text("a")
    broken.write_bytes((folder / "model.onnx").read_bytes()[:-1000])
    (tmp_path / "empty").mkdir()
    pointing = write_pointing_model(tmp_path / "pointing", ["a b"], {})
    quick = ["--iterations", "1", "--batch_size", "2", "--sequence_length", "16"]
    for words, error, message in (
        ([tmp_path / "nowhere"], UsageError, "nowhere: no such file or folder"),
        ([text], UsageError, "is neither an .onnx nor an .xml file"),
        ([tmp_path / "empty"], UsageError, "holds no exported model"),
        ([pointing, "--runtime", "onnxruntime"], UsageError, "holds no model for onnxruntime"),
        ([folder, "--json", tmp_path / "no" / "f.json"], UsageError, "--json .*: the folder does not exist"),
        ([folder, "--json", tmp_path / "empty"], UsageError, "--json .*empty: is a folder; name a file"),
        ([folder, "--sequence_length", "16", "300"], UsageError, "takes at most 128 tokens, sequence_length is 300"),
        ([broken, "--runtime", "onnxruntime"], IntegrityError, "a.onnx: cannot be loaded"),
        ([write_static(tmp_path / "s.xml", "input_ids")], UsageError, "s.xml: cannot run .* try another shape"),
        ([write_static(tmp_path / "p.xml", "pixels")], UsageError, "has an input pixels"),
    ):
        with pytest.raises(error, match=message) as caught:
            main([str(words[0]), *quick, *map(str, words[1:])])
        assert "\n" not in str(caught.value)
    assert not [*(tmp_path / "empty").iterdir(), *tmp_path.glob(".*")]


def test_a_folder_that_is_not_writable(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UsageError, match="--json .*f.json: the folder .* is not writable; choose another"):
        main([str(folder), "--iterations", "1", "--json", str(tmp_path / "f.json")])


@pytest.mark.parametrize("words", [["--batch_size", "0"], ["--seconds", "0"], ["--runtime", "tensorrt"]])
def test_flags(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["model", *words])
    assert f"argument {words[0]}" in capsys.readouterr().err
