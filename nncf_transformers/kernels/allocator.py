"""Keep memory between training steps instead of giving it back to the system and asking for it again."""

import ctypes

# From malloc.h of the GNU C library.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4

_MAX_TRIM_THRESHOLD = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Let the C library reuse big blocks that were freed.

    By default it gets every block of more than 32 MB as a fresh mapping, and returns the free end of the
    heap to the system. A quantized model allocates a copy of every weight and activation in each step (the
    biggest is the table of word embeddings, 47 or 94 MB), so both happen all the time, and the system has
    to clear page after page: some 300 MB in a step, a twentieth of the step's time. Here big blocks come
    from the heap, too, and the heap stays.

    The price is that the process holds the memory of its peak until it ends, as a training does in any
    case. A caller who needs the memory back after training should not call this.

    Returns:
        Whether the C library took the settings; False for one that is not GNU's.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # Never one alone: touching any of these ends the library's automatic adjustment of all.
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _MAX_TRIM_THRESHOLD))
