"""Which errors say that memory ran out."""

import pytest
import torch

from capkit._memory import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["GPU", "CPU", "Python"],
)
def test_memory_that_ran_out_is_recognised(error):
    assert is_out_of_memory(error)


def test_the_allocator_of_the_cpu_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not match"),
        ValueError("DefaultCPUAllocator"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)
