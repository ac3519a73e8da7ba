"""overread: a panel of segmentation networks reads every case, and says where it agrees."""

__version__ = "0.1.0"
