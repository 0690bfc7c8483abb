"""Both implementations against NNCF's arithmetic: equal bits forward, equal masks and close sums backward."""

import importlib

import kernel_oracle as oracle
import pytest
import torch

INF, NAN = float("inf"), float("nan")

# shape of the tensor, shape of the parameters
SHAPES = [
    ((7,), (1,)),
    ((4, 33, 64), (1,)),
    ((3, 50000), (1,)),  # several blocks of either implementation
    ((9, 17), (9, 1)),
    ((300, 64), (300, 1)),
    ((3, 20000), (3, 1)),  # rows longer than a block
    ((5, 12), (12,)),
    ((5, 12), (1, 12)),
    ((4, 6, 5, 5), (1, 6, 1, 1)),
    ((8, 3, 5, 5), (8, 1, 1, 1)),
    ((2, 3, 4), (1, 1, 1)),
    ((6, 4, 8), (6, 4, 1)),  # parameters along two dimensions
    ((0, 5), (1,)),
    ((3, 0), (3, 1)),
]


def sample(shape, scale_shape, symmetric, dtype=torch.float32):
    generator = torch.Generator().manual_seed(len(shape) * 100 + sum(shape))
    input_ = torch.randn(shape, generator=generator).to(dtype)
    grad = torch.randn(shape, generator=generator).to(dtype)
    width = (torch.rand(scale_shape, generator=generator) * 3 + 0.5).to(dtype)
    low = -width * (128 / 255 if symmetric else torch.rand(scale_shape, generator=generator).to(dtype))
    return input_, grad, low, width


def same(actual, expected):
    """Equal bit for bit, any NaN counting as any other."""
    return torch.equal(actual.isnan(), expected.isnan()) and torch.equal(
        actual.nan_to_num(nan=0.0), expected.nan_to_num(nan=0.0)
    )


def check(kernels, input_, grad, low, width, levels=256, level_low=-128, level_high=127, tolerance=1e-5):
    output = kernels.quantize_forward(input_, low, width, levels)
    assert output.shape == input_.shape and output.dtype == input_.dtype
    assert same(output, oracle.quantize_forward(input_, low, width, levels))
    for is_asymmetric in (True, False):
        actual = kernels.quantize_backward(grad, input_, low, width, levels, level_low, level_high, is_asymmetric)
        expected = oracle.quantize_backward(grad, input_, low, width, levels, level_low, level_high)
        assert same(actual[0], expected[0])
        scale = max(1.0, grad.float().nan_to_num(0, 0, 0).abs().sum().item() ** 0.5)
        for ours, theirs in zip(actual[1:], expected[1:], strict=True):
            assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
            if is_asymmetric or ours is actual[2]:
                torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shape, scale_shape", SHAPES)
def test_shapes(kernels, shape, scale_shape, symmetric):
    check(kernels, *sample(shape, scale_shape, symmetric))


@pytest.mark.parametrize(
    "levels, level_low, level_high", [(255, -127, 127), (256, 0, 255), (16, -8, 7), (128, -64, 63)]
)
def test_levels(kernels, levels, level_low, level_high):
    check(kernels, *sample((40, 70), (40, 1), True), levels, level_low, level_high)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 2e-2), (torch.float16, 2e-3), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape, scale_shape", [((16, 40), (1,)), ((16, 40), (16, 1))])
def test_other_types(kernels, dtype, tolerance, shape, scale_shape):
    check(kernels, *sample(shape, scale_shape, True, dtype), tolerance=tolerance)


def test_values_on_the_boundaries_and_between_two_levels(kernels):
    low, width = torch.tensor([-1.0]), torch.tensor([2.0])
    step = width.item() / 255
    high = (low + width).item()
    input_ = torch.tensor([-1.0, high, 0.0, -0.0, step / 2, 1.5 * step, -step / 2, -1.0000001, 1.0000001, 5.0, -5.0])
    check(kernels, input_, torch.linspace(0.5, 1.5, len(input_)), low, width)


@pytest.mark.parametrize("scale_shape", [(1,), (2, 1)])
def test_values_that_are_not_finite(kernels, scale_shape):
    input_ = torch.tensor([[NAN, INF, -INF, 0.3, 9.0], [0.1, 0.2, NAN, -9.0, 0.0]])
    low, width = torch.full(scale_shape, -1.0), torch.full(scale_shape, 2.0)
    check(kernels, input_, torch.ones_like(input_), low, width)
    grad = torch.tensor([[1.0, INF, NAN, INF, 2.0], [NAN, -INF, 1.0, INF, 1.0]])
    check(kernels, input_.nan_to_num(0.5), grad, low, width)


@pytest.mark.parametrize(
    "low, width", [(0.0, 0.0), (-1.0, 0.0), (-1.0, -2.0), (0.0, INF), (NAN, 1.0), (-1.0, NAN), (0.0, 1e-16)]
)
def test_degenerate_ranges(kernels, low, width):
    input_, grad, *_ = sample((3, 11), (1,), True)
    check(kernels, input_, grad, torch.tensor([low]), torch.tensor([width]))
    check(kernels, input_, grad, torch.full((3, 1), low), torch.full((3, 1), width))


