"""How much of a file the machine's memory holds, as Linux tells: `mincore(2)`."""

import ctypes
import os
from pathlib import Path

WINDOW_BYTES = 256 * 1024 * 1024
"""Asked for at a time: an answer has a byte for each page."""
_PROT_NONE, _MAP_SHARED = 0, 1
_FAILED = ctypes.c_void_p(-1).value


def cached_bytes(path: Path) -> int | None:
    """Bytes of its pages that are in memory; None where the system does not say.

    Since version 5.2 Linux tells only who owns the file or may write it, and claims to others that all of it
    is there. So others do not ask.
    """
    try:
        libc = _libc()
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            mine = about.st_uid == os.geteuid()
            if not mine and not os.access(path, os.W_OK, effective_ids=True):
                return None
            starts = range(0, about.st_size, WINDOW_BYTES)
            parts = [
                _cached(libc, file.fileno(), at, min(WINDOW_BYTES, about.st_size - at))
                for at in starts
            ]
    except (OSError, AttributeError, NotImplementedError):
        return None
    return min(sum(parts), about.st_size)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
        ctypes.c_longlong,
    )
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    return libc


def _cached(libc: ctypes.CDLL, descriptor: int, at: int, length: int) -> int:
    """Of `length` bytes from `at` on, a multiple of the page size.

    Raises:
        OSError: The system does not answer.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    answer = (ctypes.c_ubyte * -(-length // page))()
    address = libc.mmap(None, length, _PROT_NONE, _MAP_SHARED, descriptor, at)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        if libc.mincore(address, length, ctypes.byref(answer)) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
    finally:
        libc.munmap(address, length)
    return bytes(answer).count(1) * page
