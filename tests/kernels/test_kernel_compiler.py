"""Finding, building and caching the library, and what happens when that goes wrong."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nncf_transformers.kernels import FastKernels, compiler, fallback
from nncf_transformers.kernels.native import SOURCE, NativeKernels

ROOT = Path(__file__).resolve().parents[2]


def works(kernels):
    input_, low, width = torch.randn(50, 60), torch.tensor([-1.0]), torch.tensor([2.0])
    forward = kernels.quantize_forward if isinstance(kernels, NativeKernels) else kernels.get("Quantize_forward")
    return torch.equal(forward(input_, low, width, 256), fallback.quantize_forward(input_, low, width, 256))


def build(cache):
    """Fill a cache and return the library's path; nothing of it is loaded into this process."""
    path = compiler.find_compiler()
    library = cache / f"{SOURCE.stem}-{compiler._key(SOURCE.read_bytes(), path)}.so"
    compiler._compile(path, SOURCE, library)
    return library


def test_second_load_compiles_nothing(tmp_path, monkeypatch):
    build(tmp_path)
    monkeypatch.setattr(compiler, "_compile", lambda *_: pytest.fail("compiled again"))
    assert works(NativeKernels(tmp_path))


@pytest.mark.parametrize("damage", ["empty", "truncated", "foreign", "flipped"])
def test_damaged_library_is_built_anew(tmp_path, damage):
    library = build(tmp_path)
    content = library.read_bytes()
    middle = len(content) // 2
    library.write_bytes(
        {
            "empty": b"",
            "truncated": content[:middle],
            "foreign": b"#!/bin/sh\necho hello\n" * 50,
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        }[damage]
    )
    assert works(NativeKernels(tmp_path))
    assert compiler._is_intact(library)
    assert [path.name for path in tmp_path.iterdir()] == [library.name]


def test_name_depends_on_source_compiler_flags_and_machine(tmp_path, monkeypatch):
    path = compiler.find_compiler()
    keys = {compiler._key(b"a", path), compiler._key(b"b", path)}
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-g"))
    keys.add(compiler._key(b"a", path))
    monkeypatch.setattr(compiler, "_instruction_set", lambda: "another machine")
    keys.add(compiler._key(b"a", path))
    monkeypatch.setattr(compiler, "_run", lambda _: "another compiler 1.0")
    keys.add(compiler._key(b"a", path))
    assert len(keys) == 5


def one_warning(caplog):
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(records) == 1
    message = records[0].getMessage()
    assert "\n" not in message and "it works, but slower" in message
    return message


def test_without_a_compiler(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    kernels = FastKernels(tmp_path / "cache")
    assert kernels.kind == "torch" and works(kernels)
    assert "no C compiler on the PATH (looked for cc, gcc, clang)" in one_warning(caplog)


def test_compiler_that_fails(tmp_path, monkeypatch, caplog):
    fake = tmp_path / "cc"
    fake.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'fatal: out of disk' >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    kernels = FastKernels(tmp_path / "cache")
    assert kernels.kind == "torch" and works(kernels)
    assert "fatal: out of disk" in one_warning(caplog)
    assert list((tmp_path / "cache").iterdir()) == []


def test_miscompiled_library_is_refused(tmp_path, monkeypatch, caplog):
    wrong = tmp_path / "fake_quantize.c"
    wrong.write_text(SOURCE.read_text().replace("rintf((clipped", "floorf((clipped"))
    monkeypatch.setattr("nncf_transformers.kernels.native.SOURCE", wrong)
    kernels = FastKernels(tmp_path / "cache")
    assert kernels.kind == "torch"
    assert "differs from torch's" in one_warning(caplog)


def test_cache_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert works(NativeKernels(tmp_path / "file" / "cache"))


def test_two_processes_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from nncf_transformers.kernels.native import NativeKernels; "
        "NativeKernels(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    (library,) = (tmp_path / "cache").iterdir()
    assert compiler._is_intact(library)


def test_nothing_is_compiled_on_import(tmp_path, monkeypatch):
    code = "import subprocess; subprocess.run = None; subprocess.Popen = None; import nncf_transformers.kernels"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env={"HOME": str(tmp_path)})
    assert list(tmp_path.rglob("*.so")) == []
