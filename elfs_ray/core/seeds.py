"""Seeds that are derived from one: each piece of work draws from a stream of its own."""

import zlib

import numpy as np


def derived_seed(seed: int, name: str, *keys: int) -> int:
    """A 63-bit seed for the work of this name (and keys, such as an epoch), from the seed of the whole."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(name.encode()), *keys])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
