"""How the C library hands out memory."""

import ctypes
from contextlib import suppress

_SETTINGS = {-3: 1 << 30, -1: 2**31 - 1, -2: 64 << 20}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD


def keep_freed_memory() -> None:
    """Keep freed memory in the process: given back, it would be faulted in again at every step. Of glibc only."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        for name, value in _SETTINGS.items():
            library.mallopt(name, value)
