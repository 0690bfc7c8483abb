"""What quantizes the torch model itself: torchao, neural-compressor, NNCF, and ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

Inputs = Mapping[str, np.ndarray]


def torchao(model: nn.Module, target: Path, samples: Sequence[Inputs]) -> str:
    """INT8 weights per channel, activations quantized by token at run time; writes a state dictionary."""
    quantize_with_torchao(model)
    torch.save(model.state_dict(), target)
    return "linear layers, weights per channel, activations by token at run time"


def quantize_with_torchao(model: nn.Module) -> None:
    """Quantize the model's linear layers in place."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model, Int8DynamicActivationInt8WeightConfig(version=2))


def compressor(model: nn.Module, target: Path, samples: Sequence[Inputs], kind: str) -> str:
    """neural-compressor's PT2E path: ``torch.export``, observers, calibration; writes an exported program.

    Args:
        model: the FP32 model.
        target: a ``.pt2`` file.
        samples: inputs of one row each.
        kind: "static" or "dynamic" activation ranges.
    """
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import (
        DynamicQuantConfig,
        INT8StaticQuantConfig,
        convert,
        prepare,
    )

    names = ("input_ids", "attention_mask", "token_type_ids")
    rows = [tuple(torch.from_numpy(sample[name]) for name in names) for sample in samples]
    # Two rows: a dimension of one would be taken for a constant.
    example = tuple(torch.cat([tensor, tensor]) for tensor in rows[0])
    batch, sequence = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("sequence", min=8, max=512)
    shapes = tuple({0: batch, 1: sequence} for _ in names)
    exported = export(Positional(model), example, dynamic_shapes=shapes)
    if exported is None:
        raise RuntimeError("neural-compressor could not export the model")
    config = INT8StaticQuantConfig() if kind == "static" else DynamicQuantConfig()
    prepared = prepare(exported, config, example_inputs=example)
    with torch.no_grad():
        for row in rows if kind == "static" else rows[:1]:
            prepared(*row)
        quantized = convert(prepared)
        program = torch.export.export(quantized, example, dynamic_shapes=shapes, strict=False)
    torch.export.save(program, target)
    return f"PT2E for Inductor, {kind} activation ranges" + (f", {len(rows)} samples" if kind == "static" else "")


def nncf_ir(model: nn.Module, target: Path, samples: Sequence[Inputs]) -> str:
    """``nncf.quantize`` as its documentation has it for a transformer; writes an IR."""
    import nncf
    import openvino

    rows = [{name: torch.from_numpy(array) for name, array in sample.items()} for sample in samples]
    quantized = nncf.quantize(
        model,
        nncf.Dataset(rows),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(rows),
    )
    names = ("input_ids", "attention_mask", "token_type_ids")
    with torch.no_grad():
        example = tuple(rows[0][name] for name in names)
        converted = openvino.convert_model(Positional(quantized), example_input=example)
    for port, name in zip(converted.inputs, names, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    converted.validate_nodes_and_infer_types()
    openvino.save_model(converted, target, compress_to_fp16=False)
    return f"nncf.quantize on the torch model, MIXED, TRANSFORMER, {len(rows)} samples"


def ours(model: nn.Module, config: Path, samples: Sequence[Inputs]) -> str:
    """Quantize in place with a configuration of nncf_configs/, without training."""
    from nncf_transformers.compression import Compression
    from nncf_transformers.config import load_config

    rows = [{name: torch.from_numpy(array) for name, array in sample.items()} for sample in samples]
    compression = Compression(load_config(config))
    compression.start(model, rows)
    compression.finish(model)
    return f"{config.name}, {len(rows)} samples"


class Positional(nn.Module):
    """A model that takes its inputs by position and returns its two logits, for exporters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> tuple[Any, Any]:
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return outputs.start_logits, outputs.end_logits
