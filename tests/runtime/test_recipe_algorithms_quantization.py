"""Quantizers that begin late, stay as they are from some epoch on, and leave out classes of modules."""

import copy
from pathlib import Path
from typing import Any

import nncf
import nncf.torch
import onnx
import pytest
import torch
from recipe_loop import EPOCH, TOTAL, Loop, same, settings, tensors
from tiny import tiny_batches, tiny_model
from torch import nn

from nncf_transformers.algorithms.masks import bake
from nncf_transformers.algorithms.quantization import is_weight_quantizer, quantizers
from nncf_transformers.checkpoint import HOOK_PREFIX, remove_hooks
from nncf_transformers.compression import Compression, compression_parameters
from nncf_transformers.config import MagnitudeSparsityConfig, QuantizationConfig, to_nncf_arguments
from nncf_transformers.errors import UsageError
from nncf_transformers.export import export_model
from nncf_transformers.inputs import model_inputs

START = 2 * EPOCH
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


def quantization(**changes: Any) -> QuantizationConfig:
    return QuantizationConfig(
        place="r.yaml: q[0]", **{"preset": "mixed", "calibration_samples": 6, "start_epoch": 2.0, **changes}
    )


def rows(model: nn.Module, count: int) -> list[dict[str, torch.Tensor]]:
    batches = [model_inputs(model, batch) for batch in tiny_batches(model)]
    return [{k: v[i : i + 1] for k, v in batch.items()} for batch in batches for i in range(4)][:count]


def ranges(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors(model).items() if name.startswith(HOOK_PREFIX)}


def test_before_its_start_quantization_has_no_effect() -> None:
    # Not even the smallest: as if there were no quantizers.
    loop, plain = Loop(settings(quantization())), Loop(None)
    assert sum(1 for _ in quantizers(loop.model)) == 29
    before = ranges(loop.model)
    loop.run(START - 1)
    plain.run(START - 1)
    assert loop.losses == plain.losses
    parameters = dict(loop.model.named_parameters())
    assert all(torch.equal(parameters[name], tensor) for name, tensor in plain.model.named_parameters())
    now = ranges(loop.model)
    assert all(torch.equal(before[name], now[name]) for name in before)
    assert loop.compression.statistics(loop.model)["compression/quantizers"] == 0
    # In the optimizer they are from the beginning.
    (group,) = loop.optimizer.param_groups[1:]
    assert set(map(id, group["params"])) == set(map(id, compression_parameters(loop.model)))
    assert loop.run(START).losses == plain.run(START).losses
    assert loop.run(START + 1).losses[-1] != plain.run(START + 1).losses[-1]
    assert loop.compression.statistics(loop.model)["compression/quantizers"] == 29


def test_at_its_start_it_calibrates_on_the_model_as_it_is_then() -> None:
    pruning = MagnitudeSparsityConfig(place="p", final_sparsity=0.5, end_epoch=1.5)
    loop = Loop(settings(pruning, quantization())).run(START - 1)
    loop.run(START)
    # What nncf.quantize makes of the pruned model.
    plain = copy.deepcopy(loop.model).eval()
    remove_hooks(plain, masks=False)
    bake(plain)
    arguments = to_nncf_arguments(quantization())
    expected = nncf.quantize(plain, nncf.Dataset(rows(plain, 6)), **arguments).state_dict()
    found = {name: tensor for name, tensor in ranges(loop.model).items() if "binary_mask" not in name}
    assert found.keys() == {name for name in expected if name.startswith(HOOK_PREFIX)}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert int((plain.get_parameter(QUERY) == 0).sum()) == 512


def test_calibration_leaves_the_random_state_and_the_mode_alone() -> None:
    loop = Loop(settings(quantization())).run(START - 1)
    loop.model.train()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    loop.compression.advance(loop.model)
    assert torch.equal(torch.rand(1), expected) and loop.model.training
    assert all(int(module.enabled) for _, module in quantizers(loop.model))


