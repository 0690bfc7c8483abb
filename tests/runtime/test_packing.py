"""Packing: sizes, equality of what is merged and reloaded with what was trained, and every wrong use."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from tiny import tiny_batches, tiny_model
from torch import nn
from transformers import AutoModel, AutoModelForQuestionAnswering, BertConfig, BertForQuestionAnswering

from nncf_transformers.algorithms.distillation import HiddenStates, hidden_loss
from nncf_transformers.algorithms.teacher import position_limit
from nncf_transformers.compression import Compression
from nncf_transformers.config import load_config
from nncf_transformers.embedding import embedding_class, load_embedding_model
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.export.onnx import write_onnx
from nncf_transformers.inputs import call_model, synthetic_inputs
from nncf_transformers.loading import load_model
from nncf_transformers.packing import (
    HeadImportance,
    PackConfig,
    embedding_parameters,
    is_merged,
    is_packed,
    layer_map,
    layer_parameters,
    merge,
    pack,
    prune_heads,
    remove_dropout,
    transformed,
)

DEFAULT = "num_hidden_layers:12,ff_iter_num:4,num_attention_heads:8,hidden_size:512,pack_emb:1,hidden_act:orig"
SMALL = "num_hidden_layers:2,num_attention_heads:2,hidden_size:16"
FAMILIES = ("bert", "roberta", "xlm-roberta", "electra")


def make(family: str = "bert", kind: str = "qa", **sizes: Any) -> Any:
    """A large model: four layers of width 32 with four heads."""
    model: Any = tiny_model(family, **{"num_hidden_layers": 4, **sizes})
    if kind == "embedding":
        # Both ways of pooling: each family tests one.
        model.config.embedding_pooling = "mean" if family == "roberta" else "cls"
        torch.manual_seed(0)
        encoder = type(AutoModel.from_config(model.config))
        model = embedding_class(encoder)(model.config).eval()
    # The library begins with zeros, by which a bias that is lost would not show.
    nn.init.normal_((model.embedder.dense if kind == "embedding" else model.qa_outputs).bias)
    return model


def packed(text: str = SMALL, family: str = "bert", kind: str = "qa", **sizes: Any) -> Any:
    model = make(family, kind, **sizes)
    torch.manual_seed(1)
    pack(model, PackConfig.parse(text, model.config))
    return model


def prune(model: Any, keep: int = 2) -> dict[int, list[int]]:
    heads = [layer.attention.self.num_attention_heads for layer in model.base_model.encoder.layer]
    return prune_heads(model, [torch.arange(count, 0, -1) for count in heads], keep)


def outputs(model: Any) -> torch.Tensor:
    """All outputs for three rows, the second and third with padding."""
    inputs = synthetic_inputs(model, 3, 12, seed=1)
    for row in (1, 2):
        inputs["attention_mask"][row, 12 - 3 * row :] = 0
    with torch.no_grad():
        return torch.cat([output.flatten() for output in call_model(model, inputs)])


def reloaded(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder)
    if type(model).__name__.endswith("EMB"):
        return load_embedding_model(folder)
    return load_model(AutoModelForQuestionAnswering, folder)


def names_of(model: Any, parameters: list[nn.Parameter]) -> set[str]:
    chosen = {id(parameter) for parameter in parameters}
    prefix = f"{model.base_model_prefix}."
    return {name.removeprefix(prefix) for name, p in model.named_parameters() if id(p) in chosen}


def test_layers_that_stay() -> None:
    assert layer_map(24, 12) == [*range(1, 24, 2)]
    assert layer_map(6, 4) == [0, 2, 3, 5]
    assert layer_map(3, 3) == [0, 1, 2]
    model = make()
    weights = [layer.attention.self.query.weight for layer in model.bert.encoder.layer]
    pack(model, PackConfig.parse("num_hidden_layers:2", model.config))
    assert [layer.attention.self.query.weight for layer in model.bert.encoder.layer] == [weights[1], weights[3]]


def test_parameters_of_a_packed_bert_large() -> None:
    config = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    with torch.device("meta"):
        model = BertForQuestionAnswering(config)
    pack(model, PackConfig.parse(DEFAULT, config))
    removed = prune_heads(model, [torch.arange(16)] * 12, 8)
    assert removed == {layer: [*range(8)] for layer in range(12)}
    merge(model)
    embeddings = sum(p.numel() for p in model.bert.embeddings.parameters())
    layers = {sum(p.numel() for p in layer.parameters()) for layer in model.bert.encoder.layer}
    assert (embeddings, layers) == (15_891_456, {2_103_296})
    assert sum(p.numel() for p in model.parameters()) == 15_891_456 + 12 * 2_103_296 + 1_026  # 41.13 M
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (512, 8, 12)


@pytest.mark.parametrize("kind", ["qa", "embedding"])
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_and_reloaded_models_give_the_same(family: str, kind: str, tmp_path: Path) -> None:
    large = make(family, kind)
    model = packed(family=family, kind=kind)
    assert is_packed(model.config) and not is_merged(model.config)
    assert (model.config.hidden_size, model.config.num_attention_heads) == (32, 4)
    assert position_limit(model) == position_limit(large)
    assert torch.equal(outputs(reloaded(model, tmp_path / "unmerged")), outputs(model))

    assert prune(model) == {0: [2, 3], 1: [2, 3]}
    before = outputs(model)
    assert torch.equal(outputs(reloaded(model, tmp_path / "pruned")), before)

    merge(model)
    torch.testing.assert_close(outputs(model), before, rtol=1e-4, atol=1e-5)
    assert is_merged(model.config)
    assert (model.config.hidden_size, model.config.num_attention_heads) == (16, 2)
    assert not hasattr(model.config, "structured_pruning")
    assert getattr(model.config, "embedding_size", 16) == 16
    # Nothing is left of what only training needs.
    assert not [name for name in model.state_dict() if "transform" in name]
    assert position_limit(model) == position_limit(large)
    again = reloaded(model, tmp_path / "merged")
    assert torch.equal(outputs(again), outputs(model))
    assert {name: p.shape for name, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    if kind == "embedding":
        assert len(outputs(model)) == 3 * 32


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (f"{SMALL},pack_emb:0,ff_iter_num:3,hidden_act:relu", {}),
        ("hidden_size:20,ff_iter_num:2", {}),
        ("num_hidden_layers:2,num_attention_heads:2", {}),
        ("", {}),
        (SMALL, {"family": "electra", "embedding_size": 32}),
        ("hidden_size:20", {"family": "electra"}),
        ("num_hidden_layers:1", {"family": "electra"}),
    ],
)
def test_other_sizes(text: str, sizes: dict[str, Any], tmp_path: Path) -> None:
    model = packed(text, **sizes)
    if "heads:2" in text:
        prune(model)
    before = outputs(model)
    assert torch.equal(outputs(reloaded(model, tmp_path / "unmerged")), before)
    merge(model)
    torch.testing.assert_close(outputs(model), before, rtol=1e-4, atol=1e-5)
    assert torch.equal(outputs(reloaded(model, tmp_path / "merged")), outputs(model))


def test_the_structure(tmp_path: Path) -> None:
    large = make()
    large_tables = {name: p.clone() for name, p in large.bert.embeddings.named_parameters() if "_embeddings" in name}
    model = packed(f"{SMALL},ff_iter_num:3,hidden_act:relu")
    table = model.bert.embeddings.word_embeddings
    assert torch.equal(table.weight, large_tables["word_embeddings.weight"]) and table.transform.out_features == 16
    assert torch.equal(model.qa_outputs.weight, large.qa_outputs.weight)
    layer = model.bert.encoder.layer[0]
    attention = layer.attention
    assert attention.self.query.weight.shape == (32, 16) and attention.output.dense.weight.shape == (16, 32)
    assert [block.weight.shape for block in layer.intermediate.blocks] == [(16, 16)] * 2
    assert isinstance(layer.intermediate.intermediate_act_fn, nn.ReLU)
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["hidden_act"] == "relu" and written["pack_cfg"] == {
        "num_hidden_layers": 2,
        "ff_iter_num": 3,
        "num_attention_heads": 2,
        "hidden_size": 16,
        "pack_emb": True,
        "hidden_act": "relu",
        "base_class_name": "BertForQuestionAnswering",
        "merged": False,
        "original_hidden_size": 32,
        "original_embedding_size": 32,
        "attention_head_size": 8,
    }


@pytest.mark.parametrize("merged", [False, True])
def test_the_library_alone_refuses_the_weights(merged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = packed()
    prune(model)
    if merged:
        merge(model)
    model.save_pretrained(tmp_path)
    # As if load_smaller_models had never been called.
    monkeypatch.setattr("nncf_transformers.structure.PACK_KEY", "no_such_key")
    monkeypatch.setattr("nncf_transformers.structure.CONFIG_KEY", "no_such_key")
    with pytest.raises(RuntimeError, match="mismatch"):
        AutoModelForQuestionAnswering.from_pretrained(tmp_path)


def test_hidden_states_are_compared_at_the_large_size() -> None:
    teacher, model = make(), packed()
    states, theirs = HiddenStates(), HiddenStates()
    states.watch(model)
    theirs.watch(teacher)
    outputs(model)
    outputs(teacher)
    recorded, targets = states.take(), theirs.take()
    brought = transformed(model, recorded)
    assert [state.shape[-1] for state in recorded] == [16] * 3
    assert [state.shape for state in brought] == [targets[0].shape] * 3
    assert len(transformed(model, recorded[:2])) == 2
    hidden_loss(brought, targets)
    # The last one is what the head sees.
    start = nn.functional.linear(brought[-1], model.qa_outputs.weight, model.qa_outputs.bias)[..., 0]
    torch.testing.assert_close(start.flatten(), outputs(model)[: start.numel()])
    for plain in (teacher, packed("num_hidden_layers:2")):
        assert all(a is b for a, b in zip(transformed(plain, targets), targets, strict=True))


def test_a_step_changes_what_it_should() -> None:
    """First the embeddings, then each layer in turn: the tables and the head stay as they are."""
    model, teacher = packed(), make()
    first, second = names_of(model, embedding_parameters(model)), names_of(model, layer_parameters(model, 0))
    tables = ("word", "position", "token_type")
    modules = ["input_transform", "embeddings.LayerNorm"] + [f"embeddings.{t}_embeddings.transform" for t in tables]
    assert first == {f"{module}.{part}" for module in modules for part in ("weight", "bias")}
    assert {name.split(".")[0] for name in second} == {"encoder", "output_transforms"}
    assert not any("encoder.layer.1" in name for name in second)
    assert {"qa_outputs.transform.weight", "qa_outputs.transform.bias"} < names_of(model, layer_parameters(model, 1))

    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([*embedding_parameters(model), *layer_parameters(model, 0)], lr=0.1)
    states, theirs = HiddenStates(), HiddenStates()
    states.watch(model)
    theirs.watch(teacher)
    inputs = synthetic_inputs(model, 2, 8)
    call_model(model, inputs)
    call_model(teacher, inputs)
    ours, targets = transformed(model, states.take())[:2], theirs.take()
    sum(nn.functional.mse_loss(ours[i], targets[2 * i].detach()) for i in range(2)).backward()  # type: ignore[union-attr]
    optimizer.step()
    changed = {name.removeprefix("bert.") for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    # A key's bias shifts all scores of a row alike: it has no gradient but rounding.
    assert changed ^ (first | second) <= {"encoder.layer.0.attention.self.key.bias"}


def test_importance_follows_the_formula() -> None:
    model = packed()
    inputs = synthetic_inputs(model, 2, 8)
    plain = call_model(model, inputs)[0]
    importance = HeadImportance(model)
    assert torch.equal(call_model(model, inputs)[0], plain)
    expected = [torch.zeros(4), torch.zeros(4)]
    for scale in (1.0, -3.0):
        (scale * call_model(model, inputs)[0].sum()).backward()
        # A head's mask stands for one number that multiplies its columns: dL/dmask = sum of gradient times value.
        for i, layer in enumerate(model.bert.encoder.layer):
            dense = layer.attention.output.dense
            gradient = (dense.weight.grad * dense.weight).view(16, 4, 8).sum((0, 2))
            expected[i] += (gradient.abs() - expected[i]) * 0.001
        importance.update()
        model.zero_grad()
    for values, wanted in zip(importance.importance, expected, strict=True):
        torch.testing.assert_close(values, wanted)
        assert (values > 0).all()
    # A copy, made for an evaluation say, is not watched.
    call_model(copy.deepcopy(model), inputs)[0].sum().backward()
    importance.update()
    torch.testing.assert_close(importance.importance, expected)
    importance.close()
    # What fp16 scales the loss by is no importance, and what overflows for it says nothing.
    scaled = HeadImportance(model)
    for factor, scale in ((256.0, 256.0), (math.inf, 256.0)):
        (factor * call_model(model, inputs)[0].sum()).backward()
        scaled.update(scale)
    scaled.close()
    once = HeadImportance(model)
    call_model(model, inputs)[0].sum().backward()
    once.update()
    once.close()
    torch.testing.assert_close(scaled.importance, once.importance)
    resumed = HeadImportance(model)
    resumed.load_state_dict(importance.state_dict())
    torch.testing.assert_close(resumed.importance, expected)
    resumed.close()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_pruned_heads_are_the_least_important() -> None:
    model = packed()
    reference = copy.deepcopy(model)
    removed = prune_heads(model, [torch.tensor([0.3, 0.1, 0.2, 0.4]), torch.tensor([1.0, 0.0, 0.0, 0.0])], 2)
    assert removed == {0: [1, 2], 1: [1, 2]}
    # The same as if these heads gave nothing.
    for layer in reference.bert.encoder.layer:
        with torch.no_grad():
            layer.attention.output.dense.weight[:, 8:24] = 0
    torch.testing.assert_close(outputs(model), outputs(reference))
    assert prune(model, keep=3) == {0: [], 1: []}


def test_no_dropout() -> None:
    model = packed().train()
    assert not torch.equal(outputs(model), outputs(model))
    remove_dropout(model)
    assert torch.equal(outputs(model), outputs(model))
    assert model.config.hidden_dropout_prob == 0.1


def test_a_merged_model_is_quantized_exported_and_reloaded(int8_config: Path, tmp_path: Path) -> None:
    model = packed("num_hidden_layers:1,num_attention_heads:2,hidden_size:16")
    prune(model)
    merge(model)
    Compression(load_config(int8_config)).start(model, tiny_batches(model, count=2))
    model.save_pretrained(tmp_path)
    expected = outputs(model)
    again = load_model(AutoModelForQuestionAnswering, tmp_path).eval()
    assert is_merged(again.config) and torch.equal(outputs(again), expected)
    write_onnx(again, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    inputs = synthetic_inputs(model, 2, 9)
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.no_grad():
        wanted = call_model(model.eval(), inputs)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hiden_size:16", "unknown key 'hiden_size' (did you mean \"hidden_size\"?)"),
        ("hidden_size", "'hidden_size' is no key:value"),
        ("hidden_size:", "'hidden_size:' is no key:value"),
        ("hidden_size:wide", "hidden_size:wide is no whole number"),
        ("hidden_size:16,hidden_size:8", "hidden_size is given twice"),
        ("num_hidden_layers:5", "num_hidden_layers:5 does not fit the model, which has 4; give 1 to 4"),
        ("num_hidden_layers:0", "num_hidden_layers:0 does not fit"),
        ("num_attention_heads:8", "num_attention_heads:8 does not fit the model, which has 4"),
        ("hidden_size:64", "hidden_size:64 does not fit the model, which has 32"),
        ("hidden_size:30", "hidden_size:30 is no multiple of num_attention_heads:4"),
        ("ff_iter_num:1", "ff_iter_num:1 is too small"),
        ("pack_emb:2", "pack_emb:2 is neither yes nor no"),
        ("hidden_act:gelo", 'hidden_act:gelo is no activation of the library (did you mean "gelu"?)'),
    ],
)
def test_wrong_settings(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        PackConfig.parse(text, make().config)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_left_out_stays() -> None:
    config = make().config
    assert PackConfig.parse("", config) == PackConfig(num_hidden_layers=4, num_attention_heads=4, hidden_size=32)
    assert PackConfig.parse(" hidden_size: 16 , pack_emb:false,", config) == PackConfig(
        num_hidden_layers=4, num_attention_heads=4, hidden_size=16, pack_emb=False
    )


def test_models_that_cannot_be_packed(int8_config: Path) -> None:
    config = PackConfig(num_hidden_layers=1, num_attention_heads=2, hidden_size=16)
    model = packed()
    with pytest.raises(UsageError, match="is packed already"):
        pack(model, config)
    with pytest.raises(UsageError, match="'distilbert' cannot be packed; those that can: bert, roberta"):
        pack(tiny_model("distilbert"), config)
    with pytest.raises(UsageError, match="BertForSequenceClassification: a packed model has another head"):
        pack(tiny_model(head="classes"), config)
    with pytest.raises(UsageError, match="does not fit"):
        pack(tiny_model(num_hidden_layers=1), PackConfig(num_hidden_layers=2, num_attention_heads=2, hidden_size=16))
    pruned = make()
    prune(pruned)
    with pytest.raises(UsageError, match="compressed already"):
        pack(pruned, config)
    with pytest.raises(UsageError, match="'relative_key' cannot be packed"):
        pack(tiny_model(position_embedding_type="relative_key"), config)


def test_models_that_cannot_be_merged() -> None:
    with pytest.raises(UsageError, match="cannot be merged, for it is not packed"):
        merge(make())
    model = packed()
    merge(model)
    with pytest.raises(UsageError, match="cannot be merged, for it is merged already"):
        merge(model)
    unpruned = packed("num_attention_heads:2,hidden_size:18")
    with pytest.raises(UsageError, match=r"cannot have 4 heads.* 18; prune them to 2 first"):
        merge(unpruned)
    prune(unpruned)
    merge(unpruned)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "16"}, "pack_cfg.hidden_size must not be '16'"),
        ({"ff_iter_num": 0}, "pack_cfg.ff_iter_num must not be 0"),
        ({"extra": 1}, "pack_cfg must have the keys"),
    ],
)
def test_a_damaged_configuration(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    packed().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["pack_cfg"].update(change)
    path.write_text(json.dumps(config))
    with pytest.raises(IntegrityError, match=message):
        load_model(AutoModelForQuestionAnswering, tmp_path)
