"""What the NVIDIA driver says of this machine, asked through its own library: needs no package and no toolkit.

Everything of CUDA starts here: TensorRT's library, given a machine without a working driver, returns objects that
crash the process on any use.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

from ...errors import BackendError

REMEDY = "install a current NVIDIA driver, or use --backend cpu"

# CUdevice_attribute of cuda.h; such numbers never change.
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
_ERRORS = {
    3: "the NVIDIA driver cannot be initialised (CUDA error 3)",
    34: "only the CUDA stub library is installed, not the driver",
    100: "an NVIDIA driver, but no GPU that it can use",
    803: "the NVIDIA driver and its library are of different versions: restart the machine",
    804: "the NVIDIA driver is too old for its CUDA compatibility library",
    999: "the NVIDIA driver cannot be initialised (CUDA error 999): restart the machine",
}


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA card.

    Attributes
    ----------
    name : str
        As the driver calls it: "NVIDIA GeForce RTX 4070".
    compute_capability : (major, minor)
        Its generation: (8, 9) is Ada.
    multiprocessors : int
        How many streaming multiprocessors it has.
    memory : int
        Bytes of device memory.
    cuda : (major, minor)
        The newest CUDA that its driver runs.
    """

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    memory: int
    cuda: tuple[int, int]

    @property
    def sm(self) -> str:
        """The compute capability as TensorRT writes it: "SM89"."""
        return "SM{}{}".format(*self.compute_capability)


def find_gpu(least_cuda: int = 0) -> Gpu:
    """Initialise CUDA and describe its first GPU.

    Parameters
    ----------
    least_cuda : int
        The major version of CUDA that the caller's libraries were built for; a driver of an older one is refused.

    Raises
    ------
    BackendError
        No driver, one too old, one that does not work, or no such GPU; `cause` is a few words.
    """
    try:
        library = _library()
    except OSError as error:
        raise BackendError("GPU", "no NVIDIA driver", REMEDY) from error
    _ask(library.cuInit, 0)
    number = ctypes.c_int()
    _ask(library.cuDriverGetVersion, ctypes.byref(number))
    cuda = (number.value // 1000, number.value % 1000 // 10)
    if cuda[0] < least_cuda:
        cause = f"the NVIDIA driver is too old: it runs CUDA {cuda[0]}.{cuda[1]}, {least_cuda}.0 is needed"
        raise BackendError("GPU", cause, REMEDY)
    device = ctypes.c_int()
    _ask(library.cuDeviceGet, ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(256)
    _ask(library.cuDeviceGetName, name, 256, device)
    memory = ctypes.c_size_t()
    _ask(library.cuDeviceTotalMem_v2, ctypes.byref(memory), device)
    major, minor, multiprocessors = (_attribute(library, key, device) for key in (_MAJOR, _MINOR, _MULTIPROCESSORS))
    return Gpu(name.value.decode(errors="replace"), (major, minor), multiprocessors, memory.value, cuda)


def why_no_gpu(least_cuda: int = 0) -> str | None:
    """Why no GPU can be used here, in a few words, or None."""
    try:
        find_gpu(least_cuda)
    except BackendError as error:
        return error.cause
    return None


def has_driver() -> bool:
    """Whether the driver's library can be loaded."""
    try:
        _library()
    except OSError:
        return False
    return True


def driver_version() -> str | None:
    """The driver's own version, such as "580.65.06", from its management library; None where that tells none."""
    try:
        library = _management()
        if library.nvmlInit_v2():
            return None
        text = ctypes.create_string_buffer(96)
        failed = library.nvmlSystemGetDriverVersion(text, len(text))
        library.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return None if failed else text.value.decode(errors="replace")


def _management() -> Any:
    return ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")


def _library() -> Any:
    return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")


def _attribute(library: Any, key: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    _ask(library.cuDeviceGetAttribute, ctypes.byref(value), key, device)
    return value.value


def _ask(function: Any, *arguments: Any) -> None:
    code = function(*arguments)
    if code:
        raise BackendError("GPU", _ERRORS.get(code, f"the NVIDIA driver answers CUDA error {code}"), REMEDY)
