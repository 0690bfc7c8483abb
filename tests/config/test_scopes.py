"""Scopes find exactly the operations that they mean, in every family, fused or not."""

import nncf
import pytest
import torch
from config_models import EAGER_ONLY, FAMILIES, MakeModel, inputs_of, quantize, quantizer_names

from nncf_transformers.algorithms.quantization import is_weight_quantizer
from nncf_transformers.config import (
    ConfigError,
    QuantizationConfig,
    ResolvedScopes,
    resolve_ignored_scopes,
    resolve_scopes,
)
from nncf_transformers.config.scope_names import PRODUCT_FUNCTIONS, quantized_nodes
from nncf_transformers.config.trace import trace_operations

Example = dict[str, torch.Tensor]
ATTENTIONS = [
    (family, attention)
    for family in FAMILIES
    for attention in (("eager",) if family in EAGER_ONLY else ("eager", "sdpa"))
]
LAYER = "BertForQuestionAnswering/BertModel[bert]/BertEncoder[encoder]/ModuleList[layer]/BertLayer[1]"


@pytest.mark.parametrize("family, attention", ATTENTIONS)
def test_the_trace_has_the_nodes_that_nncf_sees(
    family: str, attention: str, make_model: MakeModel, example: Example
) -> None:
    model = make_model(family, attention).train()
    example = inputs_of(model, example)
    operations = trace_operations(model, example)
    assert model.training
    model.eval()
    graph = nncf.build_graph(model, example_input=example)
    constants = ("nncf_model_const", "nncf_model_input", "nncf_model_output")
    assert [operation.node_name for operation in operations] == [
        node.node_name for node in graph.get_all_nodes() if node.node_type not in constants
    ]
    modules = dict(model.named_modules())
    for operation in operations:
        assert type(modules[operation.module_path]).__name__ == operation.class_names[-1]
        if operation.function == "linear":
            assert isinstance(modules[operation.module_path], torch.nn.Linear)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_nncf_quantizes_the_nodes_that_count_as_quantized(
    attention: str, make_model: MakeModel, example: Example
) -> None:
    """Leaving out everything else changes nothing; leaving out query × key does."""
    model = make_model("bert", attention)
    operations = trace_operations(model, example)
    quantized = quantized_nodes(operations)
    # Views and the like carry a quantizer along, so that it moves when they are left out.
    inert = [o.node_name for o in operations if o.node_name not in quantized and o.function not in MOVABLE]
    plain = quantizer_names(quantize(QuantizationConfig(), model, example))
    assert quantizer_names(quantize(QuantizationConfig(ignored_scopes=tuple(inert)), model, example)) == plain
    products = [o.node_name for o in operations if o.node_name in quantized and o.function in PRODUCT_FUNCTIONS]
    fewer = quantizer_names(quantize(QuantizationConfig(ignored_scopes=tuple(products)), model, example))
    assert len(plain) - len(fewer) == 2 * len(products) == 4


MOVABLE = {"view", "reshape", "transpose", "permute", "__getitem__"}


def ignored(model: torch.nn.Module, example: Example, *scopes: str, legacy: bool) -> ResolvedScopes:
    return resolve_scopes(scopes, model, example, legacy=legacy, place="f.json: ignored_scopes")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_own_plain_scopes(attention: str, make_model: MakeModel, example: Example) -> None:
    model = make_model("bert", attention)

    def nodes(scope: str) -> tuple[str, ...]:
        return ignored(model, example, scope, legacy=False).node_names

    assert nodes("bert.encoder.layer.1.attention.self.query") == ("bert/encoder/attention/self/query/linear/1",)
    assert nodes("bert/encoder/attention/self/query/linear/1") == ("bert/encoder/attention/self/query/linear/1",)
    assert nodes("bert.encoder.layer.1.output/add/0") == ("bert/encoder/output/add/1",)
    layer = nodes("bert.encoder.layer.0")
    assert all(name.startswith("bert/encoder/") for name in layer)
    assert {"bert/encoder/attention/self/query/linear/0", "bert/encoder/output/dense/linear/0"} <= set(layer)
    assert not {"bert/encoder/attention/self/query/linear/1", "bert/encoder/output/dense/linear/1"} & set(layer)
    assert set(nodes("bert")) > set(layer)


