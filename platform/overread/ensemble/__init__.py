"""Ensembles of any trial variants: selection, soft vote, the package on disk, reading and evaluating cases."""
