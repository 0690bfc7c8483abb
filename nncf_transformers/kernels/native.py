"""The compiled kernels as two Python functions with the signatures of NNCF's C++ extension."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from nncf_transformers.kernels import fallback
from nncf_transformers.kernels.compiler import CompilerError, load_library
from nncf_transformers.kernels.layout import Layout, is_flat, layout_of, same_order

SOURCE = Path(__file__).with_name("fake_quantize.c")

# Below this many elements, waking the other threads takes longer than the work.
MIN_PARALLEL_ELEMENTS = 1 << 15


class NativeKernels:
    """Fused fake quantization of float32 tensors on CPU; every other tensor goes to the torch code.

    Args:
        cache: Folder for the compiled library; by default one in the user's cache folder.

    Raises:
        CompilerError: If the library cannot be built, or computes something else than the torch code.
    """

    def __init__(self, cache: Path | None = None) -> None:
        library = load_library(SOURCE, cache)
        pointer, integer, number, count = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_uint
        try:
            self._forward, self._backward = library.fq_forward, library.fq_backward
        except AttributeError as error:
            raise CompilerError(f"{library._name}: {error}") from error
        self._forward.argtypes = [*[pointer] * 4, *[integer] * 3, number, pointer, count]
        self._forward.restype = None
        self._backward.argtypes = [*[pointer] * 7, *[integer] * 3, number, number, pointer, count]
        self._backward.restype = ctypes.c_int
        self._parallel = _torch_parallel_entry()
        self._check()

    def quantize_forward(self, input_: Tensor, input_low: Tensor, input_range: Tensor, levels: int) -> Tensor:
        """Quantize and dequantize; see :func:`fallback.quantize_forward`."""
        layout = _supported_layout(input_, input_low, input_range)
        if layout is None:
            return fallback.quantize_forward(input_, input_low, input_range, levels)
        input_low, input_range = input_low.contiguous(), input_range.contiguous()
        output = torch.empty_like(input_)
        if not is_flat(layout, input_, output):
            input_ = input_.contiguous()
            output = torch.empty_like(input_)
        self._forward(
            input_.data_ptr(),
            input_low.data_ptr(),
            input_range.data_ptr(),
            output.data_ptr(),
            *layout,
            levels,
            self._parallel,
            _threads(input_),
        )
        return output

    def quantize_backward(
        self,
        grad_output: Tensor,
        input_: Tensor,
        input_low: Tensor,
        input_range: Tensor,
        levels: int,
        level_low: int,
        level_high: int,
        is_asymmetric: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Straight-through gradients; see :func:`fallback.quantize_backward`.

        Raises:
            MemoryError: If there is no memory for the partial sums.
        """
        layout = _supported_layout(input_, input_low, input_range)
        if layout is None or grad_output.dtype != torch.float32 or grad_output.shape != input_.shape:
            return fallback.quantize_backward(
                grad_output, input_, input_low, input_range, levels, level_low, level_high, is_asymmetric
            )
        input_low, input_range = input_low.contiguous(), input_range.contiguous()
        grad_input = torch.empty_like(input_)
        if not is_flat(layout, input_, grad_input):
            input_ = input_.contiguous()
            grad_input = torch.empty_like(input_)
        if not same_order(grad_output, input_):
            # The kernel may read and write the same memory, so the copy serves as the result, too.
            grad_output = grad_input.copy_(grad_output)
        grad_low, grad_range = torch.empty_like(input_low), torch.empty_like(input_range)
        status = self._backward(
            grad_output.data_ptr(),
            input_.data_ptr(),
            input_low.data_ptr(),
            input_range.data_ptr(),
            grad_input.data_ptr(),
            grad_low.data_ptr() if is_asymmetric else None,
            grad_range.data_ptr(),
            *layout,
            levels,
            level_low / level_high,
            self._parallel,
            _threads(input_),
        )
        if status != 0:
            raise MemoryError("no memory for the partial sums of a quantizer's gradient")
        return grad_input, grad_low, grad_range

    def _check(self) -> None:
        """Compare with the torch code once: a miscompiled library must not spoil a training."""
        input_ = torch.linspace(-3.0, 3.0, 2 * MIN_PARALLEL_ELEMENTS).reshape(4, -1)
        low, width = torch.tensor([[-1.0], [-2.0], [0.0], [-0.3]]), torch.tensor([[2.0], [5.0], [1.0], [0.9]])
        gradient = torch.cos(input_)
        if not torch.equal(
            self.quantize_forward(input_, low, width, 256), fallback.quantize_forward(input_, low, width, 256)
        ):
            raise CompilerError("the compiled quantization differs from torch's")
        arguments = (gradient, input_, low, width, 256, -128, 127, True)
        for ours, theirs in zip(
            self.quantize_backward(*arguments), fallback.quantize_backward(*arguments), strict=True
        ):
            if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-2):
                raise CompilerError("the compiled gradient differs from torch's")


def _supported_layout(input_: Tensor, input_low: Tensor, input_range: Tensor) -> Layout | None:
    """Return the layout if the kernel can take these tensors, else None."""
    for tensor in (input_, input_low, input_range):
        # A subclass (a fake tensor of a tracer, say) may have no memory behind it.
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            return None
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or tensor.layout != torch.strided:
            return None
    if input_low.shape != input_range.shape:
        return None
    return layout_of(input_.shape, input_range.shape)


def _threads(tensor: Tensor) -> int:
    return torch.get_num_threads() if tensor.numel() >= MIN_PARALLEL_ELEMENTS else 1


def _torch_parallel_entry() -> int | None:
    """Return the address of GOMP_parallel in torch's OpenMP runtime, or None if it has none.

    Looking a symbol up in a library searches the libraries it depends on, so this finds torch's own runtime
    under whatever name torch ships it. Without one the kernel runs on one thread.
    """
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        library = Path(torch.__file__).parent / "lib" / name
        try:
            return ctypes.cast(ctypes.CDLL(str(library)).GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None
