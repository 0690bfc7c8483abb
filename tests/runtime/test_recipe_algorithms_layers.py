"""Layers that leave a model, at once or in mid-training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_loop import EPOCH, Loop, settings
from tiny import tiny_batches, tiny_model
from torch import nn

from nncf_transformers.algorithms.layer_dropping import drop_layers, keep_layers
from nncf_transformers.algorithms.masks import masks
from nncf_transformers.compression import Compression
from nncf_transformers.config import (
    ConfigError,
    LayerDroppingConfig,
    MagnitudeSparsityConfig,
    QuantizationConfig,
    TrainableConfig,
)
from nncf_transformers.errors import UsageError
from nncf_transformers.inputs import model_inputs
from nncf_transformers.loading import load_model, restore
from nncf_transformers.structure import CONFIG_KEY, find_groups, load_smaller_models, remove_units

LAYER = "bert.encoder.layer.{}"
QUERY = LAYER + ".attention.self.query.weight"
STACKS = {
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "electra": "electra.encoder.layer",
    "deberta-v2": "deberta.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
}


def deep(family: str = "bert", layers: int = 4, **sizes: Any) -> nn.Module:
    if family == "distilbert":
        sizes["n_layers"] = layers
    return tiny_model(family, num_hidden_layers=layers, **sizes)


def dropping(*numbers: int, **changes: Any) -> LayerDroppingConfig:
    return LayerDroppingConfig(place="r.yaml: l[0]", layers=tuple(LAYER.format(n) for n in numbers), **changes)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack(model.eval()(**model_inputs(model, tiny_batches(model)[0]), return_dict=False))


@pytest.mark.parametrize("family", STACKS)
def test_a_layer_is_gone(family: str, tmp_path: Path) -> None:
    model, stack = deep(family), STACKS[family]
    # A smaller model, with the weights of the layers 0 and 3.
    expected = deep(family, 2)
    weights = model.state_dict()
    for name, tensor in expected.state_dict().items():
        tensor.copy_(weights[name.replace(f"{stack}.1.", f"{stack}.3.")])
    drop_layers(model, LayerDroppingConfig(layers=(rf"re:{stack}\.[12]$",)))
    assert torch.equal(logits(model), logits(expected))
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["n_layers" if family == "distilbert" else "num_hidden_layers"] == 2
    assert stored["nncf_kept_layers"] == {stack: [0, 3]}
    plain = type(model).from_pretrained(tmp_path)
    assert torch.equal(logits(plain), logits(expected))


def test_layers_go_in_two_steps() -> None:
    model, once = deep(), deep()
    drop_layers(model, dropping(1))
    drop_layers(model, dropping(2))
    drop_layers(once, dropping(1, 2))
    assert torch.equal(logits(model), logits(once)) and model.config.nncf_kept_layers == once.config.nncf_kept_layers
    with pytest.raises(ConfigError, match=r"layer.1. matches nothing.*the layers are .*layer.0 to .*layer.3"):
        drop_layers(model, dropping(1))


def test_it_comes_first_and_names_mean_the_model_before() -> None:
    pruning = MagnitudeSparsityConfig(parameters=(QUERY.format(3),), final_sparsity=0.5)
    loop = Loop(settings(pruning, dropping(0, 1)), deep())
    assert [name for name, _ in masks(loop.model)] == [QUERY.format(1)]
    loop.run().finish()
    assert loop.model.config.num_hidden_layers == 2
    assert int((loop.model.get_parameter(QUERY.format(1)) == 0).sum()) == 512


def test_quantizers_fit_the_smaller_model(tmp_path: Path) -> None:
    quantization = QuantizationConfig(calibration_samples=2, start_epoch=1.0)
    loop = Loop(settings(dropping(0, 2), quantization), deep()).run(2 * EPOCH).finish()
    loop.model.save_pretrained(tmp_path)
    assert torch.equal(logits(load_model(type(loop.model), tmp_path)), logits(loop.model))


@pytest.mark.parametrize("changes", [{"start_epoch": 1.0}, {"start_epoch": 1.0, "end_epoch": 2.0}])
def test_a_layer_is_left_out_for_a_while(changes: dict[str, Any]) -> None:
    loop, plain = Loop(settings(dropping(1, **changes)), deep()), Loop(None, deep())
    assert loop.run(EPOCH - 1).losses == plain.run(EPOCH - 1).losses
    # With the last step of the epoch, the model is as without the layer.
    loop.run(EPOCH)
    smaller = deep()
    smaller.load_state_dict(loop.model.state_dict())
    drop_layers(smaller, dropping(1))
    assert torch.equal(logits(loop.model), logits(smaller))
    frozen = loop.model.get_parameter(QUERY.format(1)).detach().clone()
    loop.run(2 * EPOCH - 1)
    assert torch.equal(loop.model.get_parameter(QUERY.format(1)), frozen)
    calls: list[int] = []
    loop.model.get_submodule(LAYER.format(1) + ".output").register_forward_hook(lambda *_: calls.append(loop.step))
    loop.run(2 * EPOCH + 1)
    assert calls == ([2 * EPOCH] if "end_epoch" in changes else [])
    loop.run()
    before = logits(loop.model)
    loop.finish()
    assert torch.equal(logits(loop.model), before)
    assert loop.model.config.num_hidden_layers == len(loop.model.bert.encoder.layer)
    assert loop.model.config.num_hidden_layers == (4 if "end_epoch" in changes else 3)


def test_masks_stay_with_their_layers_when_one_goes_at_the_end() -> None:
    pruning = MagnitudeSparsityConfig(parameters=(QUERY.format(0), QUERY.format(3)), final_sparsity=0.5)
    loop = Loop(settings(pruning, dropping(1, start_epoch=1.0)), deep()).run().finish()
    assert [int((loop.model.get_parameter(QUERY.format(n)) == 0).sum()) for n in range(3)] == [512, 0, 512]
    assert loop.model.config.nncf_kept_layers == {"bert.encoder.layer": [0, 2, 3]}


def test_a_checkpoint_evaluates_without_the_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(dropping(1, start_epoch=1.0))
    loop = Loop(config, deep()).run(EPOCH + 2)
    loop.model.save_pretrained(tmp_path)
    monkeypatch.setattr("nncf_transformers.loading._read_config", lambda *_: config)
    model = load_model(type(loop.model), tmp_path)
    assert torch.equal(logits(model), logits(loop.model)) and len(model.bert.encoder.layer) == 4
    Compression.of(model).finish(model)  # type: ignore[union-attr]
    assert torch.equal(logits(model), logits(loop.model)) and len(model.bert.encoder.layer) == 3


def test_going_back_to_a_checkpoint_with_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As a Trainer does that loads its best model at the end.
    config = settings(
        dropping(1, start_epoch=1.0), TrainableConfig(parameters=(QUERY.format(0),), trainable=False, start_epoch=1.0)
    )
    loop = Loop(config, deep()).run(2)
    loop.model.save_pretrained(tmp_path)
    expected = logits(loop.model)
    loop.run(EPOCH + 2)
    monkeypatch.setattr("nncf_transformers.loading._read_config", lambda *_: config)
    loop.compression.leave()
    restore(loop.model, tmp_path)
    loop.model.load_state_dict(load_model(type(loop.model), tmp_path).state_dict())
    assert torch.equal(logits(loop.model), expected)
    assert all(parameter.requires_grad for parameter in loop.model.parameters())


def test_channels_go_before_their_layers_are_renumbered() -> None:
    pruning = MagnitudeSparsityConfig(structure="channel", final_sparsity=0.25)
    loop = Loop(settings(pruning, dropping(1, start_epoch=1.0)), deep()).run()
    before = logits(loop.model)
    loop.finish()
    assert torch.allclose(logits(loop.model), before, atol=1e-4)
    assert [layer.intermediate.dense.out_features for layer in loop.model.bert.encoder.layer] == [48] * 3
    assert getattr(loop.model.config, CONFIG_KEY) == {f"encoder.layer.{n}.intermediate.dense": 48 for n in range(3)}


def test_resuming_a_smaller_checkpoint_in_the_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As a Trainer does: the model is that of the beginning, and gets the checkpoint's weights later.
    config = settings(dropping(0, 2), MagnitudeSparsityConfig(parameters=(QUERY.format(3),)))
    loop = Loop(config, deep()).run(6)
    loop.model.save_pretrained(tmp_path)
    monkeypatch.setattr("nncf_transformers.loading._read_config", lambda *_: config)
    model = deep()
    restore(model, tmp_path)
    model.load_state_dict(loop.model.state_dict())
    assert torch.equal(logits(model), logits(loop.model))
    assert model.config.nncf_kept_layers == loop.model.config.nncf_kept_layers
    keep_layers(model, model.config.nncf_kept_layers)
    assert model.config.num_hidden_layers == 2


def test_heads_that_are_gone_are_counted_by_the_new_numbers(tmp_path: Path) -> None:
    model = deep()
    heads = [group for group in find_groups(model) if group.kind == "head"]
    remove_units(model, {heads[n].name: torch.arange(4) > n - 1 for n in (1, 2, 3)})
    drop_layers(model, dropping(0, 2))
    assert getattr(model.config, CONFIG_KEY) == {
        "encoder.layer.0.attention.self": 3,
        "encoder.layer.1.attention.self": 1,
    }
    model.save_pretrained(tmp_path)
    load_smaller_models()
    assert torch.equal(logits(type(model).from_pretrained(tmp_path)), logits(model))


@pytest.mark.parametrize(("family", "head"), [("albert", "qa"), ("gpt2", "causal"), ("t5", "seq2seq")])
def test_families_whose_layers_stay(family: str, head: str) -> None:
    with pytest.raises(UsageError, match=f"layers of the family '{family}' cannot be removed"):
        drop_layers(tiny_model(family, head), LayerDroppingConfig(place="r.yaml", layers=("re:.*",)))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("re:bert.encoder.layer",), "names all 4 layers; leave at least one"),
        (("bert.encoder.layer.4",), '"bert.encoder.layer.4" matches nothing'),
        (("__ALL__",), '"__ALL__" matches nothing'),
        (("re:[",), "is not a regular expression"),
    ],
)
def test_wrong_names(layers: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        drop_layers(deep(), LayerDroppingConfig(place="r.yaml", layers=layers))
    assert str(caught.value).startswith("r.yaml.layers: ") and "\n" not in str(caught.value)


def test_quantizers_need_layers_that_are_there_or_not() -> None:
    with pytest.raises(UsageError, match="r.yaml: l.0.: layers that are left out in a part of the training only"):
        Loop(settings(dropping(1, start_epoch=1.0), QuantizationConfig(calibration_samples=2)), deep())
    assert Compression.of(deep()) is None
