"""Movement sparsity: scores, masks, schedule, penalty, and what is left at the end of the warm-up."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_batches, tiny_model
from torch import nn

from nncf_transformers.algorithms import Clock
from nncf_transformers.algorithms.masks import Mask, expand, masks
from nncf_transformers.algorithms.movement import MovementSparsity
from nncf_transformers.compression import TABLE_FILE, Compression
from nncf_transformers.config import load_config, parse_config
from nncf_transformers.errors import UsageError
from nncf_transformers.inputs import model_inputs
from nncf_transformers.loading import load_model
from nncf_transformers.structure import CONFIG_KEY, find_groups

ROOT = Path(__file__).resolve().parents[2]
# Blocks in attention, rows and columns in the feed-forward layers: the original's structure, at the size of the tests.
STRUCTURES = [
    {"mode": "block", "sparse_factors": [4, 4], "target_scopes": ["{re}attention"]},
    {"mode": "per_dim", "axis": 0, "target_scopes": [r"{re}intermediate|lin1"]},
    {"mode": "per_dim", "axis": 1, "target_scopes": [r"{re}(layer|ffn)\.\d+\.output|lin2"]},
]
FAMILIES = ("bert", "roberta", "distilbert", "electra", "mobilebert", "xlm-roberta")


def settings(**keys: Any) -> dict[str, Any]:
    return {
        "algorithm": "movement_sparsity",
        "warmup_start_epoch": 1,
        "warmup_end_epoch": 4,
        "importance_regularization_factor": 0.02,
        "ignored_scopes": ["qa_outputs"],
        "sparse_structure_by_scopes": STRUCTURES,
        **keys,
    }


def started(model: nn.Module, *others: dict[str, Any], **keys: Any) -> tuple[Compression, MovementSparsity]:
    compression = Compression(parse_config({"algorithms": [settings(**keys), *others]}, "test"))
    compression.start(model, tiny_batches(model))
    algorithm = compression.algorithms[0]
    assert isinstance(algorithm, MovementSparsity)
    return compression, algorithm


def scores_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: mask.importance for name, mask in masks(model) if mask.importance is not None}


def randomize(model: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for scores in scores_of(model).values():
            scores.copy_(torch.randn(scores.shape, generator=generator) * 0.01)


def force(model: nn.Module, groups: dict[str, list[int]]) -> None:
    """Let the scores keep just these units of each named group, and everything of the others."""
    found = dict(masks(model))
    with torch.no_grad():
        for group in find_groups(model):
            keep = torch.ones(group.count) if group.name not in groups else torch.zeros(group.count)
            keep[groups.get(group.name, [])] = 1
            for layer in group.members:
                scores, shape = found[f"{layer}.weight"].importance, model.get_parameter(f"{layer}.weight").shape
                assert scores is not None
                by_row = (
                    keep.repeat_interleave(group.unit)[:, None].expand(shape[0], -1) if layer in group.rows else None
                )
                whole = by_row.expand(shape) if by_row is not None else keep.repeat_interleave(group.unit).expand(shape)
                high, wide = (size // count for size, count in zip(shape, scores.shape, strict=True))
                scores.copy_(whole[::high, ::wide] * 20 - 10)
                bias = found[f"{layer}.bias"].importance
                assert bias is not None
                bias.copy_(whole[:, 0][:: shape[0] // len(bias)] * 20 - 10 if layer in group.rows else bias * 0 - 10)


def penalty_of(algorithm: MovementSparsity, model: nn.Module) -> float:
    penalty = algorithm.penalty(model)
    assert penalty is not None
    return float(penalty.detach())


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack(model(**model_inputs(model, tiny_batches(model)[0]), return_dict=False))


def test_score_shapes_of_bert_base() -> None:
    """Acceptance check 2, with the original's configuration as it is."""
    model = tiny_model(hidden_size=768, num_hidden_layers=1, num_attention_heads=12, intermediate_size=3072)
    config = load_config(ROOT / "nncf_configs" / "bert-base-movement-sparsity.json")
    Compression(config).start(model, tiny_batches(model, count=1))
    shapes = {name: tuple(scores.shape) for name, scores in scores_of(model).items()}
    layer = "bert.encoder.layer.0"
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        assert shapes.pop(f"{layer}.attention.{name}.weight") == (24, 24)
        assert shapes.pop(f"{layer}.attention.{name}.bias") == (24,)
    assert shapes.pop(f"{layer}.intermediate.dense.weight") == (3072, 1)
    assert shapes.pop(f"{layer}.intermediate.dense.bias") == (3072,)
    assert shapes.pop(f"{layer}.output.dense.weight") == (1, 3072)
    assert shapes.pop(f"{layer}.output.dense.bias") == (1,)
    assert not shapes
    assert all(not scores.any() for scores in scores_of(model).values())


