"""Adapters and INT8: on a quantized model that stays as it is, and quantized with the adapter in the model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_runs import FILES, base, files, int8_json, load, logits, reload, train, trainer
from safetensors.torch import load_file
from tiny import HEADS, tiny_model
from torch import nn

from nncf_transformers.adapter.keys import adapter_keys
from nncf_transformers.algorithms.quantization import quantizers
from nncf_transformers.checkpoint import HOOK_PREFIX, STATE_FILE
from nncf_transformers.compression import Compression
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.hf import Seq2SeqTrainer
from nncf_transformers.loading import load_model

# With an adapter of its own place in each: behind, beside, inside the layers, and in the attention.
CONFIGS = ["seq_bn", "par_bn", "lora", "mam", "double_seq_bn_inv", "loreft"]


def quantize(tmp_path: Path, family: str = "bert", head: str = "qa", **settings: Any) -> Path:
    """Make an INT8 checkpoint, which was trained for two steps."""
    folder = base(tmp_path / "fp32", family, head)
    config = int8_json(tmp_path, **settings)
    train(tmp_path / "int8", load(folder, head), train_adapter=False, nncf_config=config, max_steps=2, save_steps=9)
    return tmp_path / "int8"


@pytest.fixture(scope="module", params=["plain", "smooth"])
def int8(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"smooth_quant": 0.95, "preset": "mixed"} if request.param == "smooth" else {}
    return quantize(tmp_path_factory.mktemp(request.param), **settings)


@pytest.fixture(scope="module")
def plain_int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize(tmp_path_factory.mktemp("plain_int8"))


def body(model: Any) -> torch.Tensor:
    """What the body of a model gives to its head; the logits where there is no head of its own."""
    found: list[torch.Tensor] = []
    handle = model.base_model.register_forward_hook(lambda module, inputs, outputs: found.append(outputs[0]))
    logits(model)
    handle.remove()
    return found[0]


def silence(model: Any) -> Any:
    """Set an adapter to zero, with which the library's layers add nothing: the model is the base again."""
    belongs = adapter_keys(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if belongs(name):
                parameter.zero_()
    return model


def hooked(state: dict[str, torch.Tensor]) -> list[tuple[str, bytes]]:
    """Values of the quantizers, whatever the operation that they are named after."""
    return sorted(
        (name.rpartition(".")[2], tensor.detach().numpy().tobytes())
        for name, tensor in state.items()
        if name.startswith(HOOK_PREFIX)
    )


@pytest.mark.parametrize(
    ("int8", "config"),
    [*(("plain", config) for config in CONFIGS), ("smooth", "seq_bn"), ("smooth", "lora")],
    indirect=["int8"],
)
def test_frozen_int8_base(config: str, int8: Path, tmp_path: Path) -> None:
    out, saved = tmp_path / "out", load_file(int8 / "model.safetensors")
    run = trainer(out, load(int8), adapter_config=config, adapter_name="ours")
    model, fresh = run.model, logits(run.model)
    assert Compression.of(model) is not None
    run.train()
    run.save_model()
    after, state = logits(model), model.state_dict()
    assert not torch.equal(fresh, after), "it learns"
    # Quantizers and weights are the checkpoint's, byte for byte.
    assert set(hooked(state)) <= set(hooked(saved))
    bodies = [name for name in saved if name.startswith("bert.")]
    assert bodies and not [name for name in bodies if not torch.equal(saved[name], state[name])]
    assert files(out / "ours") == FILES and not (out / STATE_FILE).exists()
    assert not [*out.rglob("model.safetensors")], "no full model"
    assert torch.equal(logits(reload(tmp_path, load(int8), out)), after)
    again = trainer(out, load(int8), adapter_config=config, adapter_name="ours")
    again.train(resume_from_checkpoint=str(out / "checkpoint-2"))
    assert torch.equal(logits(again.model), after)
    # Nothing of the adapter or of the head is quantized.
    places = [name for name, _ in quantizers(model)]
    assert places and not [name for name in places if "adapter" in name or "lora" in name or "qa_outputs" in name]


@pytest.mark.parametrize("config", ["lora", "seq_bn", "double_seq_bn", "par_bn", "compacter[reduction_factor=8]"])
def test_quantizers_stand_where_they_stood(config: str, int8: Path, tmp_path: Path) -> None:
    # The layers of the base are called once more and others come in between, but what is quantized is the same.
    adapted = trainer(tmp_path, load(int8), adapter_config=config).model
    assert torch.equal(body(silence(adapted)), body(load_model(HEADS["qa"], int8)))
    places = {name for name, _ in quantizers(adapted)}
    moved = {name for name in places if name.startswith("post_hooks.bert/encoder/output/LayerNorm")}
    # The second call in a layer is its result: here the call before it is the adapter's.
    last = 3 if config == "seq_bn" else 1
    assert moved == (
        set() if "smooth" in str(int8) else {f"post_hooks.bert/encoder/output/LayerNorm/layer_norm/{last}__0.0"}
    )


@pytest.mark.parametrize("config", ["lora", "ia3"])
def test_a_fresh_lora_changes_nothing(config: str, int8: Path, tmp_path: Path) -> None:
    entered: list[torch.Tensor] = []
    model = load_model(HEADS["qa"], int8)
    adapted = trainer(tmp_path, load(int8), adapter_config=config).model
    results = []
    for one in (model, adapted):
        one.qa_outputs.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
        results.append(logits(one))
    assert torch.equal(*entered), "the body is the same"
    # The head is not quantized any more, and its weights are those of before SmoothQuant.
    head = adapted.qa_outputs
    exact = nn.functional.linear(entered[1], head.weight, head.bias)
    assert torch.equal(results[1], torch.cat([t.flatten() for t in exact.unbind(-1)]))
    saved = load_file(int8 / "model.safetensors")
    scale = next((t for name, t in saved.items() if "qa_outputs" in name and name.endswith("_scale_value")), None)
    weight = saved["qa_outputs.weight"]
    assert torch.allclose(head.weight, weight if scale is None else weight * scale.flatten(), rtol=1e-6)
    assert (scale is not None) == ("smooth" in str(int8))
    assert 0 < (results[0] - results[1]).abs().max() < results[0].std()


@pytest.mark.parametrize(
    ("int8", "config"), [("plain", "seq_bn"), ("smooth", "prefix_tuning"), ("smooth", "lora")], indirect=["int8"]
)
def test_both_runtimes_agree(config: str, int8: Path, tmp_path: Path) -> None:
    train(tmp_path / "out", load(int8), adapter_config=config, save_strategy="no")
    reload(tmp_path, load(int8), tmp_path / "out", to_onnx=tmp_path / "m.onnx", to_openvino=tmp_path / "ir")
    report = json.loads((tmp_path / "m.parity.json").read_text())
    assert [run["runtime"] for run in report["runtimes"]] == ["ONNX Runtime", "OpenVINO"]
    assert all(run["relative_difference"] < 1e-2 for run in report["runtimes"])
    assert report["nodes"]["int8_weights"] >= 12 and report["nodes"]["QuantizeLinear"] >= 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "head", "config"),
    [
        ("roberta", "qa", "lora"),
        ("roberta", "masked", "seq_bn"),
        ("xlm-roberta", "qa", "seq_bn"),
        ("distilbert", "qa", "seq_bn"),
        ("distilbert", "qa", "lora"),
        ("albert", "qa", "seq_bn"),
        ("electra", "qa", "lora"),
        # Their layers are the library's own.
        ("deberta-v2", "qa", "seq_bn"),
        ("deberta-v2", "qa", "lora"),
        ("gpt2", "causal", "seq_bn"),
        ("gpt2", "causal", "lora"),
        ("t5", "seq2seq", "seq_bn"),
        ("t5", "seq2seq", "lora"),
    ],
)
def test_families(family: str, head: str, config: str, tmp_path: Path) -> None:
    prove(family, head, config, tmp_path)


