import pytest
import torch

from overread.architectures.attention_maps import AttentionMaps, AttentionOptions, slice_maps
from overread.architectures.contract import count_parameters
from overread.architectures.vit import ViTOptions, official_name
from overread.errors import UserError
from overread.records import Extra

SHA = "0" * 64
TINY = ViTOptions(size="tiny", patch=16, depth=1)
SMALL = AttentionOptions(vit=TINY, image_size=32)


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_maps_of_a_case_slice_by_slice():
    maps, case = AttentionMaps(SMALL), image(1, 18, 24, 40)  # more slices than are in memory at a time
    found = maps(case)
    assert found.shape == (3, 18, 24, 40)
    one = maps(case[:, 17:])
    torch.testing.assert_close(found[:, 17:], one)
    assert torch.equal(found.amin((2, 3)), torch.zeros(3, 18))
    assert torch.equal(found.amax((2, 3)), torch.ones(3, 18))


def test_a_map_is_enlarged_by_patches_then_linearly_and_scaled_by_its_own_range():
    class Fixed:
        options = TINY

        def attention_maps(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape == (1, 3, 32, 32)
            return torch.tensor([[[[0.1, 0.2], [0.3, 0.5]], [[0.25, 0.25], [0.25, 0.25]]]])

    maps = slice_maps(Fixed(), torch.zeros(1, 1, 32, 32), 32)
    quarters = torch.tensor([[0.0, 0.25], [0.5, 1.0]]).repeat_interleave(16, 0).repeat_interleave(16, 1)
    torch.testing.assert_close(maps[0, 0], quarters)
    assert torch.equal(maps[0, 1], torch.zeros(32, 32))  # a flat map
    doubled = slice_maps(Fixed(), torch.zeros(1, 1, 64, 64), 32)[0, 0]
    assert doubled[40, 30:34].tolist() == pytest.approx([0.5, 0.625, 0.875, 1.0])  # a quarter pixel each, at the edge


def test_the_teacher_is_frozen_and_its_random_weights_are_always_the_same():
    torch.manual_seed(1)
    first, state = AttentionMaps(SMALL), torch.get_rng_state()
    torch.manual_seed(2)
    second = AttentionMaps(SMALL)
    assert count_parameters(first) == 0
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


def test_the_key_tells_weights_and_settings_apart_but_not_places():
    with torch.device("meta"):
        assert AttentionMaps(SMALL).extra == Extra(channels=3, key=SMALL.key)

    def key(**changes: object) -> str:
        return AttentionOptions.from_json(SMALL.to_json() | changes).key

    others = [
        key(image_size=48),
        key(vit={"size": "small", "patch": 16, "depth": 1}),
        key(vit={"size": "tiny", "patch": 16, "depth": 2}),
        key(teacher="/a", teacher_sha256=SHA),
        key(teacher="/a", teacher_sha256="1" * 64),
    ]
    assert len({SMALL.key, *others}) == 6
    assert key(teacher="/b", teacher_sha256=SHA) == key(teacher="/a", teacher_sha256=SHA)


def test_a_named_teacher_is_asked_for_but_not_read():
    assert AttentionMaps(SMALL).pretrained() == ()
    maps = AttentionMaps(AttentionOptions(vit=TINY, image_size=32, teacher="/none", teacher_sha256=SHA))
    (wanted,) = maps.pretrained()
    assert (wanted.part, wanted.path, wanted.sha256, wanted.rename) == (maps.vit, "/none", SHA, official_name)


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(UserError, match=r"at least one patch, 16 pixels.*\(15, 40\)"):
        AttentionMaps(SMALL)(image(1, 1, 15, 40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 8}, "multiple of the patch"),
        ({"image_size": 40}, "multiple of the patch"),
        ({"teacher": "/a"}, "together"),
        ({"teacher_sha256": SHA}, "together"),
        ({"teacher": "/a", "teacher_sha256": "abc"}, "64 hex"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        AttentionOptions.from_json(options)


def test_slices_of_a_window_have_the_maps_of_standardised_ones():
    maps, case = AttentionMaps(SMALL), image(2, 3, 24, 40)
    windowed = case.sigmoid()  # 0..1, as CT within a window
    each = [(channel - channel.mean()) / channel.std(correction=0) for part in windowed for channel in part]
    standard = torch.stack(each).unflatten(0, (2, 3))
    torch.testing.assert_close(maps(windowed), maps(standard))
    torch.testing.assert_close(maps(5 * windowed - 1), maps(standard))
    assert torch.isfinite(maps(torch.full((1, 2, 16, 16), 0.7))).all()
