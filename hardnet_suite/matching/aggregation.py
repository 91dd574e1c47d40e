"""Aggregation of local descriptors into what images are ranked by: VLAD, and bags of words."""

from __future__ import annotations

from typing import Any

import numpy as np

from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError

_ITERATIONS = 25


def load_faiss() -> Any:
    """The module ``faiss``; UserError where it is not installed."""
    try:
        import faiss
    except ImportError:
        raise UserError("an index of images needs faiss: pip install faiss-cpu") from None
    return faiss


def kmeans(descriptors: np.ndarray, words: int, seed: int) -> np.ndarray:
    """A codebook by k-means.

    Args:
        descriptors: (N, D); of more than 256 per word a random part is used.
        words: K.
        seed: of the part and the first centres.

    Returns:
        (K, D) float32.

    Raises:
        UserError: fewer descriptors than words, or faiss is not installed.
    """
    if len(descriptors) < words:
        number = counted(len(descriptors), "descriptor")
        raise UserError(f"{number} in all: too few for {words} words")
    means = load_faiss().Kmeans(
        descriptors.shape[1], words, niter=_ITERATIONS, seed=seed, min_points_per_centroid=1
    )
    means.train(descriptors.astype(np.float32))
    return means.centroids


def vlad(descriptors: np.ndarray, words: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """VLAD of an image: of each word the sum of differences, signed roots, each word then all of length 1.

    Args:
        descriptors: (N, D).
        words: (N,) of each descriptor.
        codebook: (K, D).

    Returns:
        (K · D,) float32.
    """
    sums = np.zeros(codebook.shape, np.float32)
    np.add.at(sums, words, descriptors.astype(np.float32) - codebook[words])
    roots = np.sign(sums) * np.sqrt(np.abs(sums))
    return _unit(_unit(roots).ravel())


class InvertedFile:
    """Bags of words with tf-idf weights, as lists of images per word; their cosines with that of a query.

    A word weighs log((N + 1) / n), with n of N images having it: little, but not 0, where all have it.

    Args:
        images: (N_i,) words of each image.
        count: of the codebook's words.
    """

    def __init__(self, images: list[np.ndarray], count: int):
        bags = [np.unique(words, return_counts=True) for words in images]
        words = np.concatenate([np.empty(0, np.int64), *(bag[0] for bag in bags)]).astype(np.int64)
        numbers = np.repeat(np.arange(len(bags)), [len(bag[0]) for bag in bags])
        self._idf = np.log((len(bags) + 1) / np.maximum(np.bincount(words, minlength=count), 1))
        weights = np.concatenate([np.empty(0), *(bag[1] for bag in bags)]) * self._idf[words]
        norms = np.sqrt(np.bincount(numbers, weights**2, minlength=len(bags)))
        order = np.argsort(words, kind="stable")
        self._numbers, self._weights = numbers[order], (weights / norms[numbers])[order]
        self._starts = np.searchsorted(words[order], np.arange(count + 1))
        self._length = len(bags)

    def scores(self, words: np.ndarray) -> np.ndarray:
        """(N,) float64 cosines of the images with a bag of words."""
        values, counts = np.unique(words, return_counts=True)
        weights = counts * self._idf[values]
        scores = np.zeros(self._length)
        for word, weight in zip(values, weights / np.linalg.norm(weights), strict=True):
            part = slice(self._starts[word], self._starts[word + 1])
            scores[self._numbers[part]] += weight * self._weights[part]
        return scores


def _unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1; zeros stay."""
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    return values / np.where(norms > 0, norms, 1)