def test_penalty_of_one_layer() -> None:
    """Acceptance check 4: scores of zero, factor 0.02, blocks of 32 x 32 on a layer of 768 x 768."""
    model = tiny_model(hidden_size=768, num_hidden_layers=1, num_attention_heads=12, intermediate_size=64)
    _, algorithm = started(
        model,
        target_scopes=["{re}query"],
        sparse_structure_by_scopes=[{"mode": "block", "sparse_factors": [32, 32], "target_scopes": ["{re}query"]}],
    )
    algorithm.factor = 0.02
    assert penalty_of(algorithm, model) == pytest.approx(5.28)


def test_penalty_against_numpy() -> None:
    model = tiny_model()
    _, algorithm = started(model)
    randomize(model)
    algorithm.factor = 0.3
    found = {name: scores.detach().numpy() for name, scores in scores_of(model).items()}
    layers = {name.rpartition(".")[0] for name in found}
    losses = []
    for layer in layers:
        weight, bias = found[f"{layer}.weight"], found[f"{layer}.bias"]
        out, into = model.get_parameter(f"{layer}.weight").shape
        high, wide = out / weight.shape[0], into / weight.shape[1]
        losses.append(
            0.5 * (np.mean(1 / (1 + np.exp(-weight))) * high * wide + np.mean(1 / (1 + np.exp(-bias))) * high)
        )
    assert len(layers) == 12
    assert penalty_of(algorithm, model) == pytest.approx(0.3 * np.mean(losses), rel=1e-5)


def test_schedule() -> None:
    """Acceptance check 1, with ten steps in an epoch."""
    model = tiny_model()
    _, algorithm = started(model, init_importance_threshold=-0.4)
    clock, seen = Clock(steps_per_epoch=10, total_steps=80), {}
    algorithm.begin(model, clock)
    for clock.step in range(60):
        algorithm.on_step(model, clock)
        seen[clock.step] = (algorithm.threshold, algorithm.factor, algorithm.resolved)
    assert all(seen[n] == (-math.inf, 0, False) for n in range(10))
    assert seen[10] == (-0.4, 0, False)
    assert seen[25] == (pytest.approx(-0.4 + 0.875 * 0.4), pytest.approx(0.875 * 0.02), False)
    assert seen[39][:2] == (pytest.approx(-0.4 * (1 / 30) ** 3), pytest.approx(0.02 * (1 - (1 / 30) ** 3)))
    assert all(seen[n] == (0, 0.02, True) for n in range(40, 60))
    assert penalty_of(algorithm, model) == 0


def test_fractions_of_an_epoch_and_other_powers() -> None:
    model = tiny_model()
    keys = {"warmup_start_epoch": 0.25, "warmup_end_epoch": 0.75, "power": 2, "init_importance_threshold": -1}
    _, algorithm = started(model, **keys)
    algorithm.begin(model, Clock(step=5, steps_per_epoch=10))
    # int(0.25 * 10) = 2 is the first step, so p = (5 - 2) / 5.
    assert algorithm.threshold == pytest.approx(-1 + (1 - (1 - 0.6) ** 2))