def test_seq2seq_trainer(tmp_path: Path) -> None:
    assert isinstance(trainer(tmp_path, tiny_model("t5", "seq2seq")), Seq2SeqTrainer)


def prove(family: str, head: str, config: str, tmp_path: Path) -> None:
    int8, out = quantize(tmp_path, family, head), tmp_path / "out"
    before = body(load_model(HEADS[head], int8))
    run = trainer(out, load(int8, head), adapter_config=config, adapter_name="ours")
    assert torch.equal(body(silence(run.model)), before), "every quantizer is where it was"
    run = trainer(out, load(int8, head), adapter_config=config, adapter_name="ours")
    run.train()
    run.save_model()
    saved, state = load_file(int8 / "model.safetensors"), run.model.state_dict()
    assert set(hooked(state)) <= set(hooked(saved))
    expected = logits(run.model)
    # BERT's exports are proven above; these are of models that the library computes in its own way.
    export = {"to_onnx": tmp_path / "m.onnx"} if family in ("deberta-v2", "gpt2", "t5") and config == "seq_bn" else {}
    again = reload(tmp_path, load(int8, head), out, **export)
    assert torch.equal(logits(again), expected)
    resumed = trainer(out, load(int8, head), adapter_config=config, adapter_name="ours")
    resumed.train(resume_from_checkpoint=str(out / "checkpoint-2"))
    assert torch.equal(logits(resumed.model), expected)


