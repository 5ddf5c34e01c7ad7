"""Memory in large pages, for networks that run on CPUs.

A step's temporaries are hundreds of megabytes, which glibc's allocator maps anew at each call and gives back behind it:
the kernel then fills 100,000 to 200,000 pages of 4 KiB with zeros per step. `use_large_pages` lets the allocator keep
what it has, in one heap whose pages are of 2 MiB. It works from inside a process, at any time, and changes no result.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

# Of glibc's malloc.h, and of Linux' madvise.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MADV_HUGEPAGE = 14
_LARGE_PAGE = 1 << 21
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@functools.cache
def use_large_pages() -> str | None:
    """Let this process keep the memory that it frees, and have it in large pages.

    All threads share one heap from then on, of which nothing is given back before the process ends: it takes what it
    took at its peak. The first half of the machine's memory is advised to be large; no memory is taken by that.

    Once per process; a second call returns what the first did.

    Returns:
      None if it is so now, or why it cannot be, for a message: another system or C library, a kernel without large
      pages, or a limit on this process.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.gnu_get_libc_version  # noqa: B018  (raises where the C library is another one)
        chosen = _KERNEL.read_text()
    except (AttributeError, OSError, TypeError):
        return "large pages need Linux with glibc and transparent large pages"
    if "[never]" in chosen:
        return f"the kernel's large pages are off, see {_KERNEL}"
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // _LARGE_PAGE * _LARGE_PAGE
    # The last is an unsigned number there: never. What is freed at the top of the heap would be given back otherwise.
    for name, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):
        if not libc.mallopt(name, value):
            return "the allocator takes no settings"
    # Addresses that nothing has touched: the heap grows to hold them, and is advised before it is used.
    start = libc.malloc(size)
    if not start:
        return f"a limit on this process, or on the machine, forbids a heap of {size >> 30} GiB"
    first = -(-start // _LARGE_PAGE) * _LARGE_PAGE
    refused = libc.madvise(first, start + size - first, _MADV_HUGEPAGE)
    in_heap = start + size <= libc.sbrk(0)
    libc.free(start)
    if refused:
        return f"the kernel refuses large pages: {os.strerror(ctypes.get_errno())}"
    return None if in_heap else "the heap cannot grow that far"
