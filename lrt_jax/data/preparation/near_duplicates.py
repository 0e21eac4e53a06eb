"""Pictures that look the same, and captions that read nearly the same.

Thresholds are from the 75 groups of HPDv2's public test gallery and from ImageReward's test
captions; `benchmarks/likeness.py` measures them again.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt64
from PIL import Image
from scipy import sparse

from lrt_jax.data.images import Pixels, as_image

THUMB = 8  # pixels, each side
# Of two pictures: bits that their perceptual hashes differ in, and the mean absolute difference of
# their thumbnails, of 255.
SAME = (6, 2.0)  # one picture, encoded or resized anew
TAKEN = (14, 16.0)  # one picture, perhaps cropped a little: to keep test images out of training
# Added to the difference that `SAME` allows, for each of 255 by which a thumbnail's tiles differ
# from their mean: copies lose most at edges of strong colours; a gentle gradient is soon another.
CONTRAST = 0.05
# Cosines of captions.
CLUSTER = 0.8  # the same caption, in other words: stays in one split
LEAK = 0.6  # near enough to a test caption to be kept out of training

BLOCK = 2048  # rows that are compared at a time
HITS = 100_000  # pairs of rows that are looked at closely at a time
BITS = 64

Indices = Int[np.ndarray, " m"]


# ---------------------------------------------------------------------------- pictures


def thumbnail(image: Pixels) -> UInt8[np.ndarray, "8 8 3"]:
    """Mean colours of 8x8 tiles."""
    return np.asarray(as_image(image).resize((THUMB, THUMB), Image.Resampling.BOX))


def same_pictures(
    hashes: UInt64[np.ndarray, " n"], thumbs: UInt8[np.ndarray, "n 8 8 3"]
) -> Int[np.ndarray, " n"]:
    """For each picture the index of the first that looks the same, through others or directly.

    Hashes of at most `SAME[0]` different bits agree in one of that many bands and one more, so that
    only those that share a band are compared, in the first of these.
    """
    first = np.arange(len(hashes))
    ends = np.linspace(0, BITS, SAME[0] + 2).astype(int)
    bands: list[np.uint64] = []  # that are done
    for low, high in itertools.pairwise(ends):
        band = np.uint64((1 << int(high)) - (1 << int(low)))
        order = np.argsort(hashes & band, kind="stable")
        edges = [np.stack([first, np.arange(len(hashes))], axis=1)]
        for bucket in np.split(order, np.flatnonzero(np.diff(hashes[order] & band)) + 1):
            joined = _joined(hashes[bucket], thumbs[bucket], first[bucket], bands)
            edges.append(np.stack([bucket[joined], bucket], axis=1))
        first = _first_of_each(np.concatenate(edges), len(hashes))
        bands.append(band)
    return first


def _joined(hashes, thumbs, known: Indices, done: Sequence[np.uint64]) -> Indices:
    """For each picture of a bucket the index of the first that it is connected with.

    Pictures that are connected already, as `known` says of those outside the bucket, are not
    compared, as where all of thousands look the same; nor are those that agree in a `done` band.
    """
    _, indices, labels = np.unique(known, return_index=True, return_inverse=True)
    first = indices[labels]
    allowed = SAME[1] + CONTRAST * _gaps(thumbs, thumbs.mean((1, 2), np.float32, keepdims=True))
    for start in range(0, len(hashes) - 1, BLOCK):
        for i, j in _near_hashes(hashes[start : start + BLOCK], hashes[start:], SAME[0]):
            i, j = i + start, j + start
            new = (i < j) & (first[i] != first[j])
            i, j = i[new], j[new]
            for band in done:
                new = (hashes[i] ^ hashes[j]) & band != 0
                i, j = i[new], j[new]
            alike = _gaps(thumbs[i], thumbs[j]) <= np.minimum(allowed[i], allowed[j])
            if alike.any():
                edges = np.stack([i[alike], j[alike]], axis=1)
                before = np.stack([first, np.arange(len(hashes))], axis=1)
                first = _first_of_each(np.concatenate([before, edges]), len(hashes))
    return first


def taken_pictures(
    hashes: UInt64[np.ndarray, " n"],
    thumbs: UInt8[np.ndarray, "n 8 8 3"],
    test_hashes: UInt64[np.ndarray, " m"],
    test_thumbs: UInt8[np.ndarray, "m 8 8 3"],
) -> Bool[np.ndarray, " n"]:
    """Whether each picture is one of a test set, encoded, resized or cropped a little."""
    found = np.zeros(len(hashes), bool)
    for start in range(0, len(hashes), BLOCK):
        for i, j in _near_hashes(hashes[start : start + BLOCK], test_hashes, TAKEN[0]):
            i = i[_gaps(thumbs[start + i], test_thumbs[j]) <= TAKEN[1]]
            found[start + i] = True
    return found


def _near_hashes(hashes, others, bits: int) -> Iterator[tuple[Indices, Indices]]:
    """Indices of hashes and of others that are near, some at a time: there may be very many."""
    hits = np.nonzero(np.bitwise_count(hashes[:, None] ^ others[None]) <= bits)
    for start in range(0, len(hits[0]), HITS):
        i, j = (indices[start : start + HITS] for indices in hits)
        yield i, j


def _gaps(thumbs, others) -> Float[np.ndarray, " m"]:
    """Mean absolute differences of thumbnails from others, which may be single colours."""
    return np.abs(np.subtract(thumbs, others, dtype=np.float32)).mean((1, 2, 3))


# ---------------------------------------------------------------------------- captions


def caption_clusters(captions: Sequence[str]) -> Int[np.ndarray, " n"]:
    """For each caption the index of the first of its cluster, see `CLUSTER`."""
    vectors = _vectors(captions)
    edges = [np.empty((0, 2), np.int64)]
    for i, j, _ in _near(vectors, vectors, CLUSTER):
        edges.append(_spanning(np.stack([i, j], axis=1)))
    return _first_of_each(np.concatenate(edges), len(captions))


def near_captions(
    captions: Sequence[str], test_captions: Sequence[str]
) -> dict[int, tuple[int, float]]:
    """Captions near one of a test set, see `LEAK`: the index of the nearest, and the cosine."""
    vectors = _vectors([*captions, *test_captions])
    mine, theirs = vectors[: len(captions)], vectors[len(captions) :]
    nearest: dict[int, tuple[int, float]] = {}
    for found in _near(mine, theirs, LEAK):
        for i, j, cosine in zip(*map(np.ndarray.tolist, found), strict=True):
            if cosine > nearest.get(i, (0, 0.0))[1]:
                nearest[i] = (j, cosine)
    return nearest


def _vectors(captions: Sequence[str]) -> sparse.csr_matrix:
    """Unit TF-IDF vectors of character 4-grams inside words, rarest first in their columns.

    A caption of one or two characters is its own word, so that no vector is empty.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4), sublinear_tf=True)
    vectors = vectorizer.fit_transform(captions)
    uses = np.bincount(vectors.indices, minlength=vectors.shape[1])
    return vectors[:, np.argsort(uses, kind="stable")].sorted_indices()