def test_frozen_ranges_do_not_move() -> None:
    loop = Loop(settings(quantization(start_epoch=0.0, freeze_epoch=2.0)))
    first = ranges(loop.model)
    loop.run(START)
    frozen, weights = ranges(loop.model), tensors(loop.model)
    assert any(not torch.equal(first[name], frozen[name]) for name in first)
    loop.run()
    last = ranges(loop.model)
    assert all(torch.equal(frozen[name], last[name]) for name in frozen)
    assert not torch.equal(weights[QUERY], loop.model.get_parameter(QUERY))
    assert all(p.requires_grad for p in loop.optimizer.param_groups[1]["params"])


@pytest.mark.parametrize(
    ("types", "weights"),
    # 12 linear layers in the encoder, the head, and three embeddings.
    [(("LayerNorm",), 16), (("Embedding",), 13), (("BertSelfAttention", "Embedding"), 7), (("BertLayer",), 4)],
)
def test_classes_of_modules_stay_in_floating_point(types: tuple[str, ...], weights: int) -> None:
    loop = Loop(settings(quantization(ignored_types=types, start_epoch=0.0)))
    assert sum(is_weight_quantizer(name) for name, _ in quantizers(loop.model)) == weights


def test_a_checkpoint_from_before_the_start_is_in_floating_point(tmp_path: Path) -> None:
    loop, plain = Loop(settings(quantization())).run(3), Loop(None).run(3)
    other = loop.reloaded(tmp_path / "early")
    inputs = model_inputs(plain.model, plain.batches[0])
    with torch.no_grad():
        expected = plain.model.eval()(**inputs).start_logits
        assert torch.equal(other.model.eval()(**inputs).start_logits, expected)
    export_model(other.model, to_onnx=str(tmp_path / "early.onnx"))
    kinds = {node.op_type for node in onnx.load(tmp_path / "early.onnx").graph.node}
    assert "MatMul" in kinds and not any("Quantize" in kind for kind in kinds)
    # The export works on a copy: the training goes on.
    loop.run()
    other.run()
    assert same(loop.model, other.model)
    export_model(other.finish().model, to_onnx=str(tmp_path / "late.onnx"))
    assert any("Quantize" in node.op_type for node in onnx.load(tmp_path / "late.onnx").graph.node)


def refused(message: str, *arguments: Any) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Loop(settings(*arguments))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("r.yaml: q[0]")


def test_a_training_that_ends_before_is_refused() -> None:
    refused(f"starts at epoch 4 .step {TOTAL}., the training ends at step {TOTAL}", quantization(start_epoch=4.0))


@pytest.mark.parametrize("setting", [{"smooth_quant": 0.5}, {"bias_correction": True}])
def test_what_changes_the_model_at_the_beginning_is_refused(setting: dict[str, Any]) -> None:
    refused(f'"{next(iter(setting))}" changes the model at the beginning', quantization(**setting))


def test_samples_must_be_there_again(tmp_path: Path) -> None:
    loop = Loop(settings(quantization())).run(2)
    other = loop.reloaded(tmp_path)
    compression = Compression.of(other.model)
    assert compression is not None
    compression.rows = None
    with pytest.raises(UsageError, match=r"set Compression\.rows before the training goes on"):
        compression.begin(other.model, steps_per_epoch=EPOCH, total_steps=TOTAL)


def test_a_training_that_is_broken_off_before_is_calibrated_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(settings(quantization())).run(3).finish()
    assert "it is calibrated now" in caplog.text
    assert all(int(module.enabled) for _, module in quantizers(loop.model))
    quantized = nncf.quantize(
        plain_of(loop.model), nncf.Dataset(rows(loop.model, 6)), **to_nncf_arguments(quantization())
    )
    inputs = model_inputs(loop.model, loop.batches[0])
    with torch.no_grad():
        assert torch.equal(loop.model.eval()(**inputs).end_logits, quantized.eval()(**inputs).end_logits)


def test_without_samples_it_is_not_quantized(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(settings(quantization())).run(3).reloaded(tmp_path)
    compression = Compression.of(loop.model)
    assert compression is not None
    compression.rows = None
    for algorithm in compression.algorithms:
        algorithm.rows = None
    compression.finish(loop.model)
    assert "nothing is quantized" in caplog.text and not any(quantizers(loop.model))


def plain_of(model: nn.Module) -> nn.Module:
    plain = tiny_model()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith(HOOK_PREFIX)})
    return plain
