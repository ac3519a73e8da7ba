"""Layers that several networks share, for 2-D and 3-D alike, and the checks of what goes in.

Everything keeps the memory format it is given, so a channels-last network stays channels-last throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from overread.errors import UserError

Norm = Literal["batch", "instance"]

CONVOLUTION: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORM: dict[int, Callable[..., nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_NORM: dict[int, Callable[..., nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_MAX_POOL: dict[int, Callable[..., Tensor]] = {2: F.max_pool2d, 3: F.max_pool3d}


def convolution(
    spatial_dims: int,
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = True,
) -> nn.Module:
    """Return a convolution that divides the spatial size by `stride`; at stride 1 the kernel must be odd."""
    padding = dilation * ((kernel - 1) // 2)
    return CONVOLUTION[spatial_dims](
        inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, bias=bias
    )


def normalisation(kind: Norm, spatial_dims: int, channels: int) -> nn.Module:
    """Return a norm with learned scale and shift."""
    if kind == "instance":
        return _INSTANCE_NORM[spatial_dims](channels, affine=True)
    return _BATCH_NORM[spatial_dims](channels)


class PooledNorm(nn.BatchNorm2d):
    """Batch norm of maps that pooling may have left with one pixel.

    A training batch of one image then has one value per channel, which has no statistics: it is normalised by the
    running ones, which stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        if self.training and x.numel() == self.num_features:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def max_pool(x: Tensor, factor: int = 2) -> Tensor:
    """Return (B, C, *S) as (B, C, *S / factor)."""
    return _MAX_POOL[x.ndim - 2](x, factor)


def upsample(x: Tensor, factor: int = 2, *, align_corners: bool = False) -> Tensor:
    """Return (B, C, *S) as (B, C, *S * factor), bilinear or trilinear."""
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return F.interpolate(x, scale_factor=float(factor), mode=mode, align_corners=align_corners)


def nearest(x: Tensor, factor: int) -> Tensor:
    """Return (B, C, *S) as (B, C, *S * factor) by repeating voxels."""
    return F.interpolate(x, scale_factor=float(factor), mode="nearest")


class ConvUnit(nn.Sequential):
    """Convolution (Conv3 with bias, unless told otherwise) -> norm -> ReLU."""

    def __init__(
        self,
        spatial_dims: int,
        inputs: int,
        outputs: int,
        norm: Norm = "batch",
        *,
        kernel: int = 3,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            convolution(spatial_dims, inputs, outputs, kernel, dilation=dilation, bias=bias),
            normalisation(norm, spatial_dims, outputs),
            nn.ReLU(inplace=True),
        )


class DoubleConv(nn.Sequential):
    """Two ConvUnits, both with `outputs` channels: the block of U-Net and of every node of UNet#."""

    def __init__(self, spatial_dims: int, inputs: int, outputs: int, norm: Norm = "batch") -> None:
        super().__init__(
            ConvUnit(spatial_dims, inputs, outputs, norm),
            ConvUnit(spatial_dims, outputs, outputs, norm),
        )


def transposed_up(spatial_dims: int, inputs: int, outputs: int) -> nn.Module:
    """Return a transposed convolution 2, stride 2: learned upsampling by 2."""
    return _TRANSPOSED[spatial_dims](inputs, outputs, 2, stride=2)


class LinearUp(nn.Module):
    """Linear upsampling by 2, then a ConvUnit (the upsampling of Attention U-Net)."""

    def __init__(self, spatial_dims: int, inputs: int, outputs: int, norm: Norm = "batch") -> None:
        super().__init__()
        self.unit = ConvUnit(spatial_dims, inputs, outputs, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, *S) to (B, outputs, *2S)."""
        return self.unit(upsample(x))


def initialise_he(module: nn.Module) -> None:
    """Draw the weights of all convolutions in `module` from N(0, 2 / fan_in) (He 2015); their biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def check_input(x: Tensor, *, name: str, in_channels: int, spatial_dims: int, size_multiple: int) -> None:
    """Raise `UserError` unless `x` is (B, in_channels, *S) with sizes that are multiples of `size_multiple`."""
    if x.ndim != spatial_dims + 2 or x.shape[1] != in_channels:
        raise UserError(
            f"{name} takes (batch, {in_channels}, {spatial_dims} spatial axes), but got {tuple(x.shape)}: "
            "build it for these channels and axes"
        )
    sizes = tuple(x.shape[2:])
    if any(size % size_multiple for size in sizes):
        padded = tuple(-(-size // size_multiple) * size_multiple for size in sizes)
        raise UserError(
            f"{name} needs spatial sizes that are multiples of {size_multiple}, but got {sizes}: pad to {padded}"
        )
