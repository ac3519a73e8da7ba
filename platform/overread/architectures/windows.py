"""Attention within windows of a map: the shifted windows of Swin (Liu et al. 2021, arXiv:2103.14030, section 3.2).

Maps are (B, H, W, d) here, so that LayerNorm and linear layers act on the last axis. A map is cut into windows whose
tokens attend to each other alone; a second block shifts the map by half a window first, cyclically, and tokens that are
neighbours only through that do not see each other.
Sides that are no multiple of a window are padded at the end, and what is padded is seen by no token; a side smaller
than a window is one window, unshifted. So any size will do, with the same weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overread.architectures.transformer import Attention

Size = tuple[int, int]
"""Rows and columns."""


def to_windows(x: Tensor, window: Size) -> Tensor:
    """Cut (B, H, W, d) into (B, windows, tokens of a window, d), both in raster order; sides must be multiples."""
    _, height, width, _ = x.shape
    rows, columns = window
    cells = torch.unflatten(torch.unflatten(x, 2, (width // columns, columns)), 1, (height // rows, rows))
    return cells.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(x: Tensor, window: Size, size: Size) -> Tensor:
    """Put (B, windows, tokens of a window, d) together again to (B, *size, d)."""
    grid = (size[0] // window[0], size[1] // window[1])
    return torch.unflatten(torch.unflatten(x, 2, window), 1, grid).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def padded(size: Size, window: Size) -> Size:
    """Return the sides rounded up to multiples of the window's."""
    rows, columns = (-(-side // part) * part for side, part in zip(size, window, strict=True))
    return rows, columns


def pad(x: Tensor, size: Size) -> Tensor:
    """Return (B, H, W, d) with zeros at the end of both sides, (B, *size, d)."""
    return F.pad(x, (0, 0, 0, size[1] - x.shape[2], 0, size[0] - x.shape[1]))


def regions(size: Size, window: Size, shift: Size, device: torch.device | None = None) -> Tensor:
    """Return the region of every token by window, (windows, tokens): tokens of one region may see each other.

    Tokens differ in region where the shift brought them together from two ends of a side, or one is padding.
    """
    axes = []
    for side, whole, step in zip(size, padded(size, window), shift, strict=True):
        place = torch.arange(whole, device=device) + step
        axes.append((place >= whole) + 2 * (place % whole >= side))
    ids = 4 * axes[0][:, None] + axes[1]
    return to_windows(ids[None, :, :, None], window)[0, :, :, 0]


class WindowAttention(Attention):
    """Multi-head self-attention within windows of a map (B, H, W, d).

    `shift` moves the windows down and right by so many tokens. `relative` adds a learned bias per head and distance.
    """

    def __init__(self, width: int, heads: int, window: int, *, shift: int = 0, relative: bool = True) -> None:
        super().__init__(width, heads)
        self.window, self.shift = window, shift
        self.bias: nn.Parameter | None = None
        if relative:
            self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, heads), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, d) to the same shape."""
        size: Size = (x.shape[1], x.shape[2])
        window: Size = (min(self.window, size[0]), min(self.window, size[1]))
        shift: Size = (self.shift if size[0] > self.window else 0, self.shift if size[1] > self.window else 0)
        whole = padded(size, window)
        cells = to_windows(pad(x, whole).roll((-shift[0], -shift[1]), (1, 2)), window)
        q, k, v = (torch.unflatten(part, 0, cells.shape[:2]) for part in self.split(cells.flatten(0, 1)))
        mask = self._mask(size, window, shift, x.device)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype))
        cells = self.out(attended.transpose(2, 3).flatten(3))
        return from_windows(cells, window, whole).roll(shift, (1, 2))[:, : size[0], : size[1]]

    def _mask(self, size: Size, window: Size, shift: Size, device: torch.device) -> Tensor | None:
        """Return what is added to the scores, (windows or 1, heads or 1, tokens, tokens); None: nothing."""
        mask = self._relative(window, device)
        if any(shift) or padded(size, window) != size:
            ids = regions(size, window, shift, device)
            apart = torch.zeros(1, device=device).masked_fill(
                ids[:, None, :, None] != ids[:, None, None, :], -torch.inf
            )
            mask = apart if mask is None else mask + apart
        return mask

    def _relative(self, window: Size, device: torch.device) -> Tensor | None:
        """Return the bias of all pairs of tokens of a window, (1, heads, tokens, tokens)."""
        if self.bias is None:
            return None
        rows, columns = (torch.arange(side, device=device) for side in window)
        down = (rows[:, None] - rows + self.window - 1)[:, None, :, None]
        right = (columns[:, None] - columns + self.window - 1)[None, :, None, :]
        index = (down * (2 * self.window - 1) + right).flatten(2).flatten(0, 1)
        return self.bias[index].permute(2, 0, 1)[None]
