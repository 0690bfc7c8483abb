"""Compile one C file at first use, and keep the result in the user's cache folder.

The cached library is named after everything that decides its content: the source, the compiler, the flags
and the instruction set of the machine (a home folder may be shared by different machines). It carries a
checksum of itself at its end, because loading a truncated library does not raise an error but kills the
process.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import platformdirs

COMPILERS = ("cc", "gcc", "clang")

FLAGS = (
    "-std=gnu11",
    "-O3",
    "-march=native",
    "-fPIC",
    "-shared",
    "-fopenmp-simd",
    # Results equal to NNCF's to the last bit: multiplication and addition each round on their own.
    "-ffp-contract=off",
    # Without these, rintf and the comparisons are not vectorised; neither changes a result.
    "-fno-math-errno",
    "-fno-trapping-math",
)

COMPILE_TIMEOUT_S = 60
_DIGEST_BYTES = hashlib.sha256().digest_size


class CompilerError(Exception):
    """There is no C compiler, or it cannot build a library that loads; the message says why."""


def load_library(source: Path, cache: Path | None = None) -> ctypes.CDLL:
    """Load the library of a C file, compiling it if the cache has none that is intact.

    Any number of processes may do this at once: each writes under a name of its own and renames.

    Args:
        source: The C file.
        cache: Folder for the library; by default one in the user's cache folder.

    Returns:
        The loaded library. Its functions release Python's global lock while they run.

    Raises:
        CompilerError: If the library can be neither found nor built.
    """
    compiler = find_compiler()
    code = source.read_bytes()
    cache = cache or platformdirs.user_cache_path("nncf-transformers") / "kernels"
    library = cache / f"{source.stem}-{_key(code, compiler)}.so"
    try:
        if not _is_intact(library):
            _compile(compiler, source, library)
        return ctypes.CDLL(str(library))
    except OSError:
        # A cache on a full or read-only disk, or on one from which nothing may be executed.
        return _load_uncached(compiler, source)


def find_compiler() -> str:
    """Return the path of the system's C compiler.

    Raises:
        CompilerError: If there is none on the PATH.
    """
    for name in COMPILERS:
        path = shutil.which(name)
        if path:
            return path
    raise CompilerError(f"no C compiler on the PATH (looked for {', '.join(COMPILERS)})")


def _key(code: bytes, compiler: str) -> str:
    parts = [
        code,
        _run([compiler, "--version"]).encode(),
        " ".join(FLAGS).encode(),
        _instruction_set().encode(),
    ]
    # Each part is hashed on its own first, so that no two lists of parts run together to the same text.
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:20]


def _instruction_set() -> str:
    """What `-march=native` depends on."""
    text = " ".join([platform.system(), platform.machine(), platform.processor()])
    with contextlib.suppress(OSError):  # Linux only
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")):
                text += "\n" + line
            elif not line:  # the end of the first processor's paragraph
                break
    return text


def _is_intact(library: Path) -> bool:
    try:
        content = library.read_bytes()
    except FileNotFoundError:
        return False
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return bool(body) and hashlib.sha256(body).digest() == digest


def _compile(compiler: str, source: Path, library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{library.stem}.", suffix=".tmp", dir=library.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        _run([compiler, *FLAGS, "-o", str(temporary), str(source), "-lm"])
        body = temporary.read_bytes()
        # Loaders map what an ELF file's headers describe and ignore what follows.
        temporary.write_bytes(body + hashlib.sha256(body).digest())
        temporary.replace(library)
    finally:
        temporary.unlink(missing_ok=True)


def _load_uncached(compiler: str, source: Path) -> ctypes.CDLL:
    """For a cache folder that is of no use: build for this process alone."""
    try:
        with tempfile.TemporaryDirectory(prefix="nncf-transformers-") as folder:
            library = Path(folder) / f"{source.stem}.so"
            _compile(compiler, source, library)
            return ctypes.CDLL(str(library))  # stays mapped after the file is gone
    except OSError as error:
        raise CompilerError(str(error)) from error


def _run(command: list[str]) -> str:
    """Run the compiler and return what it prints, in English: its version goes into the cache's key."""
    try:
        return subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"},
        ).stdout
    except subprocess.CalledProcessError as error:
        complaints = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        raise CompilerError(f"{command[0]}: {complaints[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise CompilerError(f"{command[0]} took more than {COMPILE_TIMEOUT_S} seconds") from error
    except OSError as error:
        raise CompilerError(f"{command[0]}: {error}") from error
