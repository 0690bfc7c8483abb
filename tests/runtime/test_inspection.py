"""What the inspection of a compressed model says, against values set by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_batches, tiny_model

from nncf_transformers.algorithms.masks import add_mask
from nncf_transformers.algorithms.quantization import quantizers
from nncf_transformers.compression import Compression
from nncf_transformers.config import parse_config
from nncf_transformers.inspection import layer_sparsity, quantizer_ranges

QUERY = "bert.encoder.layer.1.attention.self.query"


def quantized(family: str = "bert", head: str = "qa") -> Any:
    model = tiny_model(family, head)
    config = {"algorithms": [{"algorithm": "quantization", "calibration_samples": 4}]}
    Compression(parse_config(config, "test")).start(model, tiny_batches(model, count=1))
    return model


def by_name(model: Any) -> dict[str, dict[str, Any]]:
    rows = quantizer_ranges(model)
    assert len({row["name"] for row in rows}) == len(rows) == sum(1 for _ in quantizers(model))
    return {row["name"]: row for row in rows}


def quantizer(model: Any, ending: str) -> Any:
    (found,) = (module for name, module in quantizers(model) if name.endswith(ending))
    return found


def test_ranges_are_those_of_the_parameters() -> None:
    """Weights: -s to s by channel. Activations: 8 bits around zero, so one level more below; or with an own low end."""
    model = quantized()
    scales = torch.linspace(0.5, 2.0, 32).reshape(32, 1)
    with torch.no_grad():
        quantizer(model, "query/linear/1__1.0")._scale_param_storage.copy_(scales)
        (output,) = (m for n, m in quantizers(model) if n.startswith("post") and n.endswith("query/linear/1__0.0"))
        output._scale_param_storage.fill_(2.54)
        # Zero lies on a level already: 51 steps of 0.01 below, 204 above.
        (entry,) = (m for n, m in quantizers(model) if n.startswith("pre") and n.endswith("query/linear/1__0.0"))
        entry.input_low.fill_(-0.51)
        entry._input_range_param_storage.fill_(2.55)
    rows = by_name(model)
    assert rows[f"{QUERY}.weight"] == {"name": f"{QUERY}.weight", "kind": "weight", "low": -2.0, "high": 2.0}
    signed = rows[f"{QUERY}: output"]
    assert (signed["kind"], signed["low"], signed["high"]) == (
        "activation",
        pytest.approx(-2.54 * 128 / 127),
        pytest.approx(2.54),
    )
    shifted = rows[f"{QUERY}: input"]
    assert (shifted["low"], shifted["high"]) == (pytest.approx(-0.51, abs=1e-6), pytest.approx(2.04, abs=1e-6))


def test_the_range_is_what_the_quantizer_lets_through() -> None:
    """Values far beyond come out as the ends of the range, in whatever way NNCF rounds these."""
    model = quantized()
    rows = by_name(model)
    for name, module in quantizers(model):
        if module.scale_shape == (1,):
            with torch.no_grad():
                ends = module(torch.tensor([-1e6, 1e6])).numpy()
            same = [row for row in rows.values() if np.allclose([row["low"], row["high"]], ends, rtol=1e-4, atol=1e-6)]
            assert same, name


def test_names_say_where() -> None:
    names = list(by_name(quantized()))
    layer = "bert.encoder.layer.0"
    assert names[0] == "bert.embeddings.word_embeddings.weight"
    assert f"{layer}.attention.self: scaled_dot_product_attention output" in names
    assert f"{layer}.intermediate.intermediate_act_fn: output" in names
    # In the order in which the model computes.
    order = [f"{layer}.attention.self.query: input", f"{layer}.attention.self.query.weight"]
    order += [f"{layer}.attention.self.query: output", f"{layer}.output.dense.weight", f"{QUERY}.weight"]
    assert [names.index(name) for name in order] == sorted(names.index(name) for name in order)
    # One module stands for all layers; its weight has one quantizer, its calls have one each.
    shared = list(by_name(quantized("albert")))
    own = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.query"
    assert [name for name in shared if name.startswith(own)] == [
        f"{own}: input (1 of 2)",
        f"{own}.weight",
        f"{own}: output (1 of 2)",
        f"{own}: input (2 of 2)",
        f"{own}: output (2 of 2)",
    ]


def test_a_model_without_quantizers_has_no_ranges() -> None:
    assert quantizer_ranges(tiny_model()) == []


def test_zeros_are_counted_masked_ones_too() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_parameter(f"{QUERY}.weight")[:8] = 0
        mask = torch.ones(4, 4, dtype=torch.bool)
        mask[0] = mask[1, 1] = False
    add_mask(model, "bert.encoder.layer.0.intermediate.dense.weight", (4, 4)).mask = mask
    rows = layer_sparsity(model)
    found = {row["name"]: row for row in rows}
    assert found[QUERY] == {"name": QUERY, "shape": [32, 32], "sparsity": 8 / 32}
    assert found["bert.encoder.layer.0.intermediate.dense"]["shape"] == [64, 32]
    assert found["bert.encoder.layer.0.intermediate.dense"]["sparsity"] == 5 / 16
    assert [row["sparsity"] for row in rows if row["sparsity"]] == [5 / 16, 8 / 32]
    assert len(rows) == 2 * 6 and rows[0]["name"] == "bert.encoder.layer.0.attention.self.query"