def test_nothing_happens_until_the_epochs_are_known() -> None:
    model = tiny_model()
    compression, algorithm = started(model, init_importance_threshold=-1.0)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    compression.add_to(optimizer, model)
    for _ in range(7):
        optimizer.step()
    assert algorithm.threshold == -math.inf
    compression.end_epoch(model)
    assert compression.clock.steps_per_epoch == 7 and algorithm.threshold == -1.0


def test_masks_against_numpy_quantiles() -> None:
    """Acceptance check 3, and that the short cut is none: the mask is that of the expanded scores."""
    model = tiny_model()
    _, algorithm = started(model, init_importance_threshold=-0.01)
    randomize(model)
    for step in (10, 20, 30, 39):
        algorithm.on_step(model, Clock(step=step, steps_per_epoch=10))
        check_masks(model, algorithm.threshold)
    # A threshold above every score: what survives are the largest.
    with torch.no_grad():
        for scores in scores_of(model).values():
            scores.sub_(5)
    algorithm.on_step(model, Clock(step=38, steps_per_epoch=10))
    check_masks(model, algorithm.threshold)
    for name, mask in masks(model):
        if name.endswith("weight"):
            # Of 64 blocks, 98 % is not a whole number.
            assert 0.9 < (~mask.mask).float().mean() <= 0.98 + 1 / mask.mask.numel()


def check_masks(model: nn.Module, threshold: float) -> None:
    for name, mask in masks(model):
        assert mask.importance is not None
        whole = expand(mask.importance.detach(), model.get_parameter(name).shape).numpy()
        expected = whole > min(threshold, np.quantile(whole, 0.98))
        if not expected.any() and mask.importance.numel() > 1:
            expected = whole == whole.max()  # ours: something always stays
        assert np.array_equal(expand(mask.mask, whole.shape).numpy(), expected), name