@pytest.mark.parametrize("config", ["seq_bn", "mam"])
def test_quantized_with_the_adapter_in_it(config: str, tmp_path: Path) -> None:
    folder, out, int8 = base(tmp_path / "fp32"), tmp_path / "adapter", tmp_path / "int8"
    train(out, load(folder), adapter_config=config, save_strategy="no")
    flags = {"load_adapter": out, "nncf_config": int8_json(tmp_path)}
    run = trainer(int8, load(folder), **flags)
    run.train()
    run.save_model()
    expected = logits(run.model)
    original, saved = load_file(folder / "model.safetensors"), load_file(int8 / "model.safetensors")
    assert not [name for name in original if "qa_outputs" not in name and not torch.equal(saved[name], original[name])]
    adapter = load_file(out / "squad" / "adapter.safetensors")
    moved = [name for name, tensor in adapter.items() if not torch.equal(saved.get(name, tensor), tensor)]
    assert moved and not torch.equal(saved["qa_outputs.weight"], original["qa_outputs.weight"]), "both go on learning"
    assert any("qa_outputs" in name for name, _ in quantizers(run.model)), "the head is quantized, too"
    # A whole checkpoint, which needs neither the flag nor the base.
    assert torch.equal(logits(load_model(HEADS["qa"], int8)), expected)
    plain = trainer(tmp_path / "2", load(int8), train_adapter=False, do_train=False, to_onnx=tmp_path / "m.onnx")
    assert torch.equal(logits(plain.model), expected)
    resumed = trainer(int8, load(folder), load_adapter=out, nncf_config=int8_json(tmp_path))
    resumed.train(resume_from_checkpoint=str(int8 / "checkpoint-2"))
    assert torch.equal(logits(resumed.model), expected)
    best = trainer(
        tmp_path / "best", load(folder), load_adapter=out, nncf_config=int8_json(tmp_path), learning_rate=2.0,
        eval_strategy="steps", eval_steps=1, save_steps=1, load_best_model_at_end=True,
    )  # fmt: skip
    best.train()
    checkpoint = Path(best.state.best_model_checkpoint)
    assert torch.equal(logits(best.model), logits(load_model(HEADS["qa"], checkpoint)))


def test_a_model_quantized_with_its_adapter_goes_on(tmp_path: Path) -> None:
    folder, int8 = base(tmp_path / "fp32"), tmp_path / "int8"
    model = train(int8, load(folder), nncf_config=int8_json(tmp_path), save_strategy="no")
    on = trainer(tmp_path / "on", load(int8), do_eval=True, adapter_name="squad")
    assert torch.equal(logits(on.model), logits(model))


def test_another_adapter_on_a_model_quantized_with_one(tmp_path: Path) -> None:
    folder, int8 = base(tmp_path / "fp32"), tmp_path / "int8"
    train(int8, load(folder), nncf_config=int8_json(tmp_path), save_strategy="no", max_steps=1)
    for flags in ({"adapter_name": "else"}, {"adapter_config": "lora"}):
        with pytest.raises(UsageError, match=r"int8 was quantized with an adapter in it \(squad\), so no other"):
            trainer(tmp_path / "on", load(int8), **flags)


def test_damage_of_a_model_quantized_with_its_adapter(tmp_path: Path) -> None:
    folder, int8 = base(tmp_path / "fp32"), tmp_path / "int8"
    train(int8, load(folder), nncf_config=int8_json(tmp_path), save_strategy="no")
    text = (int8 / STATE_FILE).read_text()
    state = json.loads(text)
    for adapters in (
        {},
        {"config": {}, "active": {}},
        {"config": state["adapters"]["config"], "active": None},
        [],
        None,
    ):
        (int8 / STATE_FILE).write_text(json.dumps(state | {"adapters": adapters}))
        with pytest.raises(IntegrityError, match="copy|which this model does not compute"):
            load_model(HEADS["qa"], int8)
    (int8 / STATE_FILE).write_text(text)
    load_model(HEADS["qa"], int8)


def test_unfinished_compression_does_not_go_on_under_an_adapter(tmp_path: Path) -> None:
    algorithm = {"algorithm": "magnitude_sparsity", "final_sparsity": 0.5, "end_epoch": 1}
    (tmp_path / "c.json").write_text(json.dumps({"algorithms": [algorithm]}))
    folder = base(tmp_path / "fp32")
    run = trainer(tmp_path / "pruned", load(folder), train_adapter=False, nncf_config=tmp_path / "c.json")
    run.train()
    with pytest.raises(UsageError, match=r"--train_adapter: the compression of .*checkpoint-2 is not over"):
        trainer(tmp_path / "2", load(tmp_path / "pruned" / "checkpoint-2"))
    run.save_model()
    pruned = load(tmp_path / "pruned")
    zeros = {name: (p == 0).sum() for name, p in pruned.named_parameters() if "qa_outputs" not in name}
    after = train(tmp_path / "3", pruned, adapter_config="seq_bn").named_parameters()
    assert sum(zeros.values()) > 1000 and all((p == 0).sum() == zeros[name] for name, p in after if name in zeros)


def test_mixed_precision(plain_int8: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path / "out", load(plain_int8), bf16=True, to_onnx=tmp_path / "m.onnx")
    run.train()
    run.save_model()
    assert json.loads((tmp_path / "m.parity.json").read_text())["nodes"]["int8_weights"] >= 12
