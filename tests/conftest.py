"""Shared fixtures: a tiny configuration, and a quiet NNCF."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

# No test may reach beyond this machine; the libraries then fail at once instead of trying.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What a user has exported for the real upstream must not become the source of the fake ones.
os.environ.pop("UPSTREAM_URL", None)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def _quiet_nncf() -> None:
    logging.getLogger("nncf").setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Undo what a test leaves in the environment: TrainingArguments writes its precision and compiler there."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def int8_config(tmp_path: Path) -> Path:
    """A configuration that calibrates on a handful of samples."""
    path = tmp_path / "int8.json"
    path.write_text(json.dumps({"algorithms": [{"algorithm": "quantization", "calibration_samples": 8}]}))
    return path
