from __future__ import annotations

import math

import numpy as np
import pytest

from hardnet_suite.errors import UserError
from hardnet_suite.matching.aggregation import InvertedFile, kmeans, vlad

CODEBOOK = np.array([[0, 0], [10, 0], [0, 10]], np.float32)


def test_vlad_of_a_hand_made_image():
    descriptors = np.array([[1, 0], [3, 0], [10, 4], [6, 0]])
    answer = vlad(descriptors, np.array([0, 0, 1, 1]), CODEBOOK)
    # sums (4, 0), (-4, 4), none; roots, each word of length 1, then all
    half = math.sqrt(1 / 2)
    np.testing.assert_allclose(answer, np.array([1, 0, -half, half, 0, 0]) / math.sqrt(2), atol=1e-6)


def test_vlad_of_the_words_themselves_is_zero():
    assert not vlad(CODEBOOK, np.arange(3), CODEBOOK).any()


@pytest.mark.parametrize("seed", range(5))
def test_the_inverted_file_equals_dense_tf_idf(seed):
    rng = np.random.default_rng(seed)
    count, images = 20, [rng.integers(0, 12, rng.integers(1, 30)) for _ in range(7)]
    bags = np.stack([np.bincount(words, minlength=count) for words in images]).astype(float)
    idf = np.log((len(images) + 1) / np.maximum((bags > 0).sum(0), 1))
    query = rng.integers(0, count, 25)  # some words that no image has
    weighted = bags * idf
    other = np.bincount(query, minlength=count) * idf
    expected = weighted @ other / np.linalg.norm(weighted, axis=1) / np.linalg.norm(other)
    np.testing.assert_allclose(InvertedFile(images, count).scores(query), expected, atol=1e-12)


def test_kmeans_finds_clusters_and_refuses_too_few_points():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    points = np.repeat(CODEBOOK, 50, axis=0) + rng.normal(0, 0.1, (150, 2))
    centres = kmeans(points.astype(np.float16), 3, seed=0)
    np.testing.assert_allclose(centres[np.lexsort(centres.round().T)], CODEBOOK, atol=0.1)
    with pytest.raises(UserError, match="2 descriptors in all: too few for 3 words"):
        kmeans(points[:2], 3, seed=0)