def test_own_regular_expressions(make_model: MakeModel, example: Example) -> None:
    model = make_model()
    found = ignored(model, example, r"{re}layer\.\d\.attention\.self\.(query|key)/", legacy=False)
    assert len(found.node_names) == 4
    assert ignored(model, example, "{re}query/linear/1$", legacy=False).node_names == (
        "bert/encoder/attention/self/query/linear/1",
    )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_legacy_plain_scopes(attention: str, make_model: MakeModel, example: Example) -> None:
    model = make_model("bert", attention)
    query = f"{LAYER}/BertAttention[attention]/BertSelfAttention[self]/NNCFLinear[query]"
    expected = ("bert/encoder/attention/self/query/linear/1",)
    for scope in (f"{query}/linear_0", query, query.replace("NNCFLinear", "Linear")):
        assert ignored(model, example, scope, legacy=True).node_names == expected
    whole = ignored(model, example, LAYER, legacy=True).node_names
    assert "bert/encoder/output/dense/linear/1" in whole
    assert "bert/encoder/output/dense/linear/0" not in whole


@pytest.mark.parametrize(
    "attention, scope, count, effect",
    [
        ("eager", r"{re}BertSelfAttention\[self\]/__add___0", 2, False),
        ("sdpa", r"{re}BertSelfAttention\[self\]/__add___0", 0, False),
        ("eager", r"{re}BertSelfAttention\[self\]/__add___1", None, False),
        ("eager", "{re}.*matmul_0", 2, True),
        ("sdpa", "{re}.*matmul_0", 2, True),
        ("eager", "{re}.*matmul_1", 2, False),
        ("sdpa", "{re}.*matmul_1", 0, False),
        ("eager", "{re}.*__truediv__*", 2, False),
        ("sdpa", "{re}.*__truediv__*", 0, False),
        ("sdpa", "{re}.*scaled_dot_product_attention_0", 2, True),
        ("sdpa", r"{re}BertIntermediate\[intermediate\]/__mul___0", 0, False),
        ("sdpa", r"{re}BertIntermediate\[intermediate\]/NNCFLinear\[dense\]/linear_0", 2, True),
        ("sdpa", r"{re}BertEmbeddings\[embeddings\]/__add___1", 1, False),
        ("sdpa", r"{re}BertEmbeddings\[embeddings\]/__iadd___0", 1, False),
        ("sdpa", "{re}.*NNCFEmbedding.*", 3, True),
        ("sdpa", "{re}.*layer_norm_0", 5, False),
        ("sdpa", "{re}.*LayerNorm.*", 5, False),
    ],
)
def test_legacy_operations(
    attention: str, scope: str, count: int | None, effect: bool, make_model: MakeModel, example: Example
) -> None:
    model = make_model("bert", attention)
    if count is None:
        with pytest.raises(ConfigError, match="matches nothing"):
            ignored(model, example, scope, legacy=True)
        return
    found = ignored(model, example, scope, legacy=True)
    assert len(found.node_names) == count
    assert len(found.warnings) == (0 if effect else 1)
    if not effect:
        assert scope in found.warnings[0] and "has no effect" in found.warnings[0]


