"""The page cache, made warm or cold on purpose, and looked at afterwards. Asking for it is not having it:
POSIX_FADV_DONTNEED leaves dirty pages and pages in use where they are, and a cache under pressure forgets.

cachestat(2), Linux 6.5, counts without touching anything; before that mincore(2), for which the file is mapped and not
read. Neither sees what lies below: a hypervisor or a disk may hold the same blocks in a memory of its own.
"""

import ctypes
import mmap
import os

PAGE = mmap.PAGESIZE
SYS_CACHESTAT = 451  # the same number on every architecture

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


class _Range(ctypes.Structure):
    _fields_ = [("offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]


class _Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64)
                for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")]


def warm(paths):
    """Reads the files from beginning to end."""
    buffer = bytearray(1 << 20)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def evict(paths):
    """Drops what is clean, so write the files back before (os.sync)."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def resident(paths):
    """Pages of these files in the cache, and pages that they have."""
    cached = pages = 0
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            pages += -(-size // PAGE)
            cached += _resident_by_cachestat(fd) if _has_cachestat() else resident_by_mincore(fd, size)
        finally:
            os.close(fd)
    return cached, pages


def _cachestat(fd):
    counts = _Counts()
    status = _libc.syscall(SYS_CACHESTAT, fd, ctypes.byref(_Range(0, 0)), ctypes.byref(counts), 0)
    return status, counts


def _resident_by_cachestat(fd):
    status, counts = _cachestat(fd)
    if status != 0:
        raise OSError(ctypes.get_errno(), "cachestat(2): " + os.strerror(ctypes.get_errno()))
    return counts.cached


_cachestat_works = None


def _has_cachestat():
    global _cachestat_works
    if _cachestat_works is None:
        with open(__file__, "rb") as file:
            _cachestat_works = _cachestat(file.fileno())[0] == 0
    return _cachestat_works


def resident_by_mincore(fd, size):
    """mincore(2) tells the truth about files that we own or may write."""
    if size == 0:
        return 0
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapping:
        here = ctypes.c_char.from_buffer(mapping)
        states = ctypes.create_string_buffer(-(-size // PAGE))
        status = _libc.mincore(ctypes.addressof(here), size, states)
        error = ctypes.get_errno()
        del here  # or the mapping could not be closed
    if status != 0:
        raise OSError(error, "mincore(2): " + os.strerror(error))
    return sum(state & 1 for state in states.raw)
