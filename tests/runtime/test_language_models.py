"""Causal and masked language models: GPT-2's layers, tied tables, perplexity, and text that quantizers write."""

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
from torch.nn import functional

from nncf_transformers.algorithms.base import hooks
from nncf_transformers.algorithms.quantization import is_weight_quantizer, quantizers
from nncf_transformers.compression import Compression
from nncf_transformers.config import parse_config
from nncf_transformers.errors import CompressionError, UsageError
from nncf_transformers.evaluation import perplexity
from nncf_transformers.export import export_model
from nncf_transformers.hf import Trainer, TrainingArguments
from nncf_transformers.inputs import call_model, model_inputs, synthetic_inputs
from nncf_transformers.loading import load_model
from nncf_transformers.runtimes import onnx_runtime, openvino_runtime, torch_runtime

LARGE = 3000  # a vocabulary whose table outweighs everything else
QUANTIZATION = {"algorithm": "quantization", "calibration_samples": 8}
MOVEMENT = {
    "algorithm": "movement_sparsity",
    "warmup_start_epoch": 0,
    "warmup_end_epoch": 1,
    "importance_regularization_factor": 0.1,
    "enable_structured_masking": False,
}
NO_DROPOUT = {
    "gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "bert": {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0},
}


def compress(model: nn.Module, *others: dict[str, Any], **settings: Any) -> nn.Module:
    config = parse_config({"algorithms": [QUANTIZATION | settings, *others]}, "test")
    Compression(config).start(model, tiny_batches(model))
    return model.eval()


@pytest.fixture(scope="module")
def gpt2() -> nn.Module:
    return compress(tiny_model("gpt2", "causal", vocab_size=LARGE))


