"""One run at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
        OverlayError: Another run holds the lock; names its process id.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise OverlayError(
                f"another run (process {holder}) works on {what}; wait until it ends, then run this again"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        os.set_inheritable(descriptor, True)
        yield
    finally:
        os.close(descriptor)
