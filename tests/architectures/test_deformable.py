import pytest
import torch
import torch.nn.functional as F

from overread.architectures.contract import count_parameters
from overread.architectures.deformable import DeformableConv, deformable_convolution, sample_taps


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moved(down: float, right: float, *size: int) -> torch.Tensor:
    """Offsets that are the same at every pixel and tap."""
    return torch.tensor([down, right]).repeat(9)[None, :, None, None].expand(1, 18, *size)


def test_without_offsets_it_is_a_convolution():
    x, weight, bias = draw(2, 3, 5, 8), draw(4, 3, 3, 3, seed=1), draw(4, seed=2)
    found = deformable_convolution(x, torch.zeros(2, 18, 5, 8), weight, bias)
    torch.testing.assert_close(found, F.conv2d(x, weight, bias, padding=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (4, 1)])
def test_maps_of_one_pixel_in_a_direction(size):
    x, weight = draw(1, 2, *size), draw(3, 2, 3, 3, seed=1)
    found = deformable_convolution(x, torch.zeros(1, 18, *size), weight)
    torch.testing.assert_close(found, F.conv2d(x, weight, padding=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 2), (-1, 2), (-3, -1)])
def test_whole_offsets_shift_the_image_with_zeros_around_it(down, right):
    x, weight = draw(1, 2, 6, 7), draw(3, 2, 3, 3, seed=1)
    wide = F.conv2d(F.pad(x, (4, 4, 4, 4)), weight)  # starts 3 pixels before the image
    expected = wide[..., 3 + down : 9 + down, 3 + right : 10 + right]
    found = deformable_convolution(x, moved(down, right, 6, 7), weight)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_between_pixels_and_at_the_edge_by_hand():
    x = torch.tensor([[[[0.0, 2.0, 8.0]]]])
    centre = sample_taps(x, moved(0, 0.5, 1, 3))[0, 0, 4]
    torch.testing.assert_close(centre, torch.tensor([[1.0, 5.0, 4.0]]))  # the last is half inside
    centre = sample_taps(x, moved(0.25, 0, 1, 3))[0, 0, 4]
    torch.testing.assert_close(centre, torch.tensor([[0.0, 1.5, 6.0]]))


def test_every_tap_has_an_offset_of_its_own_in_raster_order():
    x = torch.arange(25.0).reshape(1, 1, 5, 5)  # 5 row + column
    offsets = torch.zeros(1, 18, 5, 5)
    offsets[0, 2 * 5] = 1  # tap 5 sees the right neighbour: one row further down
    offsets[0, 2 * 6 + 1] = -1  # tap 6 the left neighbour of the row below: one column further left
    expected = torch.tensor([6.0, 7, 8, 11, 12, 18, 15, 17, 18])
    torch.testing.assert_close(sample_taps(x, offsets)[0, 0, :, 2, 2], expected)


def test_the_offsets_learn_the_slope_of_the_image():
    offsets = moved(0.25, 0.25, 6, 6).clone().requires_grad_()
    ramp = (3 * torch.arange(6.0)[:, None] - 2 * torch.arange(6.0)).reshape(1, 1, 6, 6)
    sample_taps(ramp, offsets)[0, 0, 4, 2, 3].backward()
    found = offsets.grad.reshape(9, 2, 6, 6)
    torch.testing.assert_close(found[4, :, 2, 3], torch.tensor([3.0, -2.0]))
    assert found.count_nonzero() == 2


def test_samples_are_float32_under_autocast():
    layer = DeformableConv(2, 3)
    x = draw(1, 2, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sample_taps(x.bfloat16(), layer.offsets(x)).dtype == torch.float32
        assert layer(x).dtype == torch.bfloat16


def test_the_layer_starts_at_rest_and_follows_its_offsets():
    layer, x = DeformableConv(2, 4), draw(1, 2, 5, 5)
    assert count_parameters(layer) == (9 * 2 + 1) * 18 + (9 * 2 + 1) * 4
    torch.testing.assert_close(layer(x), layer.convolution(x), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        layer.offsets.bias[0::2] = 1.0  # all taps one row down
    torch.testing.assert_close(layer(x)[..., :-1, :], layer.convolution(x)[..., 1:, :], atol=1e-5, rtol=1e-5)
    layer.rest()
    torch.testing.assert_close(layer(x), layer.convolution(x), atol=1e-5, rtol=1e-5)
