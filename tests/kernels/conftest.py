import pytest
import torch

from nncf_transformers.kernels import fallback
from nncf_transformers.kernels.native import NativeKernels


@pytest.fixture(autouse=True)
def _two_threads():
    """What the kernels do with large tensors needs more than one thread, whatever the environment says."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def native(tmp_path_factory):
    return NativeKernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(params=["native", "fallback"])
def kernels(request):
    """Both implementations of the two functions."""
    return request.getfixturevalue("native") if request.param == "native" else fallback
