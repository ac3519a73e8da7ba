"""The network under a Segmenter that any network can carry: options that name it, and how it is built from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from overread.architectures.contract import ARCHITECTURES, Network
from overread.errors import UserError
from overread.jsonio import JsonRecord


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(JsonRecord):
    """Which network carries the heads; the defaults are the published U-Net of 64..1024 channels.

    >>> BackboneOptions(width=4, backbone_options={"depth": 2}).network(in_channels=6).size_multiple
    2
    """

    backbone: str = "unet"
    """Any architecture whose wiring can be built alone."""
    width: int = 64
    """The backbone's own option `width`: its channels at full resolution."""
    backbone_options: dict[str, Any] = field(default_factory=dict)
    """Its other options, such as `{"depth": 4}`; what is not named has the backbone's published value."""

    def __post_init__(self) -> None:
        if "width" in self.backbone_options:
            raise UserError(
                f"width must stand beside backbone_options, but it is among them ({self.backbone_options}): move it out"
            )

    def network(self, *, in_channels: int, spatial_dims: int = 2) -> Network:
        """Build the backbone; an unknown one, or one with other options or axes, raises `UserError`."""
        return ARCHITECTURES[self.backbone].build_network(
            {**self.backbone_options, "width": self.width}, in_channels=in_channels, spatial_dims=spatial_dims
        )
