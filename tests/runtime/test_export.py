"""Export: what is written, what is refused, and what a broken export looks like."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny import tiny_batches, tiny_model
from torch import nn

from nncf_transformers.compression import Compression
from nncf_transformers.config import parse_config
from nncf_transformers.errors import CompressionError, IntegrityError, UsageError
from nncf_transformers.export import check_targets, export_model
from nncf_transformers.export.parity import check_quantizer_count, compare
from nncf_transformers.inputs import synthetic_inputs
from nncf_transformers.runtimes import onnx_runtime, openvino_runtime, torch_runtime


@pytest.fixture(scope="module")
def model() -> nn.Module:
    model = tiny_model(head="classes")
    config = parse_config({"algorithms": [{"algorithm": "quantization", "calibration_samples": 8}]}, "test")
    Compression(config).start(model, tiny_batches(model))
    return model


@pytest.fixture(scope="module")
def exported(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export_model(model, to_onnx=str(folder / "m.onnx"), to_openvino=str(folder / "ir"))
    return folder


def rows(model: nn.Module, batch: int, sequence: int) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in synthetic_inputs(model, batch, sequence, seed=5).items()}


def test_inputs_and_outputs_are_named_and_dynamic(exported: Path) -> None:
    graph = onnx.load(exported / "m.onnx").graph
    axes = {v.name: [d.dim_param for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert axes == {name: ["batch", "sequence"] for name in ("input_ids", "attention_mask", "token_type_ids")}
    assert [v.name for v in graph.output] == ["logits"]

    import openvino

    network = openvino.Core().read_model(exported / "ir" / "openvino_model.xml")
    assert [port.any_name for port in network.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert all(port.partial_shape.is_dynamic for port in network.inputs)


@pytest.mark.parametrize("shape", [(1, 7), (5, 33), (2, 100)])
def test_any_shape_runs_in_both_runtimes(model: nn.Module, exported: Path, shape: tuple[int, int]) -> None:
    inputs = rows(model, *shape)
    expected = torch_runtime(model)(inputs)[0]
    ir = exported / "ir" / "openvino_model.xml"
    for runtime in (onnx_runtime(exported / "m.onnx"), openvino_runtime(ir, exact=True)):
        assert np.abs(runtime(inputs)[0] - expected).max() < 0.1 * expected.std()


def test_no_float_weight_is_left(exported: Path) -> None:
    graph = onnx.load(exported / "m.onnx").graph
    float_matrices = [
        t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 500
    ]
    assert not float_matrices
    assert sum(t.data_type == onnx.TensorProto.INT8 for t in graph.initializer) >= 16


def test_the_scale_of_attention_is_a_constant(exported: Path) -> None:
    import openvino

    network = openvino.Core().read_model(exported / "ir" / "openvino_model.xml")
    kinds = {operation.get_type_name() for operation in network.get_ops()}
    assert "MatMul" in kinds and not kinds & {"Sqrt", "Divide"}


def test_report_is_beside_the_export(exported: Path) -> None:
    for file in (exported / "m.parity.json", exported / "ir" / "parity.json"):
        report = json.loads(file.read_text())
        assert [r["runtime"] for r in report["runtimes"]] == ["ONNX Runtime", "OpenVINO"]
        assert report["nodes"]["int8_weights"] == 17


def test_nothing_else_is_left_behind(exported: Path) -> None:
    assert sorted(p.name for p in exported.iterdir()) == ["ir", "m.onnx", "m.parity.json"]


def test_fp32_model_is_exported_too(tmp_path: Path) -> None:
    model = tiny_model()
    results = export_model(model, to_onnx=str(tmp_path / "m.onnx"), to_openvino=str(tmp_path / "ir"))
    assert all(r.max_difference < 1e-3 for r in results)


def test_a_model_in_training_stays_in_training(model: nn.Module, tmp_path: Path) -> None:
    model.train()
    export_model(model, to_onnx=str(tmp_path / "m.onnx"))
    assert model.training
    model.eval()


def test_a_lost_quantizer_is_refused(exported: Path) -> None:
    counts = check_quantizer_count(exported / "m.onnx", weights=17, activations=14)
    assert counts["QuantizeLinear"] == 14
    with pytest.raises(IntegrityError, match="15 activation and 17 weight quantizers, m.onnx has 14 QuantizeLinear"):
        check_quantizer_count(exported / "m.onnx", weights=17, activations=15)


def test_another_model_is_refused(model: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import nncf_transformers.export as export

    def other(path: Path) -> Any:
        run = onnx_runtime(path)
        return lambda inputs: tuple(-output for output in run(inputs))

    monkeypatch.setattr(export, "onnx_runtime", other)
    with pytest.raises(IntegrityError, match="export refused, parity torch - ONNX Runtime"):
        export_model(model, to_onnx=str(tmp_path / "m.onnx"))
    assert not list(tmp_path.iterdir())


def test_parity_ignores_padding() -> None:
    inputs = {"attention_mask": np.array([[1, 1, 0]])}
    good = np.array([[3.0, 1.0, 9.0]])
    parity = compare("x", lambda _: (good,), lambda _: (np.array([[3.0, 1.0, -99.0]]),), [inputs])
    assert parity.max_difference == 0 and parity.agreement == 1


def test_parity_forgives_close_calls_only() -> None:
    inputs = {"attention_mask": np.ones((3, 2))}
    expected = np.array([[9.0, 0.0], [0.0, 9.0], [4.0, 3.9]])
    near = compare("x", lambda _: (expected,), lambda _: (expected + [[0, 0], [0, 0], [0, 0.2]],), [inputs])
    assert near.agreement == pytest.approx(2 / 3) and near.clear_agreement == 1
    near.check()
    far = compare("x", lambda _: (expected,), lambda _: (expected[:, ::-1],), [inputs])
    assert far.clear_agreement < 1
    with pytest.raises(IntegrityError, match="export refused, parity torch - x"):
        far.check()


def test_a_diverged_model_is_refused() -> None:
    inputs = {"attention_mask": np.ones((1, 2))}
    nan = compare("x", lambda _: (np.array([[np.nan, 0.0]]),), lambda _: (np.array([[1.0, 0.0]]),), [inputs])
    with pytest.raises(IntegrityError, match="export refused"):
        nan.check()


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("precious")
    with pytest.raises(UsageError, match="holds something else than an export"):
        check_targets(None, str(tmp_path))


def test_an_older_export_is_replaced_whole(model: nn.Module, tmp_path: Path) -> None:
    target = tmp_path / "ir"
    export_model(model, to_openvino=str(target))
    (target / "left_over.txt").touch()
    with pytest.raises(UsageError, match="holds something else than an export, left_over.txt"):
        export_model(model, to_openvino=str(target))
    (target / "left_over.txt").unlink()
    export_model(model, to_openvino=str(target))
    assert (target / "openvino_model.xml").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["ir"]


@pytest.mark.parametrize(
    ("to_onnx", "to_openvino", "message"),
    [
        ("missing/m.onnx", None, "the folder .*missing does not exist; create it first"),
        ("m.txt", None, r"must name a file that ends in \.onnx"),
        (None, "missing/ir", "does not exist; create it first"),
        (None, "file", "is a file; name a folder"),
    ],
)
def test_impossible_targets(tmp_path: Path, to_onnx: str | None, to_openvino: str | None, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=message):
        check_targets(
            str(tmp_path / to_onnx) if to_onnx else None, str(tmp_path / to_openvino) if to_openvino else None
        )


def test_full_disk_is_one_line(model: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import nncf_transformers.export as export

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_onnx", full)
    with pytest.raises(CompressionError, match="cannot be written .No space left on device.; free space"):
        export_model(model, to_onnx=str(tmp_path / "m.onnx"))
    assert not list(tmp_path.iterdir())


def test_damaged_file_is_one_line(exported: Path, tmp_path: Path) -> None:
    for name in ("m.onnx", "ir/openvino_model.xml"):
        broken = tmp_path / Path(name).name
        broken.write_bytes((exported / name).read_bytes()[:500])
        runtime = onnx_runtime if name.endswith(".onnx") else openvino_runtime
        with pytest.raises(IntegrityError, match="cannot be loaded"):
            runtime(broken)
        with pytest.raises(IntegrityError, match="no such file"):
            runtime(tmp_path / "nothing.onnx")