# Family → a legacy scope of it (2019 names) and what it finds in layer 1.
LEGACY_BY_FAMILY = {
    "roberta": (r"{re}BertLayer\[1\].*NNCFLinear\[query\]", "roberta/encoder/attention/self/query/linear/1"),
    "xlm-roberta": (
        r"{re}BertLayer\[1\].*NNCFLinear\[query\]",
        "roberta/encoder/attention/self/query/linear/1",
    ),
    "electra": (
        r"{re}ElectraLayer\[1\].*NNCFLinear\[query\]",
        "electra/encoder/attention/self/query/linear/1",
    ),
    "distilbert": (
        r"{re}TransformerBlock\[1\]/MultiHeadSelfAttention\[attention\]/NNCFLinear\[q_lin\]",
        "distilbert/transformer/attention/q_lin/linear/1",
    ),
    # One layer runs twice, and legacy names count its calls.
    "albert": (
        r"{re}AlbertAttention\[attention\]/NNCFLinear\[query\]/linear_1",
        "albert/encoder/attention/query/linear/1",
    ),
    "mobilebert": (
        r"{re}MobileBertLayer\[1\]/MobileBertAttention.*NNCFLinear\[query\]",
        "mobilebert/encoder/attention/self/query/linear/1",
    ),
    # Query projections also run on the relative positions, hence number 2 and 3 in the second layer.
    "deberta-v2": (
        r"{re}DebertaV2Layer\[1\].*NNCFLinear\[query_proj\]/linear_0",
        "deberta/encoder/attention/self/query_proj/linear/2",
    ),
    "bert-masked": (
        r"{re}BertForMaskedLM/BertModel\[bert\].*BertLayer\[1\].*NNCFLinear\[query\]",
        "bert/encoder/attention/self/query/linear/1",
    ),
    "gpt2": (
        r"{re}GPT2Block\[1\]/GPT2Attention\[attn\]/Conv1D\[c_attn\]/addmm_0",
        "transformer/attn/c_attn/addmm/1",
    ),
    "t5": (
        r"{re}T5Stack\[decoder\].*T5Block\[1\].*T5LayerCrossAttention.*NNCFLinear\[k\]",
        "decoder/EncDecAttention/k/linear/1",
    ),
}


@pytest.mark.parametrize("family, attention", [pair for pair in ATTENTIONS if pair[0] != "bert"])
def test_legacy_scopes_of_every_family(family: str, attention: str, make_model: MakeModel, example: Example) -> None:
    scope, node = LEGACY_BY_FAMILY[family]
    model = make_model(family, attention)
    assert ignored(model, inputs_of(model, example), scope, legacy=True).node_names == (node,)


@pytest.mark.parametrize("family", FAMILIES)
def test_own_scope_of_one_layer_removes_its_quantizers_only(
    family: str, make_model: MakeModel, example: Example
) -> None:
    model = make_model(family)
    example = inputs_of(model, example)
    ends = (".layer.1", ".albert_layers.0", ".h.1")
    path = next(name for name, _ in model.named_modules() if name.endswith(ends))
    linears = {o.node_name: o for o in trace_operations(model, example) if o.function in ("linear", "addmm")}
    inside = {name for name, o in linears.items() if f"{o.module_path}.".startswith(f"{path}.")}
    names = quantizer_names(quantize(QuantizationConfig(ignored_scopes=(path,)), model, example))
    weights = (name.partition("pre_hooks.")[2] for name in names if is_weight_quantizer(name.partition(".")[2]))
    kept = {name.rpartition("__")[0] for name in weights}
    assert not kept & inside
    # DeBERTa projects its relative positions, which are constants, so that NNCF has nothing to quantize
    # there.
    assert all("_proj/linear/" in name for name in linears.keys() - inside - kept)


@pytest.mark.parametrize(
    "scope, nodes",
    [
        ("transformer.h.1.mlp.c_fc", ["transformer/mlp/c_fc/addmm/1"]),
        ("transformer.h.0.attn.c_proj/addmm/0", ["transformer/attn/c_proj/addmm/0"]),
        (r"{re}h\.1\.attn\..*/addmm", ["transformer/attn/c_attn/addmm/1", "transformer/attn/c_proj/addmm/1"]),
        ("lm_head", ["lm_head/linear/0"]),
        ("transformer/mlp/c_proj/addmm/1", ["transformer/mlp/c_proj/addmm/1"]),
    ],
)
def test_scopes_of_gpt2_name_its_layers_by_number(
    scope: str, nodes: list[str], make_model: MakeModel, example: Example
) -> None:
    found = ignored(make_model("gpt2"), example, scope, legacy=False).node_names
    assert [name for name in found if name.split("/")[-2] in ("addmm", "linear")] == nodes


