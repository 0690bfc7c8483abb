"""One run at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from overlay.errors import OverlayError


@contextmanager
def run_lock(path: Path, what: str) -> Iterator[None]:
    """Holds an exclusive lock, or says who holds it.

    The lock belongs to the open file, not to the file's existence: the kernel frees it when its holder
    ends, however that happens. Child processes inherit it, so a git process that outlives its killed
    parent still keeps other runs out.

    Args:
        path: Lock file; made if it is missing and never deleted, which would let two runs lock two files.
        what: What is being worked on, for the message.

    Raises:
        OverlayError: Another run, or what one has left behind, holds the lock; names its process id.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            others = [str(process) for process in _openers(path)]
            if others and holder not in others:
                raise OverlayError(
                    f"another run (process {holder}) has ended, but what it has left behind works on {what}: process "
                    f"{', '.join(others)}; wait until it ends, or end it, then run this again"
                ) from None
            raise OverlayError(
                f"another run (process {holder}) works on {what}; wait until it ends, then run this again"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        os.set_inheritable(descriptor, True)
        yield
    finally:
        os.close(descriptor)


def _openers(path: Path) -> list[int]:
    """The other processes that have the file open, as far as this one may see."""
    target, found = str(path.resolve()), set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        # Processes end while one looks, and those of others are closed to us.
        with suppress(OSError):
            if os.readlink(link) == target:
                found.add(int(link.parts[2]))
    return sorted(found - {os.getpid()})
