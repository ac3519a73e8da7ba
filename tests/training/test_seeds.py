from __future__ import annotations

import torch

from overread.training.seeds import derived_seed, generator_for


def test_seeds_depend_on_every_number_and_their_order() -> None:
    seeds = {derived_seed(1, 2), derived_seed(2, 1), derived_seed(1, 2, 0, 1), derived_seed(1, 3)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(1, 2) == derived_seed(1, 2)


def test_lists_of_different_length_and_large_numbers_never_coincide() -> None:
    assert derived_seed(3, 5) != derived_seed(3, 5, 0)
    assert derived_seed(0) != derived_seed(0, 0)
    # NumPy writes 2**32 + 1 as the words 1 and 1
    assert derived_seed(2**32 + 1, 2) != derived_seed(1, 2 * 2**32 + 1)
    assert derived_seed(2**32 + 1) != derived_seed(1, 1)


def test_generator_is_of_its_own() -> None:
    before = torch.get_rng_state()
    first = torch.rand(3, generator=generator_for(5, 6))
    assert torch.equal(first, torch.rand(3, generator=generator_for(5, 6)))
    assert torch.equal(before, torch.get_rng_state())
