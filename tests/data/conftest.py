"""Small files of our own, and a data cache that lives as long as the test."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from squad_like import Write

from nncf_transformers.data import set_local_data


@pytest.fixture(autouse=True)
def _fresh_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield
    set_local_data(None, need_test=False)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file below the test's folder: text as it is, lists of rows as TSV, everything else as JSON."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list) and content and isinstance(content[0], tuple):
            content = "".join("\t".join(map(str, row)) + "\n" for row in content)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write
