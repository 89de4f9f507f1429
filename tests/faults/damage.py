"""Ways in which bytes are damaged: disks flip bits, copies break off, blocks come back empty."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK_BYTES = (1, 16, 512, 4096)


def flipped_bits(content: bytes, n: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`n` copies with one bit flipped each, half of them in the first 512 bytes."""
    generator = np.random.default_rng(seed)
    for number in range(n):
        end = min(512, len(content)) if number % 2 else len(content)
        place, bit = int(generator.integers(end)), int(generator.integers(8))
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} flipped", bytes(damaged)


def cut(content: bytes, n: int = 10) -> Iterator[tuple[str, bytes]]:
    """The first 0, 1, ..., `n` - 1 `n`-ths of it, and all but the last byte."""
    for end in [*(len(content) * part // n for part in range(n)), len(content) - 1]:
        yield f"cut after {end} of {len(content)} bytes", content[:end]


def zeroed(content: bytes, n: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`n` copies with a block of zeros each; those that were zeros anyway are left out."""
    generator = np.random.default_rng(seed)
    for number in range(n):
        size = min(_BLOCK_BYTES[number % len(_BLOCK_BYTES)], len(content))
        place = int(generator.integers(len(content) - size + 1))
        damaged = content[:place] + bytes(size) + content[place + size :]
        if damaged != content:
            yield f"{size} bytes from byte {place} zeroed", damaged


def damaged(content: bytes, n: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """All three ways: `n` flipped bits, cuts at every tenth, and a quarter of `n` blocks."""
    yield from flipped_bits(content, n, seed)
    yield from cut(content)
    yield from zeroed(content, n // 4, seed)