@pytest.fixture(scope="module")
def exported(gpt2: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    export_model(gpt2, to_onnx=str(folder / "m.onnx"), to_openvino=str(folder / "ir"))
    return folder


def hook_names(model: nn.Module, module: nn.Module) -> list[str]:
    from nncf.torch.function_hook.wrapper import get_hook_storage

    return [n for n, other in get_hook_storage(model).named_hooks(remove_duplicate=False) if other is module]


def large_matrices(file: Path) -> list[tuple[int, tuple[int, ...]]]:
    """Types and shapes of the initializers as large as a table."""
    graph = onnx.load(file).graph
    return [(t.data_type, tuple(t.dims)) for t in graph.initializer if np.prod(t.dims) >= LARGE * 32]


def test_weights_of_gpt2_are_recognized(gpt2: nn.Module) -> None:
    weights = [name for name, _ in quantizers(gpt2) if is_weight_quantizer(name)]
    assert sorted({name.split("/")[-3] for name in weights if "/addmm/" in name}) == ["c_attn", "c_fc", "c_proj"]
    assert len(weights) == 2 + 2 * 4  # two tables, four layers a block
    scale = next(q for name, q in quantizers(gpt2) if "c_attn/addmm/0" in name).scale
    assert tuple(scale.shape) == (1, 3 * 32), "one scale an output: Conv1D stores (in, out)"


@pytest.mark.parametrize(
    ("family", "head", "embedding", "output"),
    [("gpt2", "causal", "/wte/", "lm_head"), ("bert", "masked", "/word_embeddings/", "cls/predictions/decoder")],
)
def test_a_tied_table_has_one_quantizer(family: str, head: str, embedding: str, output: str, tmp_path: Path) -> None:
    model: Any = compress(tiny_model(family, head))
    model.save_pretrained(tmp_path)
    for each in (model, load_model(type(model), tmp_path)):
        table = next(module for name, module in hooks(each) if embedding in name)
        names = hook_names(each, table)
        assert len(names) == 2 and all(map(is_weight_quantizer, names))
        assert any(output in name for name in names)


def test_a_shared_layer_has_one_quantizer_a_weight(tmp_path: Path) -> None:
    """ALBERT runs one layer twice; a quantizer a call would store its weights twice."""
    model = compress(tiny_model("albert"))
    query = next(module for name, module in quantizers(model) if "/query/linear/0__1." in name)
    assert [name.split("/")[-1] for name in hook_names(model, query)] == ["0__1.0", "1__1.0"]
    export_model(model, to_onnx=str(tmp_path / "m.onnx"))
    nodes = json.loads((tmp_path / "m.parity.json").read_text())["nodes"]
    assert nodes["int8_readers"] == nodes["int8_weights"] + 6


def test_the_table_is_stored_once_as_int8(exported: Path) -> None:
    assert large_matrices(exported / "m.onnx") == [(onnx.TensorProto.INT8, (LARGE, 32))]
    matrices = [t for t in onnx.load(exported / "m.onnx").graph.initializer if np.prod(t.dims) > 500]
    scales = [t for t in matrices if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1 and t.dims[-1] > 1]
    assert not scales, "weights in floating point"
    assert (exported / "ir" / "openvino_model.bin").stat().st_size < 1.7 * LARGE * 32


def test_layers_of_gpt2_are_products_of_integers(exported: Path) -> None:
    """ONNX Runtime dequantizes the weight of a Gemm in every inference."""
    graph = onnx.load(exported / "m.onnx").graph
    assert not [node.name for node in graph.node if node.op_type == "Gemm"]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(exported.parent / "optimized.onnx")
    onnxruntime.InferenceSession(str(exported / "m.onnx"), options, ["CPUExecutionProvider"])
    nodes = Counter(node.op_type for node in onnx.load(exported.parent / "optimized.onnx").graph.node)
    assert nodes["MatMulIntegerToFloat"] == 2 * 4 + 1, "four layers a block, and the head"


def test_an_uncompressed_table_is_stored_once(tmp_path: Path) -> None:
    model = tiny_model("gpt2", "causal", vocab_size=LARGE)
    export_model(model, to_onnx=str(tmp_path / "m.onnx"), to_openvino=str(tmp_path / "ir"))
    assert large_matrices(tmp_path / "m.onnx") == [(onnx.TensorProto.FLOAT, (LARGE, 32))]
    assert (tmp_path / "ir" / "openvino_model.bin").stat().st_size < 1.7 * 4 * LARGE * 32


def test_no_cache_is_exported(exported: Path) -> None:
    graph = onnx.load(exported / "m.onnx").graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask"]
    assert [value.name for value in graph.output] == ["logits"]
    assert [d.dim_param for d in graph.output[0].type.tensor_type.shape.dim][:2] == ["batch", "sequence"]


@pytest.mark.parametrize("shape", [(1, 5), (3, 40), (2, 127)])
def test_tokens_see_what_is_before_them_only(gpt2: nn.Module, exported: Path, shape: tuple[int, int]) -> None:
    inputs = {name: tensor.numpy() for name, tensor in synthetic_inputs(gpt2, *shape, seed=7).items()}
    changed = {**inputs, "input_ids": inputs["input_ids"].copy()}
    changed["input_ids"][:, -1] = 5
    real = inputs["attention_mask"].astype(bool)
    expected = torch_runtime(gpt2)(inputs)[0]
    for runtime in (
        onnx_runtime(exported / "m.onnx"),
        openvino_runtime(exported / "ir/openvino_model.xml", exact=True),
    ):
        (logits,) = runtime(inputs)
        assert np.abs(logits - expected)[real].max() < 0.1 * expected.std()
        assert np.allclose(runtime(changed)[0][:, :-1], logits[:, :-1], atol=1e-4)


def test_a_head_in_floating_point_keeps_its_table_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = compress(tiny_model("gpt2", "causal", vocab_size=LARGE), ignored_scopes=["lm_head"])
    assert "transformer/wte/embedding/0 stays in floating point, too" in caplog.text
    assert not [name for name, _ in quantizers(model) if "lm_head" in name or "/wte/" in name]
    export_model(model, to_onnx=str(tmp_path / "m.onnx"))
    assert large_matrices(tmp_path / "m.onnx") == [(onnx.TensorProto.FLOAT, (LARGE, 32))]


def test_layers_that_run_twice_are_ignored_one_by_one() -> None:
    model = compress(tiny_model("albert"), ignored_scopes=["albert/encoder/attention/query/linear/0"])
    names = [name for name, _ in quantizers(model) if "/query/linear/" in name and is_weight_quantizer(name)]
    assert [name.split("/")[-1] for name in names] == ["1__1.0"]


@pytest.mark.parametrize("cache", [True, False])
def test_written_text_goes_through_the_quantizers(cache: bool) -> None:
    plain = tiny_model("gpt2", "causal")
    model: Any = compress(copy.deepcopy(plain))
    prompt = synthetic_inputs(model, 2, 12)["input_ids"]
    written = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=8,
        min_new_tokens=8,
        do_sample=False,
        use_cache=cache,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    steps = torch.stack(written.logits, 1)
    inputs = {"input_ids": written.sequences, "attention_mask": torch.ones_like(written.sequences)}
    with torch.no_grad():
        at_once, unquantized = (call_model(m, inputs)[0][:, 11:-1] for m in (model, plain))
    assert torch.allclose(steps, at_once, atol=1e-3)
    assert (steps - unquantized).abs().max() > 0.05


def test_perplexity_of_what_is_known() -> None:
    labels = np.array([[5, 1, 2, -100], [3, -100, -100, -100]])

    def runtime(inputs: Any) -> Any:
        assert set(inputs) == {"input_ids", "attention_mask"} and inputs["attention_mask"].all()
        logits = np.zeros((2, 4, 10), np.float32)
        # Position 1 of the first row is certain of token 2.
        logits[0, 1, 2] = 100.0
        return (logits,)

    batch = {"input_ids": np.zeros((2, 4), np.int64), "labels": labels}
    # Causal: tokens 1 (unknown, 10 choices) and 2 (certain) count. Masked: 5, 1, 2, 3; 1 is taken for 2.
    assert perplexity(runtime, [batch], causal=True) == pytest.approx(10**0.5)
    assert perplexity(runtime, [batch], causal=False) == pytest.approx(np.exp((3 * np.log(10) + 100) / 4))
    # Every token weighs the same, however they are dealt out to batches.
    one = {name: array[:1] for name, array in batch.items()}
    with pytest.raises(UsageError, match="no token to foretell"):
        perplexity(runtime, [{**batch, "labels": np.full((2, 4), -100)}], causal=True)
    assert perplexity(lambda i: (runtime_of(i),), [batch, one], causal=True) == pytest.approx(VOCABULARY)


def runtime_of(inputs: Any) -> np.ndarray:
    return np.zeros((*inputs["input_ids"].shape, VOCABULARY), np.float32)


def test_an_impossible_text_has_an_infinite_perplexity() -> None:
    logits = np.zeros((1, 2, 3), np.float32)
    logits[0, 0, 0] = 3e4
    batch = {"input_ids": np.ones((1, 2), np.int64), "labels": np.ones((1, 2), np.int64)}
    assert perplexity(lambda _: (logits,), [batch], causal=True) == np.inf


@pytest.mark.parametrize(("family", "head", "causal"), [("gpt2", "causal", True), ("bert", "masked", False)])
def test_perplexity_is_that_of_the_models_loss(family: str, head: str, causal: bool, tmp_path: Path) -> None:
    model: Any = tiny_model(family, head)
    batch = tiny_batches(model, count=1)[0]
    with torch.no_grad():
        expected = float(model(**batch).loss.exp())
    export_model(model, to_onnx=str(tmp_path / "m.onnx"), to_openvino=str(tmp_path / "ir"))
    arrays = {name: tensor.numpy() for name, tensor in batch.items()}
    for runtime in (
        torch_runtime(model),
        onnx_runtime(tmp_path / "m.onnx"),
        openvino_runtime(tmp_path / "ir" / "openvino_model.xml", exact=True),
    ):
        assert perplexity(runtime, [arrays], causal=causal) == pytest.approx(expected, rel=1e-4)


def test_a_padding_token_at_the_end_of_the_vocabulary_takes_no_positions() -> None:
    model = tiny_model("gpt2", "causal", pad_token_id=VOCABULARY - 1)
    assert synthetic_inputs(model, 2, 500)["input_ids"].shape == (2, 128)


@pytest.mark.parametrize("method", [{"algorithm": "magnitude_sparsity"}, MOVEMENT])
@pytest.mark.parametrize(("family", "head"), [("gpt2", "causal"), ("t5", "seq2seq")])
def test_sparsity_is_refused(family: str, head: str, method: dict[str, Any]) -> None:
    model = tiny_model(family, head)
    compression = Compression(parse_config({"algorithms": [method]}, "f.json"))
    with pytest.raises(CompressionError, match=f"f.json.*sparsity has not been proven for the family '{family}'"):
        compression.start(model, tiny_batches(model))


@pytest.mark.parametrize(("family", "head"), [("gpt2", "causal"), ("t5", "seq2seq")])
def test_structured_pruning_is_refused(family: str, head: str) -> None:
    model = tiny_model(family, head)
    compression = Compression(parse_config({"algorithms": [MOVEMENT | {"enable_structured_masking": True}]}, "f.json"))
    with pytest.raises(CompressionError, match=f"'?{family}"):
        compression.start(model, tiny_batches(model))


@pytest.mark.parametrize(
    ("family", "head", "setting"),
    [
        ("gpt2", "causal", {"smooth_quant": 0.95}),
        ("gpt2", "causal", {"bias_correction": True}),
        ("t5", "seq2seq", {"bias_correction": True}),
    ],
)
def test_settings_are_refused_where_they_would_do_nothing(family: str, head: str, setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(UsageError, match=f'test.*"{name}" does nothing for the family {family}'):
        compress(tiny_model(family, head), **setting)


@pytest.mark.parametrize(("family", "head"), [("gpt2", "causal"), ("bert", "masked")])
@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_only_tokens_with_a_label_are_distilled(family: str, head: str, loss: str) -> None:
    distillation = {"algorithm": "distillation", "teacher": "self", "loss": loss}
    model: Any = compress(tiny_model(family, head, **NO_DROPOUT[family]), distillation)
    compression = Compression.of(model)
    assert compression is not None
    compression.begin(model, steps_per_epoch=4, total_steps=4)
    batch = tiny_batches(model, count=1)[0]
    batch["labels"][:, 10:] = -100
    model.train()
    model(**batch)
    term = float(compression.losses["distillation_loss"])
    teacher = compression.algorithms[-1]._teacher  # type: ignore[attr-defined]
    inputs = model_inputs(model, batch)
    counted = batch["labels"] != -100
    if family == "gpt2":
        counted = functional.pad(counted[:, 1:], (0, 1), value=False)
    ours, theirs = (call_model(m, inputs)[0].detach()[counted] for m in (model.eval(), teacher))
    if loss == "mse":
        expected = functional.mse_loss(ours, theirs)
    else:
        temperature = compression.algorithms[-1].config.temperature
        p, q = (functional.log_softmax(x / temperature, -1) for x in (theirs, ours))
        expected = (p.exp() * (p - q)).sum(-1).mean() * temperature**2
    assert term == pytest.approx(float(expected), rel=1e-4)
    assert term > 0


def test_hidden_states_of_gpt2_are_not_compared() -> None:
    distillation = {"algorithm": "distillation", "teacher": "self", "hidden_weight": 0.5}
    with pytest.raises(UsageError, match='layers of GPT2LMHeadModel are not known; set "hidden_weight" to 0'):
        compress(tiny_model("gpt2", "causal"), distillation)


@pytest.mark.parametrize(("family", "head"), [("gpt2", "causal"), ("bert", "masked")])
def test_the_trainer_trains_saves_and_exports(family: str, head: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"algorithms": [QUANTIZATION]}))
    model = tiny_model(family, head)
    rows = [
        {name: tensor[i].tolist() for name, tensor in batch.items()} for batch in tiny_batches(model) for i in range(4)
    ]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        do_train=True,
        use_cpu=True,
        report_to="none",
        max_steps=2,
        per_device_train_batch_size=4,
        disable_tqdm=True,
        nncf_config=str(tmp_path / "config.json"),
        to_onnx=str(tmp_path / "m.onnx"),
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), eval_dataset=rows[:4])
    trainer.train()
    trainer.save_model()
    loss = trainer.evaluate()["eval_loss"]
    again = Trainer(
        model=load_model(type(model), tmp_path / "out"),
        args=TrainingArguments(output_dir=str(tmp_path / "eval"), use_cpu=True, report_to="none", disable_tqdm=True),
        eval_dataset=rows[:4],
    )
    assert again.evaluate()["eval_loss"] == loss
    assert (tmp_path / "m.onnx").is_file()
