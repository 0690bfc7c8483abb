"""Sequence-to-sequence models: the decoder's inputs, generation through quantizers, and the export of two parts."""

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from datasets import Dataset
from tiny import VOCABULARY, tiny_batches, tiny_model
from torch import nn

from nncf_transformers.algorithms.quantization import quantizers
from nncf_transformers.compression import Compression
from nncf_transformers.config import parse_config
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.evaluation import perplexity
from nncf_transformers.export import export_model, sizes_of
from nncf_transformers.hf import Seq2SeqTrainer, Seq2SeqTrainingArguments
from nncf_transformers.inputs import call_model, input_names, model_inputs, synthetic_inputs
from nncf_transformers.loading import load_model
from nncf_transformers.parts import ENCODER_MASK, ENCODER_STATES, hook_encoder
from nncf_transformers.runtimes import Inputs, Outputs, Runtime, onnx_runtime, openvino_runtime, torch_runtime

QUANTIZATION = {"algorithm": "quantization", "calibration_samples": 8}


def compress(model: nn.Module, *others: dict[str, Any], **settings: Any) -> nn.Module:
    config = parse_config({"algorithms": [QUANTIZATION | settings, *others]}, "test")
    Compression(config).start(model, tiny_batches(model))
    return model.eval()


@pytest.fixture(scope="module")
def plain() -> Any:
    return tiny_model("t5", "seq2seq")


@pytest.fixture(scope="module")
def quantized(plain: Any) -> Any:
    return compress(copy.deepcopy(plain), smooth_quant=0.95)


@pytest.fixture(scope="module")
def exported(quantized: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    export_model(quantized, to_onnx=str(folder / "m.onnx"), to_openvino=str(folder / "ir"))
    return folder


def both(encoder: Runtime, decoder: Runtime) -> Runtime:
    """Make one runtime of the two parts of a model; it takes the decoder's tokens as ``decoder_input_ids``."""

    def run(inputs: Inputs) -> Outputs:
        (states,) = encoder({name: inputs[name] for name in ("input_ids", "attention_mask")})
        own = {"input_ids": inputs["decoder_input_ids"], ENCODER_STATES: states, ENCODER_MASK: inputs["attention_mask"]}
        return decoder(own)

    return run


def encode(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Run the encoder as text generation does, outside the model's forward."""
    with torch.no_grad():
        states: torch.Tensor = model.get_encoder()(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], return_dict=True
        ).last_hidden_state
    return states


def in_model(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        states: torch.Tensor = model(**inputs, return_dict=True).encoder_last_hidden_state
    return states


def test_the_decoder_reads_the_labels_shifted(plain: Any) -> None:
    assert input_names(plain) == ("input_ids", "attention_mask", "decoder_input_ids")
    batch = tiny_batches(plain, count=1)[0]
    batch["labels"] = torch.tensor([[7, 8, 9], [6, 5, -100], [4, -100, -100], [3, 2, 1]])
    inputs = model_inputs(plain, batch)
    assert inputs["decoder_input_ids"].tolist() == [[0, 7, 8], [0, 6, 5], [0, 4, 0], [0, 3, 2]]
    own = {**batch, "decoder_input_ids": torch.ones(4, 2, dtype=torch.long)}
    assert model_inputs(plain, own)["decoder_input_ids"].tolist() == [[1, 1]] * 4


def test_data_without_targets_is_refused(plain: Any) -> None:
    batch = tiny_batches(plain, count=1)[0]
    del batch["labels"]
    with pytest.raises(UsageError, match="T5ForConditionalGeneration: the data has no labels"):
        model_inputs(plain, batch)


@pytest.mark.parametrize("how", ["as it is", "copied", "reloaded", "hooked twice"])
def test_an_encoder_called_alone_has_its_quantizers(how: str, plain: Any, quantized: Any, tmp_path: Path) -> None:
    model = quantized
    if how == "copied":
        model = copy.deepcopy(quantized)
        assert model.get_encoder().forward.model is model
    if how == "reloaded":
        quantized.save_pretrained(tmp_path)
        model = load_model(type(quantized), tmp_path).eval()
    if how == "hooked twice":
        hook_encoder(model)
    calls: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda *_, name=name: calls.update([name])) for name, module in quantizers(model)
    ]
    inputs = synthetic_inputs(model, 3, 20)
    states = encode(model, inputs)
    alone = dict(calls)
    calls.clear()
    expected = in_model(model, inputs)
    for handle in handles:
        handle.remove()
    assert torch.equal(states, expected)
    assert not torch.allclose(states, encode(plain, inputs), atol=1e-3)
    # The table is the decoder's and the head's, too.
    shared = {name for name in alone if "embed_tokens" in name}
    assert alone == {name: 1 if name in shared else n for name, n in calls.items() if name in alone}
    assert all("encoder/" in name for name in alone.keys() - shared) and len(alone) > 20


