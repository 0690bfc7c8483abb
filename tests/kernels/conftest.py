import pytest

from nncf_transformers.kernels import fallback
from nncf_transformers.kernels.native import NativeKernels


@pytest.fixture(scope="session")
def native(tmp_path_factory):
    return NativeKernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(params=["native", "fallback"])
def kernels(request):
    """Both implementations of the two functions."""
    return request.getfixturevalue("native") if request.param == "native" else fallback
