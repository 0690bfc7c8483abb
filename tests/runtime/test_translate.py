"""Places of quantizers under the names of another version of the library."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tiny_batches, tiny_model

from nncf_transformers.compression import Compression
from nncf_transformers.config import parse_config
from nncf_transformers.config.trace import trace_operations
from nncf_transformers.errors import IntegrityError
from nncf_transformers.inputs import call_model, synthetic_inputs
from nncf_transformers.loading import load_model
from nncf_transformers.translate import Place, find_places, translate_parameters, translate_state

ATTENTION = ("bert/encoder/attention/self/matmul/3", "bert/encoder/attention/self/scaled_dot_product_attention/1")
GELU = ("bert/encoder/intermediate/mul/1", "bert/encoder/intermediate/intermediate_act_fn/gelu/0")
DISTIL = ("distilbert/transformer/attention/div/1", "distilbert/transformer/attention/q_lin/linear/1")
HEADS = SimpleNamespace(dim=32, n_heads=2)


@pytest.mark.parametrize(("then", "now"), [ATTENTION, GELU])
def test_twins_are_found_both_ways(then: str, now: str) -> None:
    for a, b in ((then, now), (now, then)):
        assert find_places([f"post_hooks.{a}__0.0"], [b], None) == {
            f"post_hooks.{a}__0.0": Place(f"post_hooks.{b}__0.0")
        }


def test_input_of_an_operation_has_no_twin() -> None:
    with pytest.raises(IntegrityError, match="self/matmul/3, which this model does not compute"):
        find_places([f"pre_hooks.{ATTENTION[0]}__0.0"], [ATTENTION[1]], None)


def test_name_that_is_known_stays() -> None:
    hook = f"post_hooks.{GELU[0]}__0.0"
    assert find_places([hook], GELU, None) == {hook: Place(hook)}


def test_query_of_distilbert_is_scaled() -> None:
    then, now = (f"post_hooks.{node}__0.0" for node in DISTIL)
    assert find_places([then], [DISTIL[1]], HEADS) == {then: Place(now, 4.0)}
    assert find_places([now], [DISTIL[0]], HEADS) == {now: Place(then, 0.25)}


def test_first_product_of_attention_has_no_twin() -> None:
    with pytest.raises(
        IntegrityError, match="quantizes bert/encoder/attention/self/matmul/2, which this model does not"
    ):
        find_places(["post_hooks.bert/encoder/attention/self/matmul/2__0.0"], [ATTENTION[1]], None)


def test_weight_that_is_not_used_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    hook = "pre_hooks.bert/pooler/dense/linear/0__1.0"
    places = find_places([hook], [], None)
    assert places == {hook: None} and "bert/pooler/dense/linear/0 is left out" in caplog.text
    state: list[dict[str, Any]] = [{"hook_names_in_model": [hook], "x": 1}, {"hook_names_in_model": ["a"], "x": 2}]
    assert translate_state(state, {**places, "a": Place("b")}) == [{"hook_names_in_model": ["b"], "x": 2}]
    assert translate_parameters({f"p.{hook}.scale": torch.ones(1)}, "p.", places) == {}


def test_quantizer_behind_smooth_quant_belongs_to_its_operation() -> None:
    hook = "post_hooks.bert/pooler/dense/pre_hook__bert-pooler-dense-linear-0__0[0]/mul/0__0.0"
    assert find_places([hook], ["bert/pooler/dense/linear/0"], None) == {hook: Place(hook)}
    assert find_places([hook], [], None) == {hook: None}


def test_ranges_are_scaled_and_nothing_else() -> None:
    tensors = {f"p.a.{name}": torch.full((1,), 3.0) for name in ("scale", "input_low", "input_range", "enabled")}
    moved = translate_parameters(tensors, "p.", {"a": Place("b", 2.0)})
    assert {name: tensor.item() for name, tensor in moved.items()} == {
        "p.b.scale": 6.0,
        "p.b.input_low": 6.0,
        "p.b.input_range": 6.0,
        "p.b.enabled": 3.0,
    }


def test_checkpoint_of_eager_attention_is_the_same_model_in_fused_attention(tmp_path: Any) -> None:
    """Two ways to run one model in one library: the same difference as between the versions."""
    config = parse_config({"algorithms": [{"algorithm": "quantization", "calibration_samples": 8}]}, "test")
    eager = tiny_model(attn_implementation="eager")
    Compression(config).start(eager, tiny_batches(eager))
    eager.save_pretrained(tmp_path)
    fused = load_model(type(eager), tmp_path, attn_implementation="sdpa").eval()
    inputs = synthetic_inputs(fused, 3, 20)
    names = [operation.node_name for operation in trace_operations(tiny_model(), synthetic_inputs(fused, 1, 8))]
    assert any("scaled_dot_product_attention" in name for name in names)
    with torch.no_grad():
        outputs, expected = call_model(fused, inputs), call_model(eager, inputs)
    real = inputs["attention_mask"].bool()
    for output, wanted in zip(outputs, expected, strict=True):
        # Softmax is summed in another order, and a value at a level's edge may fall to the other side.
        assert (output - wanted)[real].abs().mean() < 0.02 * wanted[real].std()
    assert math.isfinite(float(outputs[0].sum()))


def test_quantizer_of_an_operation_that_does_not_run_is_refused(tmp_path: Any) -> None:
    model = tiny_model()
    config = parse_config({"algorithms": [{"algorithm": "quantization", "calibration_samples": 8}]}, "test")
    Compression(config).start(model, tiny_batches(model))
    model.save_pretrained(tmp_path)
    state = tmp_path / "nncf_config.json"
    text = state.read_text()
    assert "intermediate_act_fn/gelu/0" in text
    state.write_text(text.replace("intermediate_act_fn/gelu/0", "intermediate_act_fn/silu/0"))
    with pytest.raises(IntegrityError, match="silu/0, which this model does not compute"):
        load_model(type(model), tmp_path)
