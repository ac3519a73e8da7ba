"""Data: layouts on disk, checks, preparation, splits, batches, and the phantom data set."""
