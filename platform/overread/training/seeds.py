"""Seeds derived from (seed, step, ...): stateless, so a resumed training draws what the uninterrupted one would."""

from __future__ import annotations

import numpy as np
import torch


def derived_seed(*numbers: int) -> int:
    """Return a 63-bit seed; different lists of numbers (0 to 2**64 - 1) give independent streams, also of two lengths.

    NumPy pads what it mixes with zeros and writes numbers one after another, so that it takes (3, 5) for (3, 5, 0):
    here the length goes in first, and every number as two words.
    """
    words = [word for number in numbers for word in (number & 0xFFFFFFFF, number >> 32)]
    return int(np.random.SeedSequence([len(numbers), *words]).generate_state(1, np.uint64)[0]) >> 1


def generator_for(*numbers: int) -> torch.Generator:
    """Return a CPU generator of its own, seeded by `derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(*numbers))