def _near(
    one: sparse.csr_matrix, other: sparse.csr_matrix, least: float
) -> Iterator[tuple[Indices, Indices, Float[np.ndarray, " m"]]]:
    """Pairs of rows whose cosine is at least `least`, with it, some at a time. Exact.

    What two such vectors share cannot all lie where either is shorter than `least`: so only the
    rest of each, its rarest features, is looked up, and few pairs are multiplied out (prefix
    filtering, Bayardo et al., "Scaling Up All Pairs Similarity Search", 2007).
    """
    lookup = _prefix(other, least).T.tocsr()
    prefix = _prefix(one, least)
    for start in range(0, one.shape[0], BLOCK):
        candidates = (prefix[start : start + BLOCK] @ lookup).tocoo()
        for first in range(0, candidates.nnz, HITS):
            i = candidates.row[first : first + HITS] + start
            j = candidates.col[first : first + HITS]
            cosines = np.asarray(one[i].multiply(other[j]).sum(1)).ravel()
            keep = cosines >= least
            yield i[keep].astype(np.int64), j[keep].astype(np.int64), cosines[keep]


def _prefix(vectors: sparse.csr_matrix, least: float) -> sparse.csr_matrix:
    """The first entries of each row, until the rest is shorter than `least`."""
    squares = vectors.data**2
    total = np.concatenate([[0.0], np.cumsum(squares)])
    row = np.repeat(np.arange(vectors.shape[0]), np.diff(vectors.indptr))
    rest = total[vectors.indptr[1:]][row] - total[:-1]  # from each entry to the end of its row
    keep = rest >= least**2 - 1e-6
    counts = np.bincount(row[keep], minlength=vectors.shape[0])
    ends = np.concatenate([[0], np.cumsum(counts)])
    ones = np.ones(keep.sum(), np.float32)
    return sparse.csr_matrix((ones, vectors.indices[keep], ends), shape=vectors.shape)


def _spanning(edges: Int[np.ndarray, "m 2"]) -> Int[np.ndarray, "k 2"]:
    """As few edges as connect the same nodes."""
    nodes, indices = np.unique(edges, return_inverse=True)
    first = _first_of_each(indices.reshape(-1, 2), len(nodes))
    inner = first != np.arange(len(nodes))
    return np.stack([nodes[first[inner]], nodes[inner]], axis=1)


def _first_of_each(edges: Int[np.ndarray, "m 2"], count: int) -> Int[np.ndarray, " n"]:
    """Of every node the smallest of its connected component."""
    ones = np.ones(len(edges), np.int8)
    graph = sparse.coo_matrix((ones, (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, component = sparse.csgraph.connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component]
