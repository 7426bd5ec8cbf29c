"""Memory that is full of garbage when torch's CPU allocator, which takes it from malloc, hands it out: a kernel that
reads what nobody wrote computes with 3e38. (torch's own fill_uninitialized_memory does not reach the ops' allocator.)
"""

import contextlib
import ctypes

# f32 of such bytes is 3.4e38, f64 1.4e306.
BYTE = 0x7F
M_PERTURB = -6  # of glibc's malloc.h
# Only glibc has it.
MALLOPT = getattr(ctypes.CDLL(None), "mallopt", None)


@contextlib.contextmanager
def in_memory():
    """While this lasts; where malloc is not glibc's, nothing."""
    if MALLOPT:
        MALLOPT(M_PERTURB, BYTE ^ 0xFF)  # malloc fills with the complement, free with the byte itself
    try:
        yield
    finally:
        if MALLOPT:
            MALLOPT(M_PERTURB, 0)
