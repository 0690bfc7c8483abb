"""The embedding model: its classes, where it starts, what comes back from disk, and how texts go through it."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from tiny import OWN_SIZES, VOCABULARY, tiny_model
from transformers import AutoConfig, AutoModel, AutoTokenizer

from demo.model import build_vocabulary, write_tokenizer
from nncf_transformers.compression import Compression
from nncf_transformers.config import load_config
from nncf_transformers.embedding import embed, is_embedding, load_embedding_model
from nncf_transformers.export import export_model, rows_of
from nncf_transformers.inputs import model_inputs, synthetic_inputs
from nncf_transformers.runtimes import onnx_runtime, openvino_runtime, torch_runtime

CLASSES = {
    "bert": "BertModelEMB",
    "roberta": "RobertaModelEMB",
    "xlm-roberta": "XLMRobertaModelEMB",
    "electra": "ElectraModelEMB",
    "distilbert": "DistilBertModelEMB",
}


def write_encoder(folder: Path, family: str = "bert", **sizes: Any) -> Any:
    """A plain encoder, with a bias in its pooler if it has one."""
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**settings, **OWN_SIZES.get(family, {}), **sizes})
    encoder = AutoModel.from_config(config).eval()
    if getattr(encoder, "pooler", None) is not None:
        torch.nn.init.normal_(encoder.pooler.dense.bias)
    encoder.save_pretrained(folder)
    return encoder


def vectors(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).embedding


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("family", list(CLASSES))
def test_from_an_encoder_to_a_folder_and_back(tmp_path: Path, family: str, pooling: str) -> None:
    encoder = write_encoder(tmp_path / "encoder", family)
    torch.manual_seed(1)
    model = load_embedding_model(tmp_path / "encoder", pooling)
    inputs = synthetic_inputs(model, 3, 12)
    assert type(model).__name__ == CLASSES[family] and not model.training
    with torch.no_grad():
        states = encoder(**inputs).last_hidden_state
        dense = model.embedder.dense
        if pooling == "mean":
            mask = inputs["attention_mask"].unsqueeze(-1).float()
            expected = (states * mask).sum(1) / mask.sum(1)
        elif getattr(encoder, "pooler", None) is not None:
            expected = encoder.pooler.dense(states[:, 0])
        else:
            # There is none to begin with; it is the library's random one.
            assert 0.1 < dense.weight.std() < 0.6
            expected = dense(states[:, 0])
    assert torch.allclose(vectors(model, inputs), expected, atol=1e-5)

    with torch.no_grad():
        model.embedder.activation.scale.fill_(0.5)
    assert torch.allclose(vectors(model, inputs), expected * np.exp(0.5), atol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architectures"] == [CLASSES[family]] and config["embedding_pooling"] == pooling
    assert is_embedding(AutoConfig.from_pretrained(tmp_path / "saved")) and not is_embedding(encoder.config)
    again = load_embedding_model(tmp_path / "saved")
    assert type(again) is type(model)
    theirs = again.state_dict()
    assert theirs.keys() == model.state_dict().keys()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
    assert torch.equal(vectors(again, inputs), vectors(model, inputs))


def test_the_pooling_of_a_saved_model_can_be_changed(tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder")
    load_embedding_model(tmp_path / "encoder").save_pretrained(tmp_path / "saved")
    model, other = load_embedding_model(tmp_path / "saved"), load_embedding_model(tmp_path / "saved", "mean")
    assert not model.embedder.mean and other.embedder.mean
    # Trained already: it keeps its linear layer.
    assert torch.equal(model.embedder.dense.weight, other.embedder.dense.weight)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_does_not_matter(tmp_path: Path, pooling: str) -> None:
    write_encoder(tmp_path)
    model = load_embedding_model(tmp_path, pooling)
    inputs = synthetic_inputs(model, 4, 12)
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][inputs["attention_mask"] == 0] = 77
    assert torch.allclose(vectors(model, other), vectors(model, inputs), atol=1e-5)
    for i in range(4):
        length = int(inputs["attention_mask"][i].sum())
        alone = {name: value[i : i + 1, :length] for name, value in inputs.items()}
        assert torch.allclose(vectors(model, alone), vectors(model, inputs)[i : i + 1], atol=1e-5)
        # Without a mask, all of it is text.
        assert torch.allclose(
            vectors(model, {"input_ids": alone["input_ids"], "token_type_ids": alone["token_type_ids"]}),
            vectors(model, alone),
            atol=1e-6,
        )
    (as_tuple,) = model(**inputs, return_dict=False)
    assert torch.equal(as_tuple.detach(), vectors(model, inputs))


def test_scale_starts_at_one_and_is_trained(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    model = load_embedding_model(tmp_path)
    assert model.embedder.activation.scale.item() == 0 and model.embedder.activation.scale.shape == ()
    model(**synthetic_inputs(model, 2, 8)).embedding.square().mean().backward()
    assert model.embedder.activation.scale.grad != 0


def test_a_model_of_answers_is_a_start_without_a_pooler(tmp_path: Path) -> None:
    answers = tiny_model("bert")
    answers.save_pretrained(tmp_path)
    model = load_embedding_model(tmp_path)
    inputs = synthetic_inputs(model, 2, 8)
    ours, theirs = model.bert(**inputs).last_hidden_state, answers.bert(**inputs).last_hidden_state
    assert torch.equal(ours, theirs) and model.embedder.dense.weight.std() > 0.1


def test_an_embedding_may_have_a_size_of_its_own(tmp_path: Path) -> None:
    write_encoder(tmp_path, embedding_dim=8)
    model = load_embedding_model(tmp_path)
    assert vectors(model, synthetic_inputs(model, 2, 8)).shape == (2, 8)


def test_the_pooler_of_a_model_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    revision = "0" * 40
    repository = tmp_path / "cache" / "models--some--encoder"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    shutil.copytree(tmp_path / "encoder", repository / "snapshots" / revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for module in ("transformers.utils.hub", "transformers.utils"):
        monkeypatch.setattr(f"{module}.TRANSFORMERS_CACHE", str(tmp_path / "cache"), raising=False)
    model = load_embedding_model("some/encoder")
    assert torch.equal(model.embedder.dense.weight, encoder.pooler.dense.weight)
    assert torch.equal(model.embedder.dense.bias, encoder.pooler.dense.bias)


def test_int8_comes_back_and_is_exported(tmp_path: Path, int8_config: Path) -> None:
    write_encoder(tmp_path / "encoder", num_hidden_layers=1)
    model = load_embedding_model(tmp_path / "encoder")
    inputs = synthetic_inputs(model, 4, 12)
    plain = vectors(model, inputs)
    Compression(load_config(int8_config)).start(model, [inputs] * 2)
    small = vectors(model, inputs)
    assert 0 < (small - plain).abs().max() < 0.3 * plain.abs().max()
    model.save_pretrained(tmp_path / "int8")
    again = load_embedding_model(tmp_path / "int8").eval()
    assert Compression.of(again) is not None and torch.equal(vectors(again, inputs), small)
    rows = rows_of(model_inputs(again, inputs))
    export_model(again, to_onnx=str(tmp_path / "m.onnx"), to_openvino=str(tmp_path / "ir"), samples=[rows])
    for runtime in (onnx_runtime(tmp_path / "m.onnx"), openvino_runtime(tmp_path / "ir" / "openvino_model.xml")):
        (found,) = runtime(rows)
        assert found.shape == (4, 32)
        # Two runtimes round differently at a quantizer's edges.
        assert np.abs(found - small.numpy()).mean() < 0.05 * np.abs(small.numpy()).mean()


TEXTS = ["one two three four five six", "two", "", "three one two", "six five four three two one six", "five"]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_embed_keeps_the_order(tmp_path: Path, batch_size: int) -> None:
    vocabulary = build_vocabulary(TEXTS)
    write_tokenizer(tmp_path, vocabulary)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    write_encoder(tmp_path, num_hidden_layers=1)
    model = load_embedding_model(tmp_path).train()
    calls = []

    def runtime(inputs: Any) -> Any:
        calls.append(inputs["attention_mask"])
        return torch_runtime(model)(inputs)

    found = embed(runtime, tokenizer, TEXTS, 6, batch_size)
    assert found.dtype == np.float32 and found.shape == (6, 32) and model.training
    for text, vector in zip(TEXTS, found, strict=True):
        # Six tokens with [CLS] and [SEP] are four words.
        ids = tokenizer(" ".join(text.split()[:4]), return_tensors="pt")
        assert np.allclose(vector, vectors(model.eval(), dict(ids))[0].numpy(), atol=1e-5)
    assert [len(mask) for mask in calls] == {1: [1] * 6, 2: [2] * 3, 4: [4, 2], 100: [6]}[batch_size]
    # Those of like length together: no batch is longer than its longest text, and short ones come first.
    widths = [mask.shape[1] for mask in calls]
    assert widths == sorted(widths) and all(mask.sum(1).max() == mask.shape[1] for mask in calls)
