"""Blocks of columns for what is computed densely, a part at a time."""

from collections.abc import Iterator

_BLOCK_ENTRIES = 1 << 20


def column_blocks(n: int, m: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive blocks of columns with about 2^20 scores each."""
    width = max(1, _BLOCK_ENTRIES // max(n, 1))
    for start in range(0, m, width):
        yield start, min(start + width, m)
