"""Loss terms. Each returns one value per sample, so that a step's loss is a mean over samples on any number of workers.

Shapes: B batch, K classes with background, N independent binary maps, *S spatial axes. All terms compute in float32,
also under autocast.
"""

from overread.losses.binary_cross_entropy import binary_cross_entropy
from overread.losses.cross_entropy import cross_entropy
from overread.losses.dice import dice_loss
from overread.losses.focal import focal_loss
from overread.losses.lovasz import lovasz_hinge

__all__ = ["binary_cross_entropy", "cross_entropy", "dice_loss", "focal_loss", "lovasz_hinge"]
