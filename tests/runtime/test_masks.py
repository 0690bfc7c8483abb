"""Masks on weights: arithmetic, gradient, storage."""

from pathlib import Path

import nncf.torch
import numpy as np
import pytest
import torch
from tiny import tiny_batches, tiny_model

from nncf_transformers.algorithms.masks import (
    Mask,
    add_mask,
    apply_magnitude_binary_mask,
    bake,
    expand,
    masks,
    pool,
    remove_masks,
)
from nncf_transformers.checkpoint import MASKS_MODULE
from nncf_transformers.inputs import model_inputs

LAYER = "bert.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize("shape", [(6, 4), (3, 2), (6, 1), (1, 4), (1, 1)])
def test_a_mask_covers_blocks(shape: tuple[int, int]) -> None:
    weight = torch.randn(6, 4)
    mask = torch.rand(shape) < 0.5
    whole = np.repeat(np.repeat(mask.numpy(), 6 // shape[0], 0), 4 // shape[1], 1)
    assert np.array_equal(expand(mask, weight.shape).numpy(), whole)
    assert np.array_equal(apply_magnitude_binary_mask(weight, mask).numpy(), weight.numpy() * whole)
    sums = np.add.reduceat(
        np.add.reduceat(weight.double().numpy(), range(0, 6, 6 // shape[0]), 0), range(0, 4, 4 // shape[1]), 1
    )
    assert np.allclose(pool(weight.double(), shape).numpy(), sums)


def test_scores_get_the_gradient_of_the_mask() -> None:
    generator = np.random.default_rng(0)
    weight, x, g = generator.normal(size=(6, 4)), generator.normal(size=(5, 4)), generator.normal(size=(5, 6))
    mask = np.array([[1, 0], [0, 1], [1, 1]])
    scores = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    tensor = torch.tensor(weight, requires_grad=True)
    masked = apply_magnitude_binary_mask(tensor, torch.tensor(mask, dtype=torch.bool), scores)
    ((torch.tensor(x) @ masked.T) * torch.tensor(g)).sum().backward()
    of_masked = g.T @ x  # the gradient of the masked weight
    whole = np.repeat(np.repeat(mask, 2, 0), 2, 1)
    assert tensor.grad is not None and np.allclose(tensor.grad.numpy(), of_masked * whole)
    by_block = [[(of_masked * weight)[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum() for j in range(2)] for i in range(3)]
    assert scores.grad is not None and np.allclose(scores.grad.numpy(), by_block)


def test_frozen_masks_take_no_gradient() -> None:
    mask = Mask((2, 2), (4, 4))
    mask.freeze()
    assert mask.importance is not None
    mask(torch.ones(4, 4, requires_grad=True)).sum().backward()
    assert mask.importance.grad is None


def test_a_masked_model_computes_with_masked_weights() -> None:
    model, other = tiny_model(), tiny_model()
    mask = add_mask(model, f"{LAYER}.weight", (8, 4))
    mask.mask = torch.rand(8, 4) < 0.5
    with torch.no_grad():
        other.get_parameter(f"{LAYER}.weight").mul_(expand(mask.mask, (32, 32)))
    inputs = model_inputs(model, tiny_batches(model)[0])
    with torch.no_grad():
        expected = other(**inputs).start_logits
        assert torch.equal(model(**inputs).start_logits, expected)
        assert dict(masks(model)) == {f"{LAYER}.weight": mask}
        bake(model)
        assert not list(masks(model)) and torch.equal(model(**inputs).start_logits, expected)


def test_masks_can_be_taken_away() -> None:
    model = tiny_model()
    before = model.get_parameter(f"{LAYER}.weight").clone()
    add_mask(model, f"{LAYER}.weight", (1, 1)).mask = torch.zeros(1, 1)
    remove_masks(model)
    assert torch.equal(model.get_parameter(f"{LAYER}.weight"), before) and not list(masks(model))


def test_nncf_stores_a_mask(tmp_path: Path) -> None:
    model = tiny_model()
    mask = add_mask(model, f"{LAYER}.weight", (8, 8), scored=True)
    assert mask.importance is not None
    with torch.no_grad():
        mask.importance.normal_()
    mask.mask = torch.rand(4, 1) < 0.5  # other blocks than the scores, as after the warm-up
    mask.freeze()
    again = tiny_model()
    nncf.torch.load_from_config(again, nncf.torch.get_config(model), allowed_modules=(MASKS_MODULE,))
    again.load_state_dict(model.state_dict())
    (name, loaded), *_ = masks(again)
    assert name == f"{LAYER}.weight" and loaded.frozen and loaded.importance is not None
    assert torch.equal(loaded.mask, mask.mask) and torch.equal(loaded.importance, mask.importance)
