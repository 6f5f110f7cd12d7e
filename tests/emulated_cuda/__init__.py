"""A CUDA device for machines without one: what it refuses and what it waits for, not how fast.

Tensors hold their values on the CPU and say that they are on ``cuda:0``. Operators compute there,
but raise where the real device would: on a mixture of devices, on a generator of the CPU, in NumPy.
Meanwhile everything is counted that costs time on a real one: how often the host waits, what is
copied between the two memories, operators, and the bytes that they read and write.

``counts`` holds what is counted, ``tensors`` the tensors and their operators, ``transfers`` what
moves or makes tensors, ``machine`` what torch and Lightning ask of a machine with such a device.
"""

from emulated_cuda.counts import Counts, counting
from emulated_cuda.machine import emulated_cuda
from emulated_cuda.tensors import DEVICE, CudaTensor, DeviceMismatch

__all__ = ["DEVICE", "Counts", "CudaTensor", "DeviceMismatch", "counting", "emulated_cuda"]
