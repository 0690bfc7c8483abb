"""Shared fixtures: a tiny configuration, and a quiet NNCF."""

import fcntl
import functools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="session")
def apply_pin(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Apply a pin in this checkout and give its work tree.

    Once in a run of the tests, whatever the number of its processes: the tool refuses a second run at the same time.
    """
    folder = tmp_path_factory.getbasetemp()
    # Each worker of pytest-xdist has its own folder in that of the run.
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    @functools.cache
    def apply_pin(pin: str) -> Path:
        with open(shared / f"{pin}.applied", "a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            if not file.read():
                subprocess.run([sys.executable, "apply_patch.py", "apply", "--pin", pin], cwd=ROOT, check=True)
                file.write("applied")
        return ROOT / "build" / pin

    return apply_pin


@pytest.fixture
def int8_config(tmp_path: Path) -> Path:
    """A configuration that calibrates on a handful of samples."""
    path = tmp_path / "int8.json"
    path.write_text(json.dumps({"algorithms": [{"algorithm": "quantization", "calibration_samples": 8}]}))
    return path