def test_first_threshold_masks_a_thousandth(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = tiny_model()
    _, algorithm = started(model)
    randomize(model)
    everything = [
        expand(scores.detach(), model.get_parameter(name).shape).flatten().numpy()
        for name, scores in scores_of(model).items()
    ]
    flat = np.sort(np.concatenate(everything))
    algorithm.on_step(model, Clock(step=10, steps_per_epoch=10))
    assert algorithm.initial == flat[int(len(flat) * 0.001)]
    assert "the threshold starts at" in caplog.text
    # It is found once.
    randomize(model, seed=1)
    algorithm.on_step(model, Clock(step=11, steps_per_epoch=10))
    assert algorithm.initial == flat[int(len(flat) * 0.001)]


def test_sixty_masks() -> None:
    """Acceptance check 7: five layers of six linear layers with biases."""
    model = tiny_model(num_hidden_layers=5)
    started(model)
    assert sum(key.endswith("_binary_mask") for key in model.state_dict()) == 60


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantized", [False, True])
def test_removal_changes_nothing_but_the_size(family: str, quantized: bool, tmp_path: Path) -> None:
    """Acceptance check 5, then the same logits from a smaller model, saved and loaded again."""
    model = tiny_model(family)
    quantization = {"algorithm": "quantization", "calibration_samples": 4}
    # SmoothQuant has a scale for each channel, so that these must go, too.
    quantization |= {} if family == "mobilebert" else {"smooth_quant": 0.95}
    compression, algorithm = started(model, *([quantization] if quantized else []))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = find_groups(model)
    head, channel = groups[0], groups[1]
    force(model, {head.name: [0, 2], channel.name: list(range(0, channel.count, 3))})
    compression.clock.step = 40
    compression.clock.steps_per_epoch = 10
    algorithm.on_step(model, compression.clock)
    assert algorithm.resolved
    masked = logits(model)
    compression.finish(model)
    small = logits(model)
    assert (small - masked).abs().max() <= 1e-5 * masked.abs().max()
    kept = [unit * head.unit + i for unit in (0, 2) for i in range(head.unit)]
    for name in head.rows:
        assert torch.equal(model.get_parameter(f"{name}.weight"), before[f"{name}.weight"][kept])
    for name in head.columns:
        assert torch.equal(model.get_parameter(f"{name}.weight"), before[f"{name}.weight"][:, kept])
        assert torch.equal(model.get_parameter(f"{name}.bias"), before[f"{name}.bias"])
    assert model.get_parameter(f"{channel.rows[0]}.weight").shape[0] == -(-channel.count // 3)
    counts: dict[str, int] = getattr(model.config, CONFIG_KEY)
    assert list(counts.values()) == [2, -(-channel.count // 3)]
    model.save_pretrained(tmp_path)
    loaded = load_model(type(model), tmp_path).eval()
    assert torch.equal(logits(loaded), small)
    assert loaded.num_parameters() == model.num_parameters() < tiny_model(family).num_parameters()


def test_a_head_stays_if_any_part_of_it_does() -> None:
    """Acceptance check 5: its weights are whole again, its other parts, too."""
    model = tiny_model()
    _, algorithm = started(model)
    head = find_groups(model)[0]
    force(model, {head.name: [1]})
    # One block of the key of head 3 survives.
    found = dict(masks(model))
    key = found[f"{head.rows[1]}.weight"]
    assert key.importance is not None
    with torch.no_grad():
        key.importance[3 * head.unit // 4, 2] = 10
    algorithm.on_step(model, Clock(step=40, steps_per_epoch=10))
    for name in head.rows:
        assert found[f"{name}.weight"].mask.flatten().tolist() == [False, True, False, True]
        assert found[f"{name}.bias"].mask.tolist() == [False, True, False, True]
    assert found[f"{head.columns[0]}.weight"].mask.flatten().tolist() == [False, True, False, True]
    assert found[f"{head.columns[0]}.bias"].mask.all()


def test_a_bias_keeps_its_unit() -> None:
    model = tiny_model()
    _, algorithm = started(model)
    channel = find_groups(model)[1]
    force(model, {channel.name: [0]})
    found = dict(masks(model))
    bias = found[f"{channel.rows[0]}.bias"].importance
    assert bias is not None
    with torch.no_grad():
        bias[5] = 10
    algorithm.on_step(model, Clock(step=40, steps_per_epoch=10))
    assert found[f"{channel.columns[0]}.weight"].mask.flatten().nonzero().flatten().tolist() == [0, 5]


def test_without_structured_masking_masks_stay_as_they_are() -> None:
    model = tiny_model()
    compression, algorithm = started(model, enable_structured_masking=False)
    randomize(model)
    algorithm.on_step(model, Clock(step=40, steps_per_epoch=10))
    check_masks(model, 0.0)
    before = logits(model)
    compression.finish(model)
    assert torch.equal(logits(model), before) and not hasattr(model.config, CONFIG_KEY)
    assert model.num_parameters() == tiny_model().num_parameters()
    assert compression.describe(model)["block_zeros"] > 0


def test_the_table_of_what_is_left(tmp_path: Path) -> None:
    model = tiny_model()
    _, algorithm = started(model)
    head, channel = find_groups(model)[:2]
    force(model, {head.name: [0, 2], channel.name: list(range(30))})
    algorithm.on_step(model, Clock(step=40, steps_per_epoch=10))
    model.save_pretrained(tmp_path)
    lines = (tmp_path / TABLE_FILE).read_text().splitlines()
    assert lines[0].split(",") == [
        "",
        "group_id",
        "torch_module",
        "weight_shape",
        "pruned_weight_shape",
        "bias_shape",
        "pruned_bias_shape",
        "head_or_channel_id_to_keep",
        "module_node_name",
    ]
    assert len(lines) == 1 + 2 * 6
    assert lines[1] == (
        '0,0,bert.encoder.layer.0.attention.self.query,"[32, 32]","[16, 32]",[32],[16],"[0, 2]",'
        "bert/encoder/attention/self/query/linear/0"
    )
    assert lines[6] == (
        '5,1,bert.encoder.layer.0.output.dense,"[32, 64]","[32, 30]",[32],[32],[30 items],'
        "bert/encoder/output/dense/linear/0"
    )


def test_statistics_and_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = tiny_model()
    compression, algorithm = started(model, init_importance_threshold=-1.0)
    compression.add_to(torch.optim.SGD(model.parameters(), lr=0.1), model, steps_per_epoch=10, total_steps=40)
    assert "compression/importance_threshold" not in compression.statistics(model)
    force(model, {find_groups(model)[1].name: list(range(32))})
    algorithm.on_step(model, Clock(step=40, steps_per_epoch=10))
    statistics = compression.statistics(model)
    masked = 32 * 32 * 2 + 32  # half of the first layer's channels: rows, columns, biases
    assert statistics["compression/layer_sparsity"] == pytest.approx(masked / (2 * (4 * 1056 + 2112 + 2080)))
    assert statistics["compression/model_sparsity"] == pytest.approx(
        masked / model.num_parameters(exclude_embeddings=False), rel=0.5
    )
    assert statistics["compression/importance_threshold"] == 0
    assert statistics["compression/importance_regularization_factor"] == 0.02
    assert "the masks are final" in caplog.text


def test_training_loss_has_the_penalty() -> None:
    """The parts of the loss are named as the original named them, and each counts once."""
    model = tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    compression, algorithm = started(model)
    batch = tiny_batches(model)[0]
    plain = float(model(**batch).loss.detach())
    compression.add_to(torch.optim.SGD(model.parameters(), lr=0.1), model, steps_per_epoch=10, total_steps=80)
    algorithm.factor = 2.0
    loss = model(**batch).loss
    penalty = algorithm.penalty(model)
    assert penalty is not None and float(penalty.detach()) > 0
    assert float(loss.detach()) == pytest.approx(plain + float(penalty.detach()))
    assert compression.losses.keys() == {"compression_loss"}
    assert float(model(**batch, return_dict=False)[0].detach()) == pytest.approx(float(loss.detach()))
    with pytest.raises(UsageError, match="called without labels"):
        model(**model_inputs(model, batch))
    model.eval()
    assert float(model(**batch).loss.detach()) == pytest.approx(plain)


def test_scores_train_in_a_group_of_their_own() -> None:
    model = tiny_model().train()
    compression, algorithm = started(
        model, {"algorithm": "quantization", "calibration_samples": 4}, score_lr_multiplier=10
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    compression.add_to(optimizer, model, steps_per_epoch=1, total_steps=9)
    own, scores, quantizers = optimizer.param_groups
    assert (scores["lr"], scores["weight_decay"]) == (pytest.approx(1e-2), 0)
    assert {id(p) for p in scores["params"]} == {id(s) for s in scores_of(model).values()}
    assert (quantizers["lr"], quantizers["weight_decay"]) == (1e-3, 0)
    groups = [{id(p) for p in group["params"]} for group in (own, scores, quantizers)]
    assert not groups[0] & groups[1] and not groups[1] & groups[2] and not groups[0] & groups[2]
    for batch in tiny_batches(model):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert algorithm.resolved
    assert all(scores.grad is None for scores in scores_of(model).values())
    final = {name: scores.detach().clone() for name, scores in scores_of(model).items()}
    model(**tiny_batches(model)[0]).loss.backward()
    optimizer.step()
    assert all(torch.equal(final[name], scores) for name, scores in scores_of(model).items())


@pytest.mark.parametrize("family, word", [("albert", "albert"), ("deberta-v2", "deberta-v2")])
def test_families_without_known_groups_are_refused_by_name(family: str, word: str) -> None:
    model = tiny_model(family)
    with pytest.raises(UsageError, match=f"'{word}'.*known: bert, roberta"):
        started(model, sparse_structure_by_scopes=[])
    # Without whole heads and channels there is nothing to know about the family.
    started(model, sparse_structure_by_scopes=[], enable_structured_masking=False)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"sparse_structure_by_scopes": [{"mode": "block", "sparse_factors": [5, 4], "target_scopes": ["{re}query"]}]},
         r"sparse_factors: blocks of 5 x 4 do not divide the weight of bert.encoder.layer.0.attention.self.query"),
        ({"sparse_structure_by_scopes": [*STRUCTURES, {"mode": "fine", "target_scopes": ["{re}query"]}]},
         r"query is matched by another entry of sparse_structure_by_scopes"),
        ({"target_scopes": ["bert.pooler"]}, r"matches nothing in the model"),
        ({"ignored_scopes": ["bert", "qa_outputs"]}, r"leave no linear layer of BertForQuestionAnswering"),
    ],
)  # fmt: skip
def test_scopes_that_do_not_fit(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        started(tiny_model(), **keys)
    assert "\n" not in str(caught.value)


def test_a_layer_sparse_by_two_methods_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(UsageError, match=r"self\.query.*another sparsity method"):
        started(model, {"algorithm": "magnitude_sparsity", "ignored_scopes": ["qa_outputs"]})


@pytest.mark.parametrize(
    "keys, clock, message",
    [
        ({}, Clock(steps_per_epoch=10, total_steps=39), "is step 40, but the training ends at step 39; train longer"),
        (
            {"steps_per_epoch": 9},
            Clock(steps_per_epoch=10, total_steps=80),
            "is 9, but an epoch of this training has 10",
        ),
    ],
)
def test_schedules_that_do_not_fit(keys: dict[str, Any], clock: Clock, message: str) -> None:
    model = tiny_model()
    _, algorithm = started(model, **keys)
    with pytest.raises(UsageError, match=message):
        algorithm.begin(model, clock)


def test_training_that_ends_before_the_warm_up_removes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    compression, algorithm = started(model)
    randomize(model)
    algorithm.on_step(model, Clock(step=30, steps_per_epoch=10))
    compression.finish(model)
    assert "the warm-up is not over, so no head or channel is removed" in caplog.text
    assert model.num_parameters() == tiny_model().num_parameters()


def test_groups_scored_the_other_way_stay(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    other = [{"mode": "per_dim", "axis": 1, "target_scopes": ["{re}intermediate"]}, *STRUCTURES[::2]]
    _, algorithm = started(model, sparse_structure_by_scopes=other)
    algorithm.on_step(model, Clock(step=40, steps_per_epoch=10))
    assert "intermediate.dense stays as it is: the scores" in caplog.text


def test_a_smaller_model_whose_config_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    compression, algorithm = started(model)
    force(model, {find_groups(model)[1].name: [1, 2, 3]})
    algorithm.on_step(model, Clock(step=40, steps_per_epoch=10))
    compression.finish(model)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())
    for wrong in ({"encoder.layer.7.intermediate.dense": 3}, {"encoder.layer.0.intermediate.dense": 99}):
        path.write_text(json.dumps(good | {CONFIG_KEY: wrong}))
        with pytest.raises(UsageError.__mro__[1], match=f"config.json: {CONFIG_KEY} leaves"):
            load_model(type(model), tmp_path)


def test_a_mask_is_not_shared_by_copies() -> None:
    import copy

    model = tiny_model()
    started(model)
    twin = copy.deepcopy(model)
    name, mask = next(iter(masks(twin)))
    assert isinstance(mask, Mask) and mask is not dict(masks(model))[name]
    assert Compression.of(twin) is Compression.of(model)
