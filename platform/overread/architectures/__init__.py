"""Every network. Importing this package registers them all, in every process.

Adding one = one file here with `@architecture(...)`, one import line below, one file in `search_spaces/`.
"""

from overread.architectures import (
    attention_unet,
    bio_net,
    conv_unext,
    medt,
    res_unet,
    uctransnet,
    unet,
    unet_plus_plus,
    unet_sharp,
    unetmer,
    unext,
)
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
    "attention_unet",
    "bio_net",
    "build_encoder_decoder",
    "build_segmenter",
    "conv_unext",
    "count_parameters",
    "medt",
    "res_unet",
    "uctransnet",
    "unet",
    "unet_plus_plus",
    "unet_sharp",
    "unetmer",
    "unext",
]