def test_an_encoder_on_another_gpu_is_left_to_its_model(quantized: Any) -> None:
    replica = quantized.get_encoder()._replicate_for_data_parallel()
    assert "forward" not in replica.__dict__ and "forward" in quantized.get_encoder().__dict__


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"use_cache": False}])
def test_written_text_goes_through_the_quantizers(settings: dict[str, Any]) -> None:
    # Untied and gated as in T5 1.1, whose logits are large enough to tell models apart.
    plain: Any = tiny_model("t5", "seq2seq", tie_word_embeddings=False, feed_forward_proj="gated-gelu")
    model: Any = compress(copy.deepcopy(plain))
    inputs = synthetic_inputs(model, 3, 20)
    inputs.pop("decoder_input_ids")
    written = model.generate(
        **inputs,
        max_new_tokens=8,
        min_new_tokens=8,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **settings,
    )
    if "num_beams" in settings:
        return
    steps = torch.stack(written.logits, 1)
    whole = {**inputs, "decoder_input_ids": written.sequences}
    with torch.no_grad():
        at_once, unquantized = (call_model(m, whole)[0][:, :-1] for m in (model, plain))
    assert torch.allclose(steps, at_once, atol=1e-3)
    assert (steps - unquantized).abs().max() > 0.05


def test_attention_probabilities_stay_in_floating_point(quantized: Any) -> None:
    names = [name for name, _ in quantizers(quantized)]
    assert not [name for name in names if "/type_as/" in name]
    # The value enters only the product with them.
    assert not [name for name in names if name.startswith("post_hooks") and "Attention/v/linear/" in name]


def test_an_export_is_two_models(exported: Path) -> None:
    assert sorted(p.name for p in exported.iterdir()) == ["ir", "m-decoder.onnx", "m-encoder.onnx", "m.parity.json"]
    ports = {}
    for part in ("encoder", "decoder"):
        graph = onnx.load(exported / f"m-{part}.onnx").graph
        for value in (*graph.input, *graph.output):
            ports[part, value.name] = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim][:2]
    assert ports == {
        ("encoder", "input_ids"): ["batch", "sequence"],
        ("encoder", "attention_mask"): ["batch", "sequence"],
        ("encoder", "last_hidden_state"): ["batch", "sequence"],
        ("decoder", "input_ids"): ["batch", "sequence"],
        ("decoder", "encoder_hidden_states"): ["batch", "encoder_sequence"],
        ("decoder", "encoder_attention_mask"): ["batch", "encoder_sequence"],
        ("decoder", "logits"): ["batch", "sequence"],
    }
    ir = {p.name for p in (exported / "ir").iterdir()}
    assert {f"openvino_{part}_model.{kind}" for part in ("encoder", "decoder") for kind in ("xml", "bin")} <= ir
    assert {"config.json", "generation_config.json", "parity.json"} <= ir


def test_the_report_says_what_was_written(exported: Path) -> None:
    report = json.loads((exported / "m.parity.json").read_text())
    assert report["files"] == ["m-encoder.onnx", "m-decoder.onnx"]
    names = ["ONNX Runtime encoder", "ONNX Runtime decoder", "OpenVINO encoder", "OpenVINO decoder"]
    assert [entry["runtime"] for entry in report["runtimes"]] == names
    # Two layers: embedding, relative positions, and 6 layers a block; the decoder has 4 more a block, and the head.
    assert report["nodes"]["encoder"]["int8_readers"] == 2 + 2 * 6
    assert report["nodes"]["decoder"]["int8_readers"] == 3 + 2 * 10
    assert report["nodes"]["decoder"]["int8_weights"] == 2 + 2 * 10, "the table is stored once"
    sizes = sizes_of(str(exported / "m.onnx"), str(exported / "ir"))
    assert [Path(name).name for name in sizes] == [
        "m-encoder.onnx",
        "m-decoder.onnx",
        "openvino_decoder_model.bin",
        "openvino_encoder_model.bin",
    ]


def test_no_float_weight_is_left(exported: Path) -> None:
    for part in ("encoder", "decoder"):
        for tensor in onnx.load(exported / f"m-{part}.onnx").graph.initializer:
            if np.prod(tensor.dims) > VOCABULARY:
                assert tensor.data_type == onnx.TensorProto.INT8, tensor.name


