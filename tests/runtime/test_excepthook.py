"""How a script ends that is one of several processes."""

import subprocess
import sys

import pytest

SCRIPT = """
import atexit
import torch.distributed as distributed
from nncf_transformers import excepthook

# What is registered first is called last.
atexit.register(lambda: print("joined" if distributed.is_initialized() else "left"))
excepthook.install()
distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
"""


@pytest.mark.parametrize(
    ("end", "code", "printed"), [("", 0, "left"), ("raise SystemExit(3)", 3, "left"), ("1 / 0", 1, "joined")]
)
def test_processes_are_left_in_order(end: str, code: int, printed: str) -> None:
    """But not after an error, when others may be waited for in vain."""
    done = subprocess.run([sys.executable, "-c", SCRIPT + end], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (code, f"{printed}\n"), done.stderr
