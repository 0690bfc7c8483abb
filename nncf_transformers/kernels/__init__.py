"""Fast fake quantization for training on CPU, in the place of NNCF's C++ extension.

NNCF's quantizers call two functions, `Quantize_forward` and `Quantize_backward`, which they look up in a
lazy namespace object. On CPU the first look-up compiles a C++ extension against torch's headers (half a
minute, sometimes past its own time limit), whose code makes some thirty passes over memory per quantizer and
step. :func:`use_fast_kernels` replaces that namespace object by one with our functions. Nothing else of NNCF
changes: modules, state dict, configuration, graph building and export are NNCF's own, and so is everything
on CUDA.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from nncf_transformers.kernels import fallback
from nncf_transformers.kernels.allocator import keep_freed_memory
from nncf_transformers.kernels.compiler import CompilerError
from nncf_transformers.kernels.native import NativeKernels

Kind = Literal["compiled", "torch"]

logger = logging.getLogger(__name__)


class FastKernels:
    """What NNCF's quantizers find in the place of its extension: an object with `get(name)`.

    Attributes:
        kind: "compiled" for the C kernels, "torch" for the code that needs no compiler.
    """

    def __init__(self, cache: Path | None = None) -> None:
        forward: Callable[..., Any]
        backward: Callable[..., Any]
        try:
            native = NativeKernels(cache)
            forward, backward = native.quantize_forward, native.quantize_backward
            self.kind: Kind = "compiled"
        except CompilerError as error:
            logger.warning("quantization runs on torch's own operations: it works, but slower (%s)", error)
            forward, backward = fallback.quantize_forward, fallback.quantize_backward
            self.kind = "torch"
        self._functions: dict[str, Callable[..., Any]] = {
            "Quantize_forward": forward,
            "Quantize_backward": backward,
        }

    def get(self, fn_name: str) -> Callable[..., Any]:
        """Return a function by the name it has in NNCF's extension.

        Raises:
            KeyError: If NNCF asks for a function that its version 3.4 does not have.
        """
        return self._functions[fn_name]


def use_fast_kernels(cache: Path | None = None) -> Kind:
    """Let NNCF's quantizers use the fast kernels on CPU, in this process, from now on.

    The first call compiles the kernels if the cache does not have them (about a second) and warns in one
    line if that is impossible; it also calls :func:`keep_freed_memory`, which concerns the whole process.
    Further calls do nothing.

    Args:
        cache: Folder for the compiled library; by default one in the user's cache folder.

    Returns:
        "compiled", or "torch" if there is no working C compiler.

    Raises:
        RuntimeError: If this version of NNCF does not look its functions up where NNCF 3.4 does.
    """
    # NNCF takes seconds to import, and a caller may want this module's other names only.
    from nncf.torch.quantization import quantize_functions

    current = getattr(quantize_functions, "QuantizedFunctionsCPU", None)
    if isinstance(current, FastKernels):
        return current.kind
    if not callable(getattr(current, "get", None)):
        raise RuntimeError("this version of NNCF has no QuantizedFunctionsCPU.get: use nncf 3.4")
    kernels = FastKernels(cache)
    quantize_functions.QuantizedFunctionsCPU = kernels
    keep_freed_memory()
    return kernels.kind
