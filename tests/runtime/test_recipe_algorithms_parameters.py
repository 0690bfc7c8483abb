"""Names of parameters in recipes, and how parameters are filled."""

import re

import numpy as np
import pytest
from recipe_loop import EPOCH, Loop, settings
from tiny import tiny_batches, tiny_model
from torch import nn

from nncf_transformers.algorithms import create
from nncf_transformers.algorithms.layer_dropping import drop_layers
from nncf_transformers.config import (
    AlgorithmConfig,
    ConfigError,
    ConstantSparsityConfig,
    LayerDroppingConfig,
    MagnitudeSparsityConfig,
    SetParameterConfig,
)
from nncf_transformers.config.parameters import original_names, resolve_parameters
from nncf_transformers.inputs import model_inputs

QUERY = "bert.encoder.layer.{}.attention.self.query.weight"


def found(*patterns: str, model: nn.Module | None = None) -> list[str]:
    return resolve_parameters(patterns, model or tiny_model(), "recipe.yaml: params")


def attach(config: AlgorithmConfig, model: nn.Module) -> None:
    create(config).attach(model, [model_inputs(model, tiny_batches(model, count=1, rows=1)[0])])


def test_a_full_name_is_exact() -> None:
    assert found(QUERY.format(1)) == [QUERY.format(1)]
    with pytest.raises(ConfigError, match="matches no parameter"):
        found(QUERY.format(1).removesuffix(".weight"))


def test_an_expression_matches_the_beginning_of_a_name() -> None:
    assert found(r"re:bert\.encoder\.layer\.1\.attention\.self\.query") == [
        QUERY.format(1),
        QUERY.format(1).replace("weight", "bias"),
    ]
    assert found(r"re:.*query\.weight$") == [QUERY.format(0), QUERY.format(1)]
    with pytest.raises(ConfigError, match="matches no parameter"):
        found(r"re:query\.weight")


def test_names_come_once_and_in_the_order_of_the_model() -> None:
    assert found(QUERY.format(1), "re:.*query.weight", QUERY.format(0)) == [QUERY.format(0), QUERY.format(1)]


def test_all() -> None:
    model = tiny_model()
    assert found("__ALL__", model=model) == [name for name, _ in model.named_parameters()]


def test_all_that_can_be_pruned() -> None:
    model = tiny_model()
    linear = [f"{name}.weight" for name, module in model.named_modules() if type(module) is nn.Linear]
    assert found("__ALL_PRUNABLE__", model=model) == linear and len(linear) == 13


def test_a_weight_that_is_an_embedding_too_is_not_pruned() -> None:
    model = tiny_model(head="masked")
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert "bert.embeddings.word_embeddings.weight" not in found("__ALL_PRUNABLE__", model=model)
    # Under its second name it is still the same parameter.
    assert found("cls.predictions.decoder.weight", model=model) == ["bert.embeddings.word_embeddings.weight"]


@pytest.mark.parametrize("pattern", ["bert.encoder.layer.1.attention.self.qurey.weight", "re:.*layer.1.*qurey.weight"])
def test_what_matches_nothing_is_an_error_with_near_names(pattern: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(QUERY.format(1))) as caught:
        found(pattern)
    assert str(caught.value).startswith(f'recipe.yaml: params: "{pattern}"') and "\n" not in str(caught.value)


def test_a_wrong_expression() -> None:
    with pytest.raises(ConfigError, match=r'"re:\(" is not a regular expression'):
        found("re:(")


def test_what_matches_nothing_may_be_noted() -> None:
    missing: list[str] = []
    assert resolve_parameters(["no", QUERY.format(0)], tiny_model(), "p", missing=missing) == [QUERY.format(0)]
    assert missing == ["no"]


@pytest.mark.parametrize("kind", [MagnitudeSparsityConfig, ConstantSparsityConfig])
@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("re:.*query", QUERY.format(0).replace("weight", "bias")),
        ("bert.embeddings.word_embeddings.weight", "bert.embeddings.word_embeddings.weight"),
        ("bert.encoder.layer.0.output.LayerNorm.weight", "bert.encoder.layer.0.output.LayerNorm.weight"),
    ],
)
def test_only_linear_layers_can_be_pruned(kind: type[AlgorithmConfig], pattern: str, named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"r.yaml.params: means {named}, which is not")):
        attach(kind(place="r.yaml", parameters=(pattern,)), tiny_model())  # type: ignore[call-arg]


def test_models_that_write_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="not been proven for the family 'gpt2'"):
        attach(MagnitudeSparsityConfig(parameters=("__ALL_PRUNABLE__",)), tiny_model("gpt2", "causal"))


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_names_are_those_of_before_layers_were_dropped(family: str) -> None:
    model = tiny_model(family, num_hidden_layers=4, **({"n_layers": 4} if family == "distilbert" else {}))
    stack = "bert.encoder.layer" if family == "bert" else "distilbert.transformer.layer"
    last = [name for name, _ in model.named_parameters() if name.startswith(f"{stack}.3.")]
    drop_layers(model, LayerDroppingConfig(layers=(f"{stack}.0", f"{stack}.2")))
    present = original_names(model)
    assert [name for name, former in present.items() if former in last] == [
        name.replace(f"{stack}.3", f"{stack}.1") for name in last
    ]
    assert found(last[0], model=model) == [last[0].replace(f"{stack}.3", f"{stack}.1")]
    with pytest.raises(ConfigError, match="matches no parameter"):
        found(last[0].replace(f"{stack}.3", f"{stack}.2"), model=model)
    # A second time, still by the names of the beginning.
    drop_layers(model, LayerDroppingConfig(layers=(f"{stack}.1",)))
    assert found(f"re:{stack}", model=model) == [name.replace(f"{stack}.3", f"{stack}.0") for name in last]
    head = [name for name in present if name.startswith("qa_outputs")]
    assert head and all(present[name] == name for name in head)


def test_parameters_to_fill_that_need_not_be_there(caplog: pytest.LogCaptureFixture) -> None:
    names = ("none", QUERY.format(0))
    loop = Loop(settings(SetParameterConfig(place="r", parameters=names, init_value=0.5, strict=False)))
    assert 'r.params: "none" matches no parameter' in caplog.text
    assert bool((loop.model.get_parameter(names[1]) == 0.5).all())
    with pytest.raises(ConfigError, match='r.params: "none" matches no parameter'):
        Loop(settings(SetParameterConfig(place="r", parameters=names)))


@pytest.mark.parametrize(
    ("frequency", "updates"),
    # Where the value changes, in steps; four are an epoch, and it begins at the second one and ends at the twelfth.
    [(None, list(range(2, 13))), (1.0, [2, 6, 10, 12]), (0.5, [2, 4, 6, 8, 10, 12]), (0.1, list(range(2, 13)))],
)
def test_a_value_changes_as_often_as_is_said(frequency: float | None, updates: list[int]) -> None:
    config = SetParameterConfig(
        parameters=(QUERY.format(0),), final_value=1.0, start_epoch=0.5, end_epoch=3.0, update_frequency=frequency
    )
    loop, start, end = Loop(settings(config)), round(0.5 * EPOCH), 3 * EPOCH
    for step in range(start, end + 1):
        weight = loop.run(step).model.get_parameter(QUERY.format(0)).detach().numpy()
        latest = max(update for update in updates if update <= step)
        assert weight == pytest.approx(np.full((32, 32), (latest - start) / (end - start)), abs=1e-6)
    assert loop.run(end + 1).model.get_parameter(QUERY.format(0)).std() > 0
