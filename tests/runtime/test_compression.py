"""The Compression object: calibration, optimizer groups, checkpoints."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nncf
import nncf.torch
import pytest
import torch
from nncf.torch.function_hook.wrapper import ATR_HOOK_STORAGE
from nncf.torch.quantization.layers import BaseQuantizer
from safetensors.torch import load_file, save_file
from tiny import tiny_batches, tiny_model
from torch import nn

from nncf_transformers.algorithms.quantization import is_weight_quantizer, quantizers
from nncf_transformers.checkpoint import HOOK_PREFIX, STATE_FILE
from nncf_transformers.compression import Compression, compression_parameters
from nncf_transformers.config import parse_config, to_nncf_arguments
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.inputs import model_inputs
from nncf_transformers.loading import load_model, restore


def compressed(**settings: Any) -> nn.Module:
    model = tiny_model()
    quantization = {"algorithm": "quantization", "calibration_samples": 8, **settings}
    Compression(parse_config({"algorithms": [quantization]}, "test")).start(model, tiny_batches(model))
    return model


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack(model(**model_inputs(model, tiny_batches(model)[0]), return_dict=False))


def reads_attention_input(place: str, layer: int) -> bool:
    """Whether a quantizer's place is before a query, key or value, or behind SmoothQuant's multiplication there."""
    before = re.fullmatch(rf"pre_hooks\..*/self/(query|key|value)/linear/{layer}__0\.0", place)
    behind = re.fullmatch(rf"post_hooks\..*/self/(query|key|value)/pre_hook__.*-{layer}__0\[0\]/mul/0__0\.0", place)
    return behind is not None or before is not None


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    compressed().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("settings", [{}, {"smooth_quant": 0.95}], ids=["plain", "smoothed"])
def test_in_place_equals_the_copy_of_nncf_with_one_quantizer_a_tensor(settings: dict[str, Any]) -> None:
    model = tiny_model()
    batches = tiny_batches(model)
    quantization = {"algorithm": "quantization", "calibration_samples": 8, **settings}
    config = parse_config({"algorithms": [quantization]}, "test")
    rows = [{k: v[i : i + 1] for k, v in model_inputs(model, b).items()} for b in batches for i in range(4)][:8]
    copy = nncf.quantize(model, nncf.Dataset(rows), **to_nncf_arguments(config.algorithms[0]))
    parameters = dict(model.named_parameters())
    Compression(config).start(model, batches)
    assert torch.equal(logits(model), logits(copy))
    now = dict(model.named_parameters())
    assert all(now[name] is parameter for name, parameter in parameters.items())
    # In each of the two layers query, key and value read one tensor, which NNCF quantizes three times.
    kinds = [[is_weight_quantizer(name) for name, _ in quantizers(each)] for each in (copy, model)]
    assert [kind.count(False) for kind in kinds] == [17, 13] and kinds[0].count(True) == kinds[1].count(True)
    storage: Any = getattr(model, ATR_HOOK_STORAGE)
    places = {n: m for n, m in storage.named_hooks(remove_duplicate=False) if isinstance(m, BaseQuantizer)}
    for layer in range(2):
        shared = [module for name, module in places.items() if reads_attention_input(name, layer)]
        assert len(shared) == 3 and len(set(shared)) == 1


def test_random_state_and_mode_survive_calibration() -> None:
    model = tiny_model().train()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    config = parse_config({"algorithms": [{"algorithm": "quantization", "calibration_samples": 2}]}, "test")
    Compression(config).start(model, tiny_batches(model))
    assert torch.equal(torch.rand(1), expected)
    assert model.training


def test_quantizers_get_a_parameter_group_of_their_own() -> None:
    model = compressed(quantizer_learning_rate=0.01)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad][:4], lr=1e-4, weight_decay=0.1)
    compression = Compression.of(model)
    assert compression is not None
    compression.add_to(optimizer, model)
    group = optimizer.param_groups[-1]
    assert group["lr"] == 0.01 and group["weight_decay"] == 0.0
    assert {id(p) for p in group["params"]} <= {id(p) for p in compression_parameters(model)}
    assert all(p.is_floating_point() for p in group["params"])


def test_statistics_count_what_is_there() -> None:
    model = compressed()
    compression = Compression.of(model)
    assert compression is not None
    statistics = compression.statistics(model)
    assert statistics["compression/quantizers"] == len(list(quantizers(model))) == 29
    assert statistics["compression/weight_range"] > 0 and statistics["compression/activation_range"] > 0
    assert sum(is_weight_quantizer(name) for name, _ in quantizers(model)) == 16


def test_reload_is_exact(saved: Path) -> None:
    reloaded = load_model(type(tiny_model()), saved).eval()
    assert torch.equal(logits(reloaded), logits(compressed()))
    assert Compression.of(reloaded) is not None


def test_reload_is_exact_with_smooth_quant_and_bias_correction(tmp_path: Path) -> None:
    model = compressed(smooth_quant=0.95, bias_correction=True)
    assert any("SQMultiply" in type(m).__name__ for m in model.modules())
    model.save_pretrained(tmp_path)
    reloaded = load_model(type(model), tmp_path).eval()
    assert torch.equal(logits(reloaded), logits(model))
    # What operations shared when it was saved, they share again: the next step trains one scale, not several.
    shared = [n for n, _ in model.named_parameters() if n.startswith(HOOK_PREFIX)]
    assert shared == [n for n, _ in reloaded.named_parameters() if n.startswith(HOOK_PREFIX)]
    # A second generation saves as well as the first.
    reloaded.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load_model(type(model), tmp_path / "again").eval()), logits(model))


@pytest.mark.parametrize("whole", [True, False])
def test_a_model_in_the_hubs_cache(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    import huggingface_hub
    import transformers.utils.hub

    revision = "0" * 40
    repository = tmp_path / "cache" / "models--someone--int8"
    snapshot = repository / "snapshots" / revision
    shutil.copytree(saved, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transformers.utils.hub, "TRANSFORMERS_CACHE", str(tmp_path / "cache"))
    if whole:
        assert torch.equal(logits(load_model(type(tiny_model()), "someone/int8").eval()), logits(compressed()))
    else:
        (snapshot / STATE_FILE).unlink()
        with pytest.raises(IntegrityError, match=f"{STATE_FILE} is missing"):
            load_model(type(tiny_model()), "someone/int8")


def test_plain_model_is_not_taken_for_a_compressed_one(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    assert Compression.of(load_model(type(model), tmp_path)) is None


def test_missing_state_is_refused(saved: Path) -> None:
    (saved / STATE_FILE).unlink()
    with pytest.raises(IntegrityError, match=f"{STATE_FILE} is missing"):
        load_model(type(tiny_model()), saved)


def test_missing_weights_are_refused(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"but no model\.safetensors"):
        restore(tiny_model(), saved)


def test_quantizers_leave_the_groups_of_a_restored_model(saved: Path) -> None:
    model = load_model(type(tiny_model()), saved)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    compression = Compression.of(model)
    assert compression is not None
    compression.add_to(optimizer, model)
    first, second = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    assert second == {id(p) for p in compression_parameters(model)} and not first & second
    assert optimizer.param_groups[1]["weight_decay"] == 0.0


def test_weights_that_another_run_saved_over_are_named(saved: Path) -> None:
    tiny_model().save_pretrained(saved)
    with pytest.raises(IntegrityError, match=f"delete {STATE_FILE} to use them uncompressed"):
        load_model(type(tiny_model()), saved)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"format": 1}',
        '{"format": 1, "compression_state": []}',
        '{"format": 99, "compression_state": []}',
    ],
)
def test_damaged_state_is_refused(saved: Path, content: str) -> None:
    (saved / STATE_FILE).write_text(content)
    with pytest.raises(IntegrityError, match="copy it again"):
        load_model(type(tiny_model()), saved)


def test_truncated_weights_are_refused(saved: Path) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (saved / STATE_FILE).rename(saved / "elsewhere")
    with pytest.raises(IntegrityError, match="damaged or truncated"):
        load_model(type(tiny_model()), saved)


def test_missing_quantizer_parameter_is_refused(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    del tensors[next(name for name in tensors if name.startswith(HOOK_PREFIX))]
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="the weights lack __nncf_hooks"):
        load_model(type(tiny_model()), saved)


def test_left_over_quantizer_parameter_is_refused(saved: Path) -> None:
    state = json.loads((saved / STATE_FILE).read_text())
    state["compression_state"].pop()
    (saved / STATE_FILE).write_text(json.dumps(state))
    with pytest.raises(IntegrityError, match="the weights have an unknown __nncf_hooks"):
        load_model(type(tiny_model()), saved)


def test_other_task_is_refused(saved: Path) -> None:
    with pytest.raises(IntegrityError, match="holds a BertForQuestionAnswering, the script loads a BertForSequenceC"):
        load_model(type(tiny_model(head="classes")), saved)


def test_state_of_other_size_is_refused(saved: Path, tmp_path: Path) -> None:
    other = tiny_model(intermediate_size=48)
    Compression(parse_config({"algorithms": [{"algorithm": "quantization", "calibration_samples": 2}]}, "test")).start(
        other, tiny_batches(other)
    )
    other.save_pretrained(tmp_path / "other")
    shutil.copy(saved / STATE_FILE, tmp_path / "other" / STATE_FILE)
    with pytest.raises(IntegrityError, match="does not fit BertForQuestionAnswering"):
        load_model(type(other), tmp_path / "other")


def test_foreign_module_in_state_is_refused(saved: Path) -> None:
    state = json.loads((saved / STATE_FILE).read_text())
    state["compression_state"][0] |= {"module_path": "os", "module_cls_name": "system"}
    (saved / STATE_FILE).write_text(json.dumps(state))
    with pytest.raises(IntegrityError, match="untrusted path 'os'"):
        load_model(type(tiny_model()), saved)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="safetensors only"):
        compressed().save_pretrained(tmp_path, safe_serialization=False)


def test_no_calibration_data_is_refused() -> None:
    config = parse_config({"algorithms": [{"algorithm": "quantization"}]}, "test")
    with pytest.raises(UsageError, match="the training set is empty"):
        Compression(config).start(tiny_model(), [])


def test_few_calibration_samples_are_said(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    config = parse_config({"algorithms": [{"algorithm": "quantization", "calibration_samples": 99}]}, "test")
    Compression(config).start(model, tiny_batches(model, count=1))
    assert "asks for 99 samples, the training data has 4" in caplog.text