@pytest.mark.parametrize(
    "scope, nodes",
    [
        ("encoder.block.1.layer.0.SelfAttention.q", ["encoder/SelfAttention/q/linear/1"]),
        ("decoder.block.0.layer.1.EncDecAttention.v", ["decoder/EncDecAttention/v/linear/0"]),
        (r"{re}decoder\..*DenseReluDense\.wo", [f"decoder/DenseReluDense/wo/linear/{i}" for i in (0, 1)]),
        ("shared", ["encoder/embed_tokens/embedding/0", "decoder/embed_tokens/embedding/0"]),
        ("decoder.block.1.layer.0.SelfAttention/matmul/0", ["decoder/SelfAttention/matmul/2"]),
    ],
)
def test_scopes_of_t5_name_its_blocks_by_number(
    scope: str, nodes: list[str], make_model: MakeModel, example: Example
) -> None:
    model = make_model("t5")
    assert list(ignored(model, inputs_of(model, example), scope, legacy=False).node_names) == nodes


@pytest.mark.parametrize(
    "scope, legacy, message",
    [
        ("transformer.h.1", False, "matches nothing"),
        ("bert.encoder.layer.3", False, r'nearest valid scope is "bert\.encoder\.layer\.\d"'),
        ("qa_output", False, 'nearest valid scope is "qa_outputs"'),
        ("bert/encoder/output/dense/linear/9", False, "matches nothing"),
        ("{re}bert.encodr", False, 'nearest valid scope is "bert.encoder"'),
        ("{re}(", False, "is not a regular expression"),
        (
            r"{re}BertSelfAtention\[self\]/NNCFLinear\[kez\]",
            True,
            r"BertSelfAttention\[self\]/NNCFLinear\[key\]",
        ),
        (LAYER.replace("[1]", "[7]"), True, r'BertEncoder\[encoder\]/ModuleList\[layer\]/BertLayer\[\d\]"'),
        ("bert.encoder.layer.0", True, "matches nothing"),
        (LAYER, False, "matches nothing"),
        ("", False, "matches nothing"),
    ],
)
def test_a_scope_that_matches_nothing_is_an_error(
    scope: str, legacy: bool, message: str, make_model: MakeModel, example: Example
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ignored(make_model(), example, scope, legacy=legacy)
    assert str(caught.value).startswith(f'f.json: ignored_scopes: "{scope}"')
    assert "\n" not in str(caught.value)


def test_no_scopes_need_no_trace() -> None:
    model = torch.nn.Linear(1, 1)
    assert resolve_scopes([], model, {}, legacy=False) == ResolvedScopes(())
    assert resolve_ignored_scopes(QuantizationConfig(), model, {}) == ResolvedScopes(())


def test_target_scopes_leave_out_the_rest(make_model: MakeModel, example: Example) -> None:
    model = make_model()
    config = QuantizationConfig(
        target_scopes=("bert.encoder.layer.1",), ignored_scopes=("bert.encoder.layer.1.output.dense",)
    )
    names = quantizer_names(quantize(config, model, example))
    weights = [name for name in names if "linear" in name and "__1.0" in name]
    assert len(weights) == 5
    assert all("linear/1" in name for name in weights)


def test_one_sided_legacy_scopes(make_model: MakeModel, example: Example) -> None:
    model = make_model()
    dense = r"{re}BertIntermediate\[intermediate\]/NNCFLinear\[dense\]/linear_0"
    weights = QuantizationConfig(place="f.json: compression", legacy_scopes=True, weight_ignored_scopes=(dense,))
    found = resolve_ignored_scopes(weights, model, example)
    assert found.node_names == (
        "bert/encoder/intermediate/dense/linear/0",
        "bert/encoder/intermediate/dense/linear/1",
    )
    assert found.warnings[0].startswith("f.json: compression.weights.ignored_scopes:")
    assert "is approximated" in found.warnings[0]

    activations = QuantizationConfig(legacy_scopes=True, activation_ignored_scopes=(dense, "{re}.*matmul_0"))
    found = resolve_ignored_scopes(activations, model, example)
    assert len(found.node_names) == 2
    assert all("scaled_dot_product_attention" in name for name in found.node_names)
    assert len(found.warnings) == 1
    assert "no effect on layers with weights" in found.warnings[0]


def test_nothing_left_to_quantize_is_an_error(make_model: MakeModel, example: Example) -> None:
    config = QuantizationConfig(place="f.json: algorithms[0]", ignored_scopes=("{re}.*",))
    with pytest.raises(ConfigError, match=r"f\.json: algorithms\[0\]: the scopes leave nothing to quantize in Bert"):
        resolve_ignored_scopes(config, make_model(), example)
