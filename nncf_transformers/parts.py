"""The parts in which a model is run and exported.

An encoder or a causal language model is one part. A sequence-to-sequence model is two: its encoder runs once for a
text, its decoder once for each token that is written. Nothing here knows a cache of keys and values.
"""

import contextlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nncf_transformers.families import has_class, is_adapted
from nncf_transformers.inputs import call_model, input_names

# What a decoder is given beside its own tokens, in the words of optimum's exports.
ENCODER_STATES = "encoder_hidden_states"
ENCODER_MASK = "encoder_attention_mask"

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Part:
    """What one exported file holds.

    Attributes:
        name: ``encoder`` or ``decoder``; empty for a model that is exported whole.
        inputs: names of its inputs, in order.
        outputs: names of its outputs, in order.
        decides: whether the outputs are logits; hidden states and embeddings decide nothing.
        per_token: whether the outputs have an axis for the sequence, behind that for the batch.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    decides: bool = True
    per_token: bool = True

    @property
    def axes(self) -> dict[str, dict[int, str]]:
        """Names of the axes of variable length, by input and output."""
        axes = {}
        for name in (*self.inputs, *self.outputs):
            axes[name] = {0: "batch", 1: "sequence"}
            if self.name == "decoder" and name in (ENCODER_STATES, ENCODER_MASK):
                axes[name][1] = "encoder_sequence"
            if name in self.outputs and not self.per_token:
                del axes[name][1]
        return axes

    def run(self, model: nn.Module, inputs: Tensors) -> tuple[torch.Tensor, ...]:
        """Run this part of ``model``, quantizers included, on the part's own inputs."""
        any_model: Any = model
        if self.name == "encoder":
            with _with_adapters(model, inputs):
                states = any_model.get_encoder()(**inputs, return_dict=False)[0]
            return (states,)
        if self.name == "decoder":
            arguments: dict[str, Any] = {
                "encoder_outputs": (inputs[ENCODER_STATES],),
                "attention_mask": inputs[ENCODER_MASK],
                "decoder_input_ids": inputs["input_ids"],
            }
            return call_model(model, arguments)[:1]
        return call_model(model, inputs)[: len(self.outputs)]

    def select(self, model: nn.Module, inputs: Tensors) -> dict[str, torch.Tensor]:
        """Make this part's inputs from those of the whole ``model``; for a decoder, its encoder is run."""
        if self.name != "decoder":
            return {name: inputs[name] for name in self.inputs}
        encoder = parts_of(model)[0]
        (states,) = encoder.run(model, encoder.select(model, inputs))
        own = {"input_ids": inputs["decoder_input_ids"], ENCODER_STATES: states, ENCODER_MASK: inputs["attention_mask"]}
        return {name: own[name] for name in self.inputs}


def _with_adapters(model: nn.Module, inputs: Tensors) -> contextlib.AbstractContextManager[Any]:
    """What the forward of a model with adapters sets up for its parts, where a part is called on its own."""
    if not is_adapted(model):
        return contextlib.nullcontext()
    from adapters.context import ForwardContext

    context: contextlib.AbstractContextManager[Any] = ForwardContext(model, **inputs)
    return context


def parts_of(model: nn.Module) -> tuple[Part, ...]:
    """List the parts of a model, in the order in which they run."""
    if is_seq2seq(model):
        return (
            Part("encoder", ("input_ids", "attention_mask"), ("last_hidden_state",), decides=False),
            Part("decoder", ("input_ids", ENCODER_STATES, ENCODER_MASK), ("logits",)),
        )
    names = output_names(model)
    per_token = not has_class(model, "ForSequenceClassification", "ForMultipleChoice", "ModelEMB")
    return (Part("", input_names(model), names, decides=names != ("embedding",), per_token=per_token),)


def output_names(model: nn.Module) -> tuple[str, ...]:
    """Name a model's outputs as the Transformers output classes name them."""
    if has_class(model, "ForQuestionAnswering"):
        return ("start_logits", "end_logits")
    return ("embedding",) if has_class(model, "ModelEMB") else ("logits",)


def is_seq2seq(model: nn.Module) -> bool:
    """Say whether a model has an encoder and a decoder, and writes text."""
    return "decoder_input_ids" in input_names(model) and has_class(model, "ForConditionalGeneration")


def hook_encoder(model: nn.Module) -> None:
    """Let quantizers act in an encoder that is called on its own, as ``generate`` does; in place.

    NNCF puts its hooks into the forward of the whole model. Without this, the encoder would compute in floating point
    whenever text is generated, and nobody would be told. A model without an encoder of its own is left alone.
    """
    if not is_seq2seq(model):
        return
    any_model: Any = model
    encoder = any_model.get_encoder()
    if not isinstance(encoder.__dict__.get("forward"), EncoderWithHooks):
        hooked = EncoderWithHooks(model, encoder)
        encoder.forward = hooked
        encoder._replicate_for_data_parallel = hooked.replicate


class EncoderWithHooks:
    """The forward of an encoder; outside the forward of its model, it runs under the model's hooks.

    Args:
        model: has NNCF's hooks.
        encoder: a direct child of the model, so that operations get the names that they have in the model's forward.
    """

    def __init__(self, model: nn.Module, encoder: nn.Module) -> None:
        self.model = model
        self.encoder = encoder
        self.original = encoder.forward

    @property
    def __signature__(self) -> inspect.Signature:
        # Text generation looks which arguments an encoder takes.
        return inspect.signature(self.original)

    def replicate(self) -> nn.Module:
        """Copy the encoder for another GPU, where it is only called by the forward of its model's copy."""
        replica: nn.Module = nn.Module._replicate_for_data_parallel(self.encoder)
        del replica.__dict__["forward"]
        return replica

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from nncf.torch.function_hook.hook_executor_mode import FunctionHookMode
        from nncf.torch.function_hook.wrapper import ATR_HOOK_STORAGE

        storage = getattr(self.model, ATR_HOOK_STORAGE, None)
        # While the model's own forward runs, or is traced, NNCF has put a wrapper around each module's call.
        inside = "_call_impl" in self.encoder.__dict__
        if inside or storage is None or storage.is_empty():
            return self.original(*args, **kwargs)
        with FunctionHookMode(model=self.model, hook_storage=storage) as mode:
            mode.push_module_call_stack(self.encoder)
            try:
                return self.original(*args, **kwargs)
            finally:
                mode.pop_module_call_stack()