def memory_layouts():
    """Tensors whose elements do not lie in the plain order, as attention and convolutions produce them."""
    x = torch.randn(4, 6, 8, 10, generator=torch.Generator().manual_seed(1))
    return {
        "heads": x.transpose(1, 2),
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "every other": x[:, ::2],
        "expanded": x[:1].expand(4, 6, 8, 10),
        "offset": x[1:],
    }


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("name", memory_layouts())
def test_memory_layouts(kernels, name, per_channel):
    input_ = memory_layouts()[name]
    scale_shape = (1, input_.shape[1], 1, 1) if per_channel else (1,)
    _, grad, low, width = sample(tuple(input_.shape), scale_shape, False)
    check(kernels, input_, grad, low, width)
    check(kernels, input_, grad.flip(0), low, width)
    check(kernels, input_.contiguous(), torch.ones(()).expand(input_.shape), low, width)  # the gradient of a sum
    check(kernels, input_.contiguous(), grad.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0), low, width)


def test_inputs_are_left_alone(kernels):
    tensors = sample((30, 40), (30, 1), False)
    copies = [tensor.clone() for tensor in tensors]
    input_, grad, low, width = tensors
    kernels.quantize_forward(input_, low, width, 256)
    kernels.quantize_backward(grad.t().contiguous().t(), input_, low, width, 256, -128, 127, True)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=True))


def test_gradients_do_not_depend_on_the_run_or_on_the_threads(native):
    input_, grad, low, width = sample((64, 5000), (1,), False)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2, 3, threads):
            torch.set_num_threads(count)
            results.append(native.quantize_backward(grad, input_, low, width, 256, -128, 127, True))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


def test_long_sums_keep_their_precision(kernels):
    """A million small terms: a plain float32 sum would be wrong in the third digit."""
    input_, grad = torch.full((1 << 20,), 5.0), torch.full((1 << 20,), 0.1)
    low, width = torch.tensor([-1.0]), torch.tensor([2.0])
    _, grad_low, grad_width = kernels.quantize_backward(grad, input_, low, width, 256, -128, 127, True)
    exact = grad.double().sum().float()
    torch.testing.assert_close(grad_low, exact.reshape(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(grad_width, exact.reshape(1), rtol=1e-6, atol=0)


def test_kernel_uses_the_threads_of_torch(native):
    if not torch.backends.openmp.is_available():
        pytest.skip("this torch has no OpenMP")
    assert native._parallel is not None


@pytest.mark.parametrize("shape, scale_shape", [((64, 96), (1,)), ((64, 96), (64, 1))])
def test_agrees_with_the_reference_of_nncf(kernels, shape, scale_shape):
    """NNCF's Python reference divides by a reciprocal, so a value may fall to the next level."""
    reference = importlib.import_module("nncf.torch.quantization.reference").torch_executor
    input_, grad, low, width = sample(shape, scale_shape, True)
    ours, theirs = (k(input_, low, width, 256) for k in (kernels.quantize_forward, reference.forward))
    difference = (ours - theirs).abs()
    assert (difference <= width / 255 * 1.001).all()
    assert (difference > 1e-5).float().mean() < 1e-3
    arguments = (grad, input_, low, width, 256, -128, 127)
    ours, theirs = kernels.quantize_backward(*arguments, True), reference.backward(*arguments)
    assert torch.equal(ours[0], theirs[0])
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(a, b.sum_to_size(a.shape), rtol=1e-4, atol=2e-2)


@pytest.mark.slow
def test_agrees_with_the_extension_of_nncf(kernels):
    """The C++ code itself; compiling it takes up to a minute."""
    extensions = importlib.import_module("nncf.torch.quantization.extensions")
    extension = extensions.QuantizedFunctionsCPULoader.load()
    if extension is extensions.ReferenceQuantizedFunctions:
        pytest.skip("no C++ compiler")
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 3e-2)):
        for shape, scale_shape in [((64, 96), (1,)), ((64, 96), (64, 1)), ((4, 6, 5, 5), (1, 6, 1, 1))]:
            input_, grad, low, width = sample(shape, scale_shape, True, dtype)
            assert torch.equal(
                kernels.quantize_forward(input_, low, width, 256),
                extension.Quantize_forward(input_, low, width, 256),
            )
            arguments = (grad, input_, low, width, 256, -128, 127, True)
            ours, theirs = kernels.quantize_backward(*arguments), extension.Quantize_backward(*arguments)
            assert torch.equal(ours[0], theirs[0])
            for a, b in zip(ours[1:], theirs[1:], strict=True):
                b = b.float().sum_to_size(a.shape)
                torch.testing.assert_close(a.float(), b, rtol=tolerance, atol=tolerance * grad.numel() ** 0.5)
