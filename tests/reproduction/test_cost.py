"""The cost of a model does not depend on what was measured before it."""

from overread.records import TrialConfig
from overread.reproduction.cost import CostItem, measure_cost


def item(width: int) -> CostItem:
    config = TrialConfig(
        architecture="unet",
        options={"width": width, "depth": 2},
        in_channels=1,
        classes=2,
        patch_size=(64, 64),
        batch_size=4,
        steps=1,
        mixed_precision=False,
    )
    return CostItem(row=f"width {width}", config=config, published=1)


def test_a_small_model_needs_less_memory_than_a_large_one_before_it() -> None:
    large, small = measure_cost(item(64)), measure_cost(item(8))
    assert large.parameters > small.parameters
    assert large.seconds_per_step > 0
    # at full resolution the wide network keeps about ten maps of 4 x 64 x 64 x 64 float32, 4 MiB each
    assert large.peak_bytes > 30 * 2**20
    assert 0 < small.peak_bytes < large.peak_bytes
