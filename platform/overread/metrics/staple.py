"""The consensus of several annotators of one structure: STAPLE (Warfield, Zou, Wells 2004, IEEE TMI 23(7)).

Each annotator j has a sensitivity p_j and a specificity q_j, the hidden true mask T a prior g of a voxel in it.
Expectation-maximisation alternates between the probability that a voxel is in T,
    W_i = a_i / (a_i + b_i),
    a_i = g prod_j p_j^d_ij (1 - p_j)^(1 - d_ij),  b_i = (1 - g) prod_j q_j^(1 - d_ij) (1 - q_j)^d_ij,
and p_j = sum_i W_i d_ij / sum_i W_i, q_j = sum_i (1 - W_i) (1 - d_ij) / sum_i (1 - W_i), until p and q stand still.
As in the paper, all start alike and near 1, g is the mean of all decisions and stays, and voxels are independent.

Voxels on which all annotators decide alike have the same W, so everything is counted by pattern of decisions: of A
annotators there are at most 2^A, however large the image is. A pattern is the bits of one number of the smallest type
that holds A bits, counted and looked up in blocks of voxels. The background around a structure counts: cut off, g is
larger and the consensus wider; here it is the whole image that the annotators saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overread.errors import UserError
from overread.metrics.overlap import Mask

Floats = NDArray[np.float64]
Codes = NDArray[np.unsignedinteger]
"""The decisions on a voxel, that of annotator j as bit j."""
BLOCK = 1 << 16
"""Voxels that are counted or looked up at a time; a multiple of 8, so that blocks of packed bits are whole bytes."""
START = 0.99999
"""Sensitivity and specificity that all annotators start with."""
ITERATIONS = 500
STILL = 1e-8
"""Largest change of a sensitivity or specificity that counts as standing still."""
MOST_ANNOTATORS = 62
FLOOR = 1e-12
"""No annotator is always right or always wrong: a certain one could never be outvoted."""


@dataclass(frozen=True)
class Consensus:
    """What the annotators say together."""

    probabilities: NDArray[np.float32]
    """(*S) W: that a voxel is in the true mask."""
    sensitivity: Floats
    """(A,) share of the true mask that each annotator marked."""
    specificity: Floats
    """(A,) share of the rest that each left out."""
    iterations: int

    @property
    def mask(self) -> Mask:
        """(*S) the voxels that are more likely in the true mask than not."""
        return self.probabilities > 0.5


@dataclass(frozen=True)
class Trust:
    """What is thought of the annotators, and so of every pattern of decisions."""

    distinct: Codes
    """(n,) the patterns that occur, in order."""
    inside: NDArray[np.float32]
    """(n,) W of each."""
    sensitivity: Floats
    specificity: Floats
    iterations: int

    def probabilities(self, codes: Codes) -> NDArray[np.float32]:
        """Return W of voxels by their codes, all of which occur."""
        return self.inside[np.searchsorted(self.distinct, codes)]


def staple(annotations: Mask, *, start: float = START, iterations: int = ITERATIONS) -> Consensus:
    """Return the consensus of annotations (A, *S) of one class; A is at least 1.

    Annotators who agree everywhere, all of them empty or full too, are right: the consensus is what they say, and so
    it is for one annotator alone. Sensitivity is 1 where nothing is in the consensus, specificity where everything is.
    """
    kind, shape = code_type(len(annotations)), annotations.shape[1:]
    codes = np.zeros(shape, kind)
    for bit, annotation in enumerate(annotations):
        codes |= annotation.astype(kind) << kind.type(bit)
    flat, found = codes.ravel(), np.empty(codes.size, np.float32)
    trust = fit_trust((flat[place] for place in blocks(codes.size)), len(annotations), start, iterations)
    for place in blocks(codes.size):
        found[place] = trust.probabilities(flat[place])
    return Consensus(found.reshape(shape), trust.sensitivity, trust.specificity, trust.iterations)


def code_type(annotators: int) -> np.dtype[np.unsignedinteger]:
    """Return the smallest type whose bits hold the decisions of all annotators; none or too many raise `UserError`."""
    if not annotators:
        raise UserError("a consensus must be of at least one annotation, but got none")
    if annotators > MOST_ANNOTATORS:
        raise UserError(f"a consensus must be of at most {MOST_ANNOTATORS} annotations, but got {annotators}")
    return np.dtype(np.min_scalar_type((1 << annotators) - 1))


def blocks(voxels: int) -> Iterator[slice]:
    """Yield the voxels in blocks, at least one."""
    for start in range(0, max(voxels, 1), BLOCK):
        yield slice(start, min(start + BLOCK, voxels))


def fit_trust(codes: Iterable[Codes], annotators: int, start: float = START, iterations: int = ITERATIONS) -> Trust:
    """Return what follows from the decisions of all voxels, whose codes come in blocks (read once)."""
    counted = [np.unique(block, return_counts=True) for block in codes]
    distinct, places = np.unique(np.concatenate([found for found, _ in counted]), return_inverse=True)
    counts = np.bincount(places, weights=np.concatenate([number for _, number in counted]))
    marked = (distinct[:, None] >> np.arange(annotators, dtype=distinct.dtype) & 1).astype(np.float64)  # (n, A)
    if (marked == marked[:, :1]).all():
        alike = np.ones(annotators)
        return Trust(distinct, marked[:, 0].astype(np.float32), alike, alike.copy(), 0)
    prior = float(counts @ marked.mean(1) / counts.sum())
    sensitivity, specificity = np.full((2, annotators), start)
    done, still = 0, False
    while done < iterations and not still:
        inside = _probabilities(marked, sensitivity, specificity, prior)
        before = np.concatenate([sensitivity, specificity])
        sensitivity = _share(inside * counts, marked)
        specificity = _share((1 - inside) * counts, 1 - marked)
        still = bool(np.abs(np.concatenate([sensitivity, specificity]) - before).max() <= STILL)
        done += 1
    inside = _probabilities(marked, sensitivity, specificity, prior)
    return Trust(distinct, inside.astype(np.float32), sensitivity, specificity, done)


def _probabilities(marked: Floats, sensitivity: Floats, specificity: Floats, prior: float) -> Floats:
    """E-step: return W of each pattern (n, A), by logarithms: the products of many annotators leave float64."""
    p, q = (np.clip(share, FLOOR, 1 - FLOOR) for share in (sensitivity, specificity))
    inside = np.log(prior) + marked @ np.log(p) + (1 - marked) @ np.log1p(-p)
    outside = np.log1p(-prior) + (1 - marked) @ np.log(q) + marked @ np.log1p(-q)
    return np.exp(inside - np.logaddexp(inside, outside))


def _share(weights: Floats, decisions: Floats) -> Floats:
    """M-step: return (A,) the weighted share of right decisions; of nothing, 1."""
    total = weights.sum()
    return weights @ decisions / total if total > 0 else np.ones(decisions.shape[1])
