"""What the configuration tests share: tiny models, and one input for them."""

import logging
from collections.abc import Iterator

import pytest
import torch
from config_models import EAGER_ONLY, FAMILIES, MakeModel
from torch import nn


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """A random two-layer model of a family, the same one on every call, so do not change it."""
    made: dict[tuple[str, str], nn.Module] = {}

    def make(family: str = "bert", attention: str = "") -> nn.Module:
        attention = attention or ("eager" if family in EAGER_ONLY else "sdpa")
        if (family, attention) not in made:
            model_class, config_class, sizes = FAMILIES[family]
            torch.manual_seed(0)
            config = config_class(**sizes, attn_implementation=attention)
            made[family, attention] = model_class(config).eval()
        return made[family, attention]

    return make


@pytest.fixture(scope="session")
def example() -> dict[str, torch.Tensor]:
    """One sample of eight tokens."""
    torch.manual_seed(1)
    return {"input_ids": torch.randint(5, 55, (1, 8)), "attention_mask": torch.ones(1, 8, dtype=torch.long)}


@pytest.fixture(autouse=True)
def quiet_nncf() -> Iterator[None]:
    """NNCF logs every ignored node; keep the reports of failed tests readable."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)
