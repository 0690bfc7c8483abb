"""Calls that may need the hub: fast and clear where it cannot be reached."""

import contextlib
import socket
import urllib.request
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TypeVar
from urllib.parse import urlsplit

from huggingface_hub.utils import LocalEntryNotFoundError

from nncf_transformers.errors import UnreachableError

_DEFAULT_PORTS = {"http": 80, "https": 443}

Result = TypeVar("Result")


def is_reachable(endpoint: str, timeout: float = 5.0) -> bool:
    """Whether a server, or the proxy in front of it, takes a TCP connection within ``timeout`` seconds."""
    url = urlsplit(endpoint)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        port = url.port or _DEFAULT_PORTS.get(url.scheme, 443)
        socket.create_connection((url.hostname or "", port), timeout).close()
    except (OSError, ValueError):
        return False
    return True


def from_hub(call: Callable[[], Result], config: ModuleType, offline_flag: str, what: str, remedy: str) -> Result:
    """Run a call that may fetch something from the hub.

    A library that finds no network first tries again and again, with a warning of several lines each time. So
    the hub is looked for beforehand; without it the call runs in the library's own offline mode, which still
    serves what is in its cache.

    Args:
        call: The call.
        config: The library's configuration module, with ``HF_ENDPOINT``.
        offline_flag: Name of the constant in it that turns the offline mode on.
        what: What is fetched, for the error.
        remedy: What to do without a network, for the error.

    Raises:
        UnreachableError: The hub cannot be reached, and the cache does not help.
    """
    offline = bool(getattr(config, offline_flag))
    reachable = not offline and is_reachable(config.HF_ENDPOINT)
    try:
        with contextlib.nullcontext() if reachable else _offline_mode(config, offline_flag):
            return call()
    except Exception as error:
        # Offline, the libraries disguise the fault: "not found", "no such configuration", "cannot find the
        # file".
        if reachable and not isinstance(error, ConnectionError | LocalEntryNotFoundError):
            raise
        where = f"the hub ({config.HF_ENDPOINT})" + (" in offline mode" if offline else "")
        raise UnreachableError(f"cannot reach {where} for {what}: {remedy}") from error


@contextlib.contextmanager
def _offline_mode(config: ModuleType, flag: str) -> Iterator[None]:
    previous = getattr(config, flag)
    setattr(config, flag, True)
    try:
        yield
    finally:
        setattr(config, flag, previous)
