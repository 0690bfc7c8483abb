"""What the demo's tests share: tiny data, and the embedded scripts run inside this process."""

import importlib.util
import logging
import sys
from pathlib import Path

import pytest

from demo.data import generate

EMBEDDED = Path(__file__).resolve().parents[2] / "embedded"


@pytest.fixture(scope="session")
def demo_dir(tmp_path_factory):
    """The tiny data and model."""
    folder = tmp_path_factory.mktemp("demo")
    generate(folder, seed=0, size="tiny")
    return folder


@pytest.fixture
def load_script(monkeypatch):
    """A function that imports an embedded script afresh, with a command line; the caller runs main()."""

    def load(name, *arguments):
        spec = importlib.util.spec_from_file_location(f"embedded_{name}", EMBEDDED / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        # Dataclasses and process pools look the module up by its name.
        monkeypatch.setitem(sys.modules, spec.name, module)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        spec.loader.exec_module(module)
        return module

    # The scripts set up the log of their process; ours must not keep their handlers.
    handlers = list(logging.getLogger().handlers)
    yield load
    logging.getLogger().handlers[:] = handlers
