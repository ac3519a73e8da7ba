"""Every network. Importing this package registers them all, in every process.

Adding one = one file here with `@architecture(...)`, one import line below, one file in `search_spaces/`.
"""

from overread.architectures import unet, unet_sharp, unetmer
from overread.architectures.contract import (
    ARCHITECTURES,
    Architecture,
    EncoderDecoder,
    Features,
    Losses,
    Network,
    Published,
    Segmenter,
    architecture,
    build_encoder_decoder,
    build_segmenter,
    count_parameters,
)

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "EncoderDecoder",
    "Features",
    "Losses",
    "Network",
    "Published",
    "Segmenter",
    "architecture",
    "build_encoder_decoder",
    "build_segmenter",
    "count_parameters",
    "unet",
    "unet_sharp",
    "unetmer",
]
