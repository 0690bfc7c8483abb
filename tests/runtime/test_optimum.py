"""optimum-intel is no dependency; where it is installed, it must load what we export."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_batches, tiny_model

from nncf_transformers.compression import Compression
from nncf_transformers.config import parse_config
from nncf_transformers.export import export_model
from nncf_transformers.inputs import model_inputs

optimum = pytest.importorskip("optimum.intel", reason="optimum-intel is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(("head", "name"), [("qa", "QuestionAnswering"), ("classes", "SequenceClassification")])
def test_the_exported_folder_loads(tmp_path: Path, head: str, name: str) -> None:
    model = tiny_model(head=head)
    config = parse_config({"algorithms": [{"algorithm": "quantization", "calibration_samples": 8}]}, "test")
    Compression(config).start(model, tiny_batches(model))
    export_model(model, to_openvino=str(tmp_path / "ir"))
    loaded = getattr(optimum, f"OVModelFor{name}").from_pretrained(tmp_path / "ir")
    inputs = model_inputs(model, tiny_batches(model)[0])
    with torch.no_grad():
        expected = model(**inputs)[0]
    actual = torch.as_tensor(loaded(**inputs)[0])
    assert (actual - expected).abs().mean() < 0.1 * expected.std()
