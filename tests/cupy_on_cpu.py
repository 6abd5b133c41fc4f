"""The CuPy backend itself on this CPU: a CuPy of NumPy arrays whose kernels run in the shim.

What it cannot show is CuPy; what it shows is that the backend launches the kernels rightly.
"""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import cuda_on_cpu
import numpy as np

from gpu_margin.backend import Backend
from gpu_margin.kernels import launch

DEVICES = 2
# The shim's threads are fibres of one thread.
_ONE_AT_A_TIME = threading.Lock()
_THREAD = threading.local()


class Device:
    """A device, current in a thread while it is entered."""

    def __init__(self, number: int | None = None) -> None:
        self.attributes = {"L2CacheSize": 1 << 17}
        self._number = self.current() if number is None else number

    @staticmethod
    def current() -> int:
        return getattr(_THREAD, "device", 0)

    def __enter__(self) -> None:
        self._before, _THREAD.device = self.current(), self._number

    def __exit__(self, *error: object) -> None:
        _THREAD.device = self._before


class Stream:
    """A stream on which everything is done at once."""

    def __init__(self, non_blocking: bool) -> None:
        assert non_blocking, "a blocking stream waits for the others"

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


class MemoryPool:
    """A pool that keeps nothing."""

    def free_bytes(self) -> int:
        return 0

    def free_all_blocks(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)


class RawModule:
    """Kernels of one source."""

    def __init__(self, code: str, options: tuple[str, ...], backend: str) -> None:
        assert (options, backend) == (launch.OPTIONS, "nvrtc")
        (self._source,) = [name for name in launch.sources() if launch.source(name) == code]

    def get_function(self, entry: str) -> Any:
        assert entry in launch.entries(self._source)

        def kernel(grid: Any, block: Any, arguments: tuple[Any, ...], shared_mem: int) -> None:
            plan = launch.Launch(self._source, entry, block[0], 1, shared_mem)
            plain = [a if isinstance(a, np.ndarray) else int(a) for a in arguments]
            for array in plain:
                assert not isinstance(array, np.ndarray) or array.dtype != np.float16
            with _ONE_AT_A_TIME:
                cuda_on_cpu.run(plan, grid[0], *(_addressed(a) for a in plain))

        return kernel


def _addressed(argument: Any) -> Any:
    """Arrays by address, with whatever strides: as a device pointer says nothing of them."""
    if isinstance(argument, np.ndarray):
        return argument.ctypes.data if argument.size else 0
    return argument


def _module() -> ModuleType:
    """A module `cupy` that has NumPy's functions and the few of CuPy's own."""
    module = ModuleType("cupy")
    module.__dict__.update({name: getattr(np, name) for name in dir(np) if name[0] != "_"})
    runtime = SimpleNamespace(
        getDeviceCount=lambda: DEVICES,
        # So little that the tiled tail must take a few rows at a time.
        memGetInfo=lambda: (512, 1 << 30),
        getDevice=lambda: Device.current(),
        getDeviceProperties=lambda device: {"name": b"shim", "totalGlobalMem": 1 << 30},
    )
    module.__dict__.update(
        asnumpy=np.asarray,
        is_available=lambda: True,
        cuda=SimpleNamespace(runtime=runtime, Device=Device, Stream=Stream),
        get_default_memory_pool=MemoryPool,
        RawModule=RawModule,
        __version__="on the CPU",
    )
    return module


def load() -> Backend:
    """The CuPy backend, imported with the stand-in for CuPy and kept out of sys.modules."""
    name = "gpu_margin.kernels.cupy_backend"
    with mock.patch.dict(sys.modules, {"cupy": _module()}):
        sys.modules.pop(name, None)
        backend: Backend = importlib.import_module(name).BACKEND
        sys.modules.pop(name, None)
    return backend
