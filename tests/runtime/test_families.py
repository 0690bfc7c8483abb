"""Every supported family: quantize, train, save, reload, export, and the same answers in both runtimes."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_batches, tiny_model

from nncf_transformers.compression import Compression, load_model
from nncf_transformers.config import parse_config
from nncf_transformers.errors import UsageError
from nncf_transformers.export import export_model
from nncf_transformers.families import SUPPORTED
from nncf_transformers.inputs import model_inputs

CONFIG = {"algorithms": [{"algorithm": "quantization", "calibration_samples": 8}]}


@pytest.mark.slow
@pytest.mark.parametrize("family", SUPPORTED)
def test_family(family: str, tmp_path: Path) -> None:
    # Both heads are tried, half of the families with each; BERT has the other one in test_export.py.
    head = ("qa", "classes")[SUPPORTED.index(family) % 2]
    model = tiny_model(family, head)
    batches = tiny_batches(model)
    compression = Compression(parse_config(CONFIG, "test"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    compression.start(model, batches)
    compression.add_to(optimizer, model)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval()
    ours = {n: p for n, p in model.named_parameters() if n in before and "__nncf_hooks" in n}
    assert not [name for name, p in ours.items() if p.grad is None], "quantizers that no gradient reached"
    assert any(not torch.equal(p, before[name]) for name, p in ours.items())

    model.save_pretrained(tmp_path / "saved")
    reloaded = load_model(type(model), tmp_path / "saved").eval()
    inputs = model_inputs(model, batches[0])
    with torch.no_grad():
        for ours, theirs in zip(model(**inputs, return_dict=False), reloaded(**inputs, return_dict=False), strict=True):
            assert torch.equal(ours, theirs)

    results = export_model(reloaded, to_onnx=str(tmp_path / "m.onnx"), to_openvino=str(tmp_path / "ir"))
    assert [r.runtime for r in results] == ["ONNX Runtime", "OpenVINO"]
    assert (tmp_path / "ir" / "openvino_model.bin").is_file() and (tmp_path / "ir" / "config.json").is_file()


def test_other_families_are_refused() -> None:
    model = tiny_model()
    model.config.model_type = "xlnet"
    with pytest.raises(UsageError, match=r"'xlnet' has not been proven.*supported: bert, roberta"):
        Compression(parse_config(CONFIG, "test")).start(model, [])
