"""Every supported family: quantize, train, save, reload, export, and the same answers in both runtimes."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_batches, tiny_model

from nncf_transformers.compression import Compression
from nncf_transformers.config import parse_config
from nncf_transformers.errors import UsageError
from nncf_transformers.export import export_model
from nncf_transformers.families import SUPPORTED
from nncf_transformers.inputs import call_model, model_inputs
from nncf_transformers.loading import load_model

CONFIG = {"algorithms": [{"algorithm": "quantization", "calibration_samples": 8}]}

# Families that write text have one proven head.
WRITING = {"gpt2": "causal", "t5": "seq2seq"}


@pytest.mark.slow
@pytest.mark.parametrize("family", SUPPORTED)
def test_family(family: str, tmp_path: Path) -> None:
    # Both heads are tried, half of the families with each; BERT has the other one in test_export.py.
    head = WRITING.get(family) or ("qa", "classes")[SUPPORTED.index(family) % 2]
    prove(family, head, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_masked_language_models(family: str, tmp_path: Path) -> None:
    prove(family, "masked", tmp_path)


def prove(family: str, head: str, tmp_path: Path) -> None:
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
        for ours, theirs in zip(call_model(model, inputs), call_model(reloaded, inputs), strict=True):
            assert torch.equal(ours, theirs)

    results = export_model(reloaded, to_onnx=str(tmp_path / "m.onnx"), to_openvino=str(tmp_path / "ir"))
    parts = [" encoder", " decoder"] if head == "seq2seq" else [""]
    assert [r.runtime for r in results] == [f"{name}{part}" for name in ("ONNX Runtime", "OpenVINO") for part in parts]
    for part in parts:
        name = f"openvino_{part.strip()}_model.bin" if part else "openvino_model.bin"
        assert (tmp_path / "ir" / name).is_file()
    assert (tmp_path / "ir" / "config.json").is_file()


@pytest.mark.parametrize(
    ("head", "name"), [("classes", "GPT2ForSequenceClassification"), ("qa", "GPT2ForQuestionAnswering")]
)
def test_other_heads_of_a_family_that_writes_text_are_refused(head: str, name: str) -> None:
    model = tiny_model("gpt2", head)
    with pytest.raises(UsageError, match=f"^{name} has not been proven.*family 'gpt2': GPT2LMHeadModel$"):
        Compression(parse_config(CONFIG, "test")).start(model, [])


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_other_language_models_are_refused(family: str) -> None:
    model = tiny_model()
    model.config.model_type = family
    with pytest.raises(UsageError, match=f"'{family}' has not been proven"):
        Compression(parse_config(CONFIG, "test")).start(model, [])


def test_other_families_are_refused() -> None:
    model = tiny_model()
    model.config.model_type = "xlnet"
    with pytest.raises(UsageError, match=r"'xlnet' has not been proven.*supported: bert, roberta"):
        Compression(parse_config(CONFIG, "test")).start(model, [])