@pytest.mark.parametrize("shape", [(1, 5, 1), (3, 40, 7), (2, 16, 30)])
def test_both_parts_together_are_the_model(quantized: Any, exported: Path, shape: tuple[int, int, int]) -> None:
    batch, source, target = shape
    inputs = {name: tensor.numpy() for name, tensor in synthetic_inputs(quantized, batch, source, seed=3).items()}
    inputs["decoder_input_ids"] = np.random.default_rng(0).integers(5, VOCABULARY, (batch, target))
    (expected,) = torch_runtime(quantized)(inputs)
    assert expected.shape == (batch, target, VOCABULARY)
    for runtime in (
        both(*(onnx_runtime(exported / f"m-{part}.onnx") for part in ("encoder", "decoder"))),
        both(
            *(
                openvino_runtime(exported / "ir" / f"openvino_{part}_model.xml", exact=True)
                for part in ("encoder", "decoder")
            )
        ),
    ):
        assert np.abs(runtime(inputs)[0] - expected).mean() < 0.05 * expected.std()


def test_perplexity_of_targets(plain: Any, tmp_path: Path) -> None:
    batch = tiny_batches(plain, count=1)[0]
    with torch.no_grad():
        loss = plain(**batch).loss
    arrays = {name: tensor.numpy() for name, tensor in (batch | model_inputs(plain, batch)).items()}
    export_model(plain, to_onnx=str(tmp_path / "m.onnx"))
    parts = (onnx_runtime(tmp_path / f"m-{part}.onnx") for part in ("encoder", "decoder"))
    for runtime in (torch_runtime(plain), both(*parts)):
        assert perplexity(runtime, [arrays], causal=False) == pytest.approx(float(loss.exp()), rel=1e-4)


def test_a_wrong_decoder_leaves_nothing(quantized: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import nncf_transformers.export as export

    def wrong(path: Path) -> Any:
        run = onnx_runtime(path)
        return run if "encoder" in path.name else lambda inputs: tuple(-output for output in run(inputs))

    monkeypatch.setattr(export, "onnx_runtime", wrong)
    with pytest.raises(IntegrityError, match="export refused, parity torch - ONNX Runtime decoder"):
        export_model(quantized, to_onnx=str(tmp_path / "m.onnx"), to_openvino=str(tmp_path / "ir"))
    assert not list(tmp_path.iterdir())


def test_an_older_export_is_replaced(plain: Any, tmp_path: Path) -> None:
    for _ in range(2):
        export_model(plain, to_openvino=str(tmp_path / "ir"))
    assert (tmp_path / "ir" / "openvino_decoder_model.xml").is_file()


def test_frozen_quantizers_are_counted_all_the_same(quantized: Any, tmp_path: Path) -> None:
    frozen = copy.deepcopy(quantized).requires_grad_(False)
    export_model(frozen, to_onnx=str(tmp_path / "m.onnx"))
    assert not [name for name, parameter in frozen.named_parameters() if parameter.requires_grad]


def test_distillation_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="T5ForConditionalGeneration is none of the models that can learn so"):
        compress(tiny_model("t5", "seq2seq"), {"algorithm": "distillation", "teacher": "self"})


def test_the_trainer_evaluates_by_writing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"algorithms": [QUANTIZATION]}))
    model: Any = tiny_model("t5", "seq2seq")
    rows = [
        {name: tensor[i].tolist() for name, tensor in batch.items()} for batch in tiny_batches(model) for i in range(4)
    ]

    def trainer(out: str, model: Any, **arguments: Any) -> Any:
        settings = Seq2SeqTrainingArguments(
            output_dir=str(tmp_path / out),
            use_cpu=True,
            report_to="none",
            max_steps=2,
            per_device_train_batch_size=4,
            disable_tqdm=True,
            predict_with_generate=True,
            generation_max_length=6,
            **arguments,
        )
        seen: list[np.ndarray] = []
        made = Seq2SeqTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:8]),
            compute_metrics=lambda prediction: seen.append(prediction.predictions) or {},  # type: ignore[func-returns-value]
        )
        return made, seen

    run, seen = trainer(
        "out", model, do_train=True, nncf_config=str(tmp_path / "config.json"), to_onnx=str(tmp_path / "m.onnx")
    )
    run.train()
    run.save_model()
    loss = run.evaluate()["eval_loss"]
    assert (tmp_path / "m-encoder.onnx").is_file()
    again, seen_again = trainer("eval", load_model(type(model), tmp_path / "out"))
    assert again.evaluate()["eval_loss"] == loss
    assert np.array_equal(seen[0], seen_again[0])
    inputs = {name: torch.tensor([row[name] for row in rows[:8]]) for name in ("input_ids", "attention_mask")}
    written = run.model.generate(**inputs, max_length=6)
    assert np.array_equal(np.where(seen[0] < 0, 0, seen[0])[:, : written.shape[1]], written.numpy())
