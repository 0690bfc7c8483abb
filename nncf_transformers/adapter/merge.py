"""Merge an adapter into the weights of its model."""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from adapters import AdapterConfig

from nncf_transformers.adapter.config import describe_config, is_lora, parts_of_config
from nncf_transformers.adapter.folder import find_adapter
from nncf_transformers.adapter.keys import quietly
from nncf_transformers.adapter.load import check_place, load_base, load_with_adapter, save_tokenizer
from nncf_transformers.checkpoint import is_compressed
from nncf_transformers.compression import Compression
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.inputs import call_model, synthetic_inputs

logger = logging.getLogger(__name__)

# Difference of logits in units of their standard deviation: the same sums, in another order.
_TOLERANCE = 1e-3


def merge_adapter(base: str, adapter: str, output: str) -> None:
    """Write a plain model that computes what ``base`` with ``adapter`` computes.

    Args:
        base: the model that the adapter was trained on, not quantized.
        adapter: an adapter's folder, or the output folder of its run.
        output: a folder that does not exist, or is empty.

    Raises:
        UsageError: this kind of adapter cannot be merged, or the base is quantized.
        IntegrityError: the merged model computes something else.
    """
    folder, target = find_adapter("--adapter", adapter), Path(output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"--output {output}: exists already; name another folder")
    if Path(base).is_dir() and is_compressed(base):
        raise _quantized(base)
    check_place(base)
    config = AdapterConfig.load(folder.content["config"])
    gates = [getattr(part, "use_gating", False) for part in parts_of_config(config)]
    if folder.language is not None or not is_lora(config) or any(gates):
        what = "a stack of adapters" if folder.language is not None else describe_config(config)
        raise UsageError(
            f"--adapter {adapter}: {what} cannot be merged, as it is more than a change of weights; the LoRA family "
            "without gates can"
        )
    model = load_with_adapter(folder, base)
    if Compression.of(model) is not None:
        raise _quantized(base)
    inputs = synthetic_inputs(model, batch=2, sequence=16)
    with torch.no_grad():
        expected = call_model(model, inputs)[0]
    with quietly():
        model.merge_adapter(model.active_adapters[0])
    plain = load_base(folder, base).eval()
    merged = model.state_dict()
    plain.load_state_dict({name: merged[name] for name in plain.state_dict()})
    with torch.no_grad():
        difference = (call_model(plain, inputs)[0] - expected).abs().mean() / expected.std()
    if not difference <= _TOLERANCE:
        raise IntegrityError(
            f"{adapter}: merged, it computes something else ({float(difference):.2g} of the deviation)"
        )
    _write(plain, target, (adapter, base))
    logger.info("merged %s: logits differ by %.1e of their deviation; wrote %s", adapter, float(difference), target)


def _quantized(base: str) -> UsageError:
    return UsageError(
        f"--model {base}: is quantized, and merging changes the weights that its quantizers were made for; merge into "
        "the model that it was made from, and quantize the result"
    )


def _write(model: Any, target: Path, tokenizers: tuple[str, ...]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        model.save_pretrained(temporary)
        save_tokenizer(tokenizers, temporary)
        temporary.chmod(0o755)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
