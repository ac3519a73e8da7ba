import torch

from overread.architectures.windows import WindowAttention, from_windows, pad, padded, regions, to_windows


def test_windows_are_cut_in_raster_order_and_put_together_again():
    x = torch.arange(24.0).reshape(1, 4, 6, 1)
    cells = to_windows(x, (2, 3))
    assert cells[0, :, :, 0].tolist() == [
        [0, 1, 2, 6, 7, 8],
        [3, 4, 5, 9, 10, 11],
        [12, 13, 14, 18, 19, 20],
        [15, 16, 17, 21, 22, 23],
    ]
    assert torch.equal(from_windows(cells, (2, 3), (4, 6)), x)
    batch = torch.randn(2, 6, 4, 3)
    assert torch.equal(from_windows(to_windows(batch, (3, 2)), (3, 2), (6, 4)), batch)


def test_padding_goes_to_the_end():
    assert padded((7, 8), (4, 4)) == (8, 8)
    x = pad(torch.ones(1, 2, 3, 1), (4, 4))
    assert x[0, :, :, 0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_regions_by_hand():
    assert regions((2, 4), (2, 2), (0, 0)).unique().tolist() == [0]
    # one row of four tokens, shifted by one: the windows are (1, 2) and (3, 0), where 0 came around
    assert regions((1, 4), (1, 2), (0, 1)).tolist() == [[0, 0], [0, 1]]
    # three tokens and one of padding: windows (0, 1) and (2, padding)
    assert regions((1, 3), (1, 2), (0, 0)).tolist() == [[0, 0], [0, 2]]
    assert regions((3, 1), (2, 1), (0, 0)).tolist() == [[0, 0], [0, 8]]


def seen(size: tuple[int, int], window: int, shift: int, place: tuple[int, int]) -> set[tuple[int, int]]:
    """Return the places that the output at `place` depends on."""
    torch.manual_seed(0)
    attention = WindowAttention(4, 2, window, shift=shift)
    x = torch.randn(1, *size, 4, requires_grad=True)
    attention(x)[0, place[0], place[1]].sum().backward()
    assert x.grad is not None
    return {(row, column) for row, column in x.grad[0].abs().sum(-1).nonzero().tolist()}


def box(rows: range, columns: range) -> set[tuple[int, int]]:
    return {(row, column) for row in rows for column in columns}


def test_a_token_sees_its_window_alone():
    assert seen((4, 6), 2, 0, (1, 3)) == box(range(2), range(2, 4))
    assert seen((3, 5), 2, 0, (2, 4)) == {(2, 4)}  # what was padded is not seen
    assert seen((2, 3), 7, 3, (0, 0)) == box(range(2), range(3))  # smaller than a window: all


def test_a_shifted_window_does_not_join_the_ends_of_a_side():
    assert seen((4, 4), 2, 1, (1, 1)) == box(range(1, 3), range(1, 3))
    assert seen((4, 4), 2, 1, (0, 1)) == box(range(1), range(1, 3))
    assert seen((4, 4), 2, 1, (3, 3)) == {(3, 3)}
    assert seen((5, 5), 2, 1, (4, 4)) == box(range(3, 5), range(3, 5))
    assert seen((5, 5), 2, 1, (0, 0)) == {(0, 0)}


def test_a_whole_map_in_one_window_is_plain_attention():
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, 4, relative=False)
    x = torch.randn(2, 4, 4, 8)
    plain = super(WindowAttention, attention).forward(x.flatten(1, 2))
    torch.testing.assert_close(attention(x).flatten(1, 2), plain)


def test_the_bias_belongs_to_the_distance():
    attention = WindowAttention(2, 1, 3)
    assert attention.bias is not None
    with torch.no_grad():
        attention.bias.copy_(torch.arange(25.0)[:, None])
    found = attention._relative((2, 3), torch.device("cpu"))[0, 0]
    assert found.shape == (6, 6)
    # tokens (0, 0) .. (1, 2); row distance d, column distance e have bias 5 (d + 2) + e + 2
    assert found.diagonal().tolist() == [12] * 6
    assert found[0].tolist() == [12, 11, 10, 7, 6, 5]
    assert found[5, 0] == 5 * 3 + 4


def test_every_window_alone_under_bf16():
    attention = WindowAttention(4, 2, 2, shift=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention(torch.randn(1, 3, 5, 4)).isfinite().all()
