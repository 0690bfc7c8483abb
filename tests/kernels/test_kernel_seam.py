"""The place in NNCF where the kernels go in. If NNCF changes it, these tests say so."""

import inspect
import re

import nncf
import pytest
import torch
from nncf.torch.quantization import extensions, quantize_functions
from nncf.torch.quantization.reference import torch_executor
from torch import nn

from nncf_transformers.kernels import FastKernels, use_fast_kernels


@pytest.fixture
def seam(monkeypatch):
    """Undo the replacement after the test, and forbid NNCF to compile anything during it."""
    original = extensions.QuantizedFunctionsCPU
    monkeypatch.setattr(quantize_functions, "QuantizedFunctionsCPU", original)
    monkeypatch.setattr("nncf_transformers.kernels.keep_freed_memory", lambda: True)
    monkeypatch.setattr(
        extensions.QuantizedFunctionsCPULoader, "load", lambda: pytest.fail("NNCF compiles its extension")
    )
    return original


class ReferenceKernels:
    """NNCF's own formula in Python."""

    def get(self, name):
        return {"Quantize_forward": torch_executor.forward, "Quantize_backward": torch_executor.backward}[name]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.inner = nn.Linear(16, 32)
        self.outer = nn.Linear(32, 4)

    def forward(self, ids):
        return self.outer(torch.relu(self.inner(self.embedding(ids))))


@pytest.fixture(scope="module")
def quantized():
    torch.manual_seed(0)
    ids = torch.randint(0, 20, (2, 8))
    return nncf.quantize(Net(), nncf.Dataset([ids]), model_type=nncf.ModelType.TRANSFORMER, subset_size=1), ids


def test_nncf_asks_for_what_we_offer():
    source = inspect.getsource(quantize_functions)
    assert set(re.findall(r"QuantizedFunctionsCPU\.get\((.*?)\)", source)) == {
        '"Quantize_forward"',
        '"Quantize_backward"',
    }
    calls = re.findall(r"QuantizedFunctionsCPU\.get\(\"\w+\"\)\((.*?)\)", re.sub(r"\s+", " ", source))
    backward = "grad_output, input_, input_low, input_range, levels, level_low, level_high, "
    assert [call.strip() for call in calls] == [
        "input_, input_low, input_range, levels",
        backward + "False",
        "input_, input_low, input_range, levels",
        backward + "True",
    ]


def test_replacing_is_idempotent(seam):
    kind = use_fast_kernels()
    installed = quantize_functions.QuantizedFunctionsCPU
    assert isinstance(installed, FastKernels) and installed.kind == kind
    assert use_fast_kernels() == kind
    assert quantize_functions.QuantizedFunctionsCPU is installed


def test_unknown_nncf_is_refused(seam, monkeypatch):
    monkeypatch.delattr(quantize_functions, "QuantizedFunctionsCPU")
    with pytest.raises(RuntimeError, match=r"use nncf 3\.4"):
        use_fast_kernels()


def gradients(model, ids):
    model.zero_grad()
    output = model(ids)
    output.square().sum().backward()
    return output.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_model_trains_as_with_nncf(seam, quantized, monkeypatch):
    model, ids = quantized
    use_fast_kernels()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    output, ours = gradients(model, ids)
    monkeypatch.setattr(quantize_functions, "QuantizedFunctionsCPU", ReferenceKernels())
    expected, theirs = gradients(model, ids)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4, msg=name)
    quantizer_gradients = [name for name in ours if "__nncf_hooks" in name]
    assert any("scale" in name for name in quantizer_gradients)
    assert any("input_low" in name for name in quantizer_gradients)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_config_and_modules_stay_those_of_nncf(seam, quantized):
    model, ids = quantized
    use_fast_kernels()
    clone = nncf.torch.load_from_config(Net(), nncf.torch.get_config(model))
    clone.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(clone(ids), model(ids))
    hooks = [module for name, module in model.named_modules() if "hooks" in name and name.endswith(".0")]
    assert hooks and all(type(module).__module__.startswith("nncf.") for module in hooks)


def test_autocast(seam, quantized):
    model, ids = quantized
    use_fast_kernels()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(ids).float().square().sum()
    model.zero_grad()
    loss.backward()
    found = [p.grad for name, p in model.named_parameters() if p.requires_grad and "__nncf_hooks" in name]
    assert found and all(grad is not None and grad.isfinite().all() for grad in found)
