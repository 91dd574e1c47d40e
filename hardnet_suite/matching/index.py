"""An index of images by their local descriptors: finds images of the same object or place.

Images are ranked by VLAD or bag of words, and the best of them, where asked for, again by the inliers of a
homography ("spatial verification").
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hardnet_suite.data.files import is_file, require_regular, sha256
from hardnet_suite.data.sources import SourceImage, images_of, is_single
from hardnet_suite.errors import UserError
from hardnet_suite.matching.aggregation import InvertedFile, kmeans, load_faiss, vlad
from hardnet_suite.matching.keynet import KeyNetDetector
from hardnet_suite.matching.keypoints import HardNetDetector
from hardnet_suite.matching.nearest import mutual_matches
from hardnet_suite.matching.pair import RATIO, count_places, estimate_geometry
from hardnet_suite.matching.patches import DESCRIPTOR, digest_of, open_descriptor
from hardnet_suite.outputs import write_file
from hardnet_suite.weights.save import in_order

METHODS = ("vlad", "bow")
TOP_K = 1000  # keypoints per image
VERIFIED = 100  # images that are verified
_WORDS = {"vlad": 64, "bow": 4096}
_FEWEST_WORDS = 2
_PER_WORD = 8  # descriptors, at least, where the number of words is not given
_PROGRAM = "hardnet-suite index"
_DETECTION = ("top_k", "upright", "region", "contrast", "channels")  # options that change descriptors
_ARRAYS = {
    "codebook": (np.float32, 2),
    "counts": (np.int64, 1),
    "xy": (np.float32, 2),
    "descriptors": (np.float16, 2),
    "words": (np.int32, 1),
}


@dataclass(frozen=True)
class Hit:
    """An image that a search found.

    Attributes:
        name: of the image, its path as it was given.
        number: its place in the index.
        score: cosine of the aggregated descriptors: 1 for the same image.
        inliers: places with matches that agree with a homography, keypoints at one place counted once; 0
            where none is found, None where not verified.
        file: that it was read from; None where it was none, or the index is of an earlier version.
    """

    name: str
    number: int
    score: float
    inliers: int | None = None
    file: ImageFile | None = None


@dataclass(frozen=True)
class ImageFile:
    """The file that an image of an index was read from.

    Attributes:
        path: absolute.
        sha256: of its content, in hex.
    """

    path: str
    sha256: str

    @classmethod
    def of(cls, source: SourceImage) -> ImageFile | None:
        """The file of an image; None where it is no file of its own, or cannot be read."""
        if source.path is None:
            return None
        try:
            require_regular(source.path)
            return cls(os.path.abspath(source.path), sha256(source.path))
        except OSError:  # told by what opens it
            return None

    def or_moved_to(self, other: ImageFile) -> ImageFile:
        """Itself, or where its contents are not there any more the other file, which has them."""
        try:
            self.require_same()
        except (UserError, OSError):
            return other
        return self

    def require_same(self) -> Path:
        """Its path.

        Raises:
            UserError: it is not there any more, or has another content.
        """
        path = Path(self.path)
        if not is_file(path):
            raise UserError(f"{path} is not there any more")
        if sha256(path) != self.sha256:
            raise UserError(f"{path} has changed since it was indexed")
        return path


class ImageIndex:
    """Images by their local descriptors; made by ``build_index`` or ``load_index``.

    VLAD (Jégou et al., CVPR 2010) adds, for each word of a small codebook, the differences of the image's
    descriptors from it; here with power law, intra-normalisation (Arandjelović and Zisserman, CVPR 2013) and
    a flat index of inner products. Bag of words (Sivic and Zisserman, ICCV 2003) counts words of a large
    codebook, weighted by tf-idf, in an inverted file.

    Args:
        detector: of keypoints and descriptors.
        method: "vlad" or "bow".
        codebook: (K, D) float32, of at least two words: a single one tells no images apart.

    Raises:
        UserError: faiss is not installed.
        ValueError: another method, or a codebook of another shape.
    """

    def __init__(self, detector: HardNetDetector, method: str, codebook: np.ndarray):
        _check_method(method)
        codebook = np.ascontiguousarray(codebook, np.float32)
        if (
            codebook.ndim != 2
            or len(codebook) < _FEWEST_WORDS
            or codebook.shape[1] != detector.descriptorSize()
        ):
            raise ValueError(
                f"expected a codebook (K, {detector.descriptorSize()}) of K at least {_FEWEST_WORDS} words, "
                f"got {codebook.shape}"
            )
        if not np.isfinite(codebook).all():
            raise ValueError("the codebook holds NaN or infinity")
        self.detector, self.method, self.codebook = detector, method, codebook
        self.names: list[str] = []
        self._images: list[_LocalFeatures] = []
        self._nearest_word = load_faiss().IndexFlatL2(codebook.shape[1])
        self._nearest_word.add(codebook)
        self._ranking: Callable[[_LocalFeatures], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def add(self, images: Any, *, failed: list[tuple[str, str]] | None = None) -> int:
        """Adds images; the codebook stays. An image may be added twice, but a name stands for one image.

        That is told by the contents of files: those that have moved are found again once they are added from
        where they are. An image that cannot be read, has no keypoints, or a VLAD of 0, as each of its
        descriptors is a word, is skipped with a warning; if it is the only one, it is an error.

        Args:
            images: as for ``predict``.
            failed: images that are skipped are added to it, as (name, reason).

        Returns:
            How many images were added.

        Raises:
            UserError: no images, a single one that cannot be added, or one of a name that a file of other
                contents has; nothing is added then.
        """
        added = list(_features_of(self.detector, images, failed, self._files()))
        before = len(self)
        self._extend(added, failed)
        return len(self) - before

    def search(
        self, image: Any, *, top: int | None = 10, verify: bool | int = False, name: str | None = None
    ) -> list[Hit]:
        """Images of the index by their similarity to an image, the most similar first.

        Args:
            image: one image, as for ``match_images``.
            top: how many; None: all.
            verify: the best ``VERIFIED`` images, or as many as this says, are ranked anew by the inliers of a
                homography, before all others; equal numbers keep their order.
            name: of the image, for errors.

        Raises:
            UserError: the image cannot be read, has no keypoints, or has a VLAD of 0, as each of its
                descriptors is a word.
            ValueError: a number below 1.
        """
        if top is not None and top < 1:
            raise ValueError(f"expected top of at least 1, or None, got {top}")
        if verify is not False and verify < 1:
            raise ValueError(f"expected verify of at least 1, or a bool, got {verify}")
        query = _described(self.detector, image, name)
        if not self.names:
            return []
        scores = self._scores(query)
        order = np.argsort(-scores, kind="stable")
        hits = [
            Hit(self.names[number], int(number), float(scores[number]), file=self._images[number].file)
            for number in order
        ]
        if verify:
            count = VERIFIED if verify is True else verify
            verified = [
                replace(hit, inliers=_inliers(query, self._images[hit.number])) for hit in hits[:count]
            ]
            hits[:count] = sorted(verified, key=lambda hit: -(hit.inliers or 0))
        return hits[:top]

    def save(self, path: str | Path) -> None:
        """Writes the index: a .safetensors file, which ``load_index`` reads.

        It holds the codebook, the names, and of each keypoint its place, word and descriptor in half
        precision: about 270 kB per image of 1000 keypoints; of the networks of the detector their digests.

        Raises:
            ValueError: the keypoints are neither of SIFT nor of a ``KeyNetDetector``.
            WriteError: the file cannot be written.
        """
        from safetensors.numpy import save

        keypoints = _keypoints_of(self.detector.detector)

        arrays = {
            "codebook": self.codebook,
            "counts": np.array([len(image.words) for image in self._images], np.int64),
            "xy": np.concatenate([np.empty((0, 2), np.float32), *(image.xy for image in self._images)]),
            "descriptors": np.concatenate(
                [
                    np.empty((0, self.codebook.shape[1]), np.float16),
                    *(image.descriptors for image in self._images),
                ]
            ),
            "words": np.concatenate([np.empty(0, np.int32), *(image.words for image in self._images)]),
        }
        metadata = {
            "program": _PROGRAM,
            "method": self.method,
            "names": json.dumps(self.names),
            "files": json.dumps([image.file and astuple(image.file) for image in self._images]),
            "weights": _weights_of(self.detector.model),
            "weights_digest": digest_of(self.detector.model),
            "keypoints": keypoints,
            "detection": json.dumps({key: getattr(self.detector, key) for key in _DETECTION}),
        }
        content = save({key: np.ascontiguousarray(value) for key, value in arrays.items()}, metadata)
        write_file(path, in_order(content))

    def _files(self) -> dict[str, ImageFile]:
        """Name -> file, of the images whose files are known."""
        files: dict[str, ImageFile] = {}
        for name, image in zip(self.names, self._images, strict=True):
            _require_same_file(files, name, image.file)
        return files

    def _extend(
        self, images: Iterable[tuple[str, _LocalFeatures]], failed: list[tuple[str, str]] | None = None
    ) -> None:
        images, files = list(images), self._files()
        for name, image in images:
            _require_same_file(files, name, image.file)
        added = {name: image.file for name, image in images if image.file is not None}
        for name, image in zip(self.names, self._images, strict=True):
            if image.file is not None and name in added:
                image.file = image.file.or_moved_to(added[name])
        for name, image in self._ranked(images, failed):
            self.names.append(name)
            self._images.append(image)
        self._ranking = None

    def _ranked(
        self, images: list[tuple[str, _LocalFeatures]], failed: list[tuple[str, str]] | None
    ) -> list[tuple[str, _LocalFeatures]]:
        """Those that a search can find, with their words; others are skipped as in ``add``."""
        ranked = []
        for name, image in images:
            if image.words is None:
                image.words = self._words(image.descriptors)
                try:
                    if self.method == "vlad":
                        self._vlad(image, name)
                except UserError as error:
                    if len(images) == 1:
                        raise
                    warnings.warn(f"skipped: {error}", stacklevel=4)
                    if failed is not None:
                        failed.append((name, str(error)))
                    continue
            ranked.append((name, image))
        return ranked

    def _words(self, descriptors: np.ndarray) -> np.ndarray:
        """(N,) int32 nearest words."""
        return self._nearest_word.search(descriptors.astype(np.float32), 1)[1][:, 0].astype(np.int32)

    def _scores(self, query: _LocalFeatures) -> np.ndarray:
        """(len(self),) similarities; what they are computed from is made once the images are complete."""
        query.words = self._words(query.descriptors)
        if self._ranking is None:
            self._ranking = (self._rank_by_vlad if self.method == "vlad" else self._rank_by_words)()
        return self._ranking(query)

    def _rank_by_vlad(self) -> Callable[[_LocalFeatures], np.ndarray]:
        index = load_faiss().IndexFlatIP(self.codebook.size)
        for image in self._images:
            index.add(vlad(image.descriptors, image.words, self.codebook)[None])

        def scores(query: _LocalFeatures) -> np.ndarray:
            vector = self._vlad(query, query.name)
            values, numbers = index.search(vector[None], index.ntotal)
            ordered = np.empty(index.ntotal, np.float32)
            ordered[numbers[0]] = values[0]
            return ordered

        return scores

    def _vlad(self, image: _LocalFeatures, name: str) -> np.ndarray:
        vector = vlad(image.descriptors, image.words, self.codebook)
        if not vector.any():
            raise UserError(
                f"{name}: its descriptors are words of the codebook, so that its VLAD is 0; build the index "
                "of more images, or of fewer words"
            )
        return vector

    def _rank_by_words(self) -> Callable[[_LocalFeatures], np.ndarray]:
        inverted = InvertedFile([image.words for image in self._images], len(self.codebook))
        return lambda query: inverted.scores(query.words)


@dataclass(eq=False)
class _LocalFeatures:
    """Of an image: places (N, 2) float32, descriptors (N, D) float16 and words (N,) int32, N at least 1."""

    xy: np.ndarray
    descriptors: np.ndarray
    words: np.ndarray | None = None
    name: str = "the image"
    file: ImageFile | None = None


def build_index(
    images: Any,
    *,
    detector: HardNetDetector | None = None,
    method: str = "vlad",
    words: int | None = None,
    codebook: np.ndarray | None = None,
    seed: int | None = None,
    failed: list[tuple[str, str]] | None = None,
) -> ImageIndex:
    """An index of images.

    Args:
        images: as for ``ImageIndex.add``.
        detector: of keypoints and descriptors; default: ``HardNetDetector(top_k=1000, channels="rgb")``.
        method: "vlad" or "bow", see ``ImageIndex``.
        words: size of the codebook, by k-means of the images' descriptors; at least 2. Default: 64 of VLAD,
            4096 of bag of words, fewer where there are fewer than 8 descriptors per word.
        codebook: (K, D), another one, such as an index's ``codebook``; instead of ``words`` and ``seed``.
        seed: of k-means; default: 0.
        failed: as for ``ImageIndex.add``.

    Raises:
        UserError: no image can be added, fewer descriptors than words, or faiss is not installed.
        ValueError: a value out of range.
    """
    _check_method(method)
    if codebook is not None and (words is not None or seed is not None):
        raise ValueError("words and seed are for k-means: leave them out with a codebook")
    if words is not None and words < _FEWEST_WORDS:
        raise ValueError(f"expected words of at least {_FEWEST_WORDS}, got {words}")
    load_faiss()  # before minutes of describing
    detector = detector or HardNetDetector(top_k=TOP_K, channels="rgb")
    features = list(_features_of(detector, images, failed))
    if not features:
        raise UserError("no image to index: none can be read and has keypoints")
    if codebook is None:
        descriptors = np.concatenate([image.descriptors for _, image in features])
        words = words or max(_FEWEST_WORDS, min(_WORDS[method], len(descriptors) // _PER_WORD))
        codebook = kmeans(descriptors, words, seed or 0)
    index = ImageIndex(detector, method, codebook)
    index._extend(features, failed)
    if not index.names:
        raise UserError("no image to index: each has a VLAD of 0; take more images, or fewer words")
    return index


def load_index(
    path: str | Path,
    *,
    model: nn.Module | str | Path = DESCRIPTOR,
    weights: str | Path | None = None,
    detector: KeyNetDetector | None = None,
    device: str | torch.device | None = None,
    bf16: bool = False,
) -> ImageIndex:
    """Reads what ``ImageIndex.save`` wrote; no code of the file is run.

    The detector has the options that the index was made with, the order of channels in arrays included.

    Args:
        path: the file.
        model: the descriptor that the index was made with, as for ``HardNetDetector``.
        weights: as for ``load_descriptor``.
        detector: of keypoints, that the index was made with; None: SIFT.
        device: as for ``load_descriptor``.
        bf16: describes queries in bfloat16.

    Raises:
        UserError: no such file, not an index, damaged, or made with other weights or keypoints.
    """
    arrays, metadata = _read(Path(path))
    keypoints = _keypoints_of(detector)
    if metadata["keypoints"] != keypoints:
        raise UserError(
            f"{path} was made with keypoints of {metadata['keypoints']}, not of {keypoints}: "
            "load it with the same detector"
        )
    if not isinstance(model, nn.Module):
        model = open_descriptor(model, weights=weights, device=device, bf16=bf16)
    elif weights is not None or device is not None:
        raise ValueError("weights and device are for a model given by its name: a network has its own")
    if metadata["weights_digest"] != digest_of(model):
        raise UserError(
            f"{path} was made with {metadata['weights']} (digest {metadata['weights_digest'][:12]}), "
            f"not with {_weights_of(model)} (digest {digest_of(model)[:12]}): search with the same weights"
        )
    try:
        detection = json.loads(metadata["detection"])
        options = {key: detection[key] for key in _DETECTION}
        if detector is not None:
            del options["contrast"]  # of SIFT
        describer = HardNetDetector(model, detector=detector, bf16=bf16, **options)
        index = ImageIndex(describer, metadata["method"], arrays["codebook"])
        names = json.loads(metadata["names"])
        _check_content(arrays, names)
        files = _files_of(metadata, len(names))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    ends = np.cumsum(arrays["counts"])
    images = []
    for name, file, start, end in zip(names, files, ends - arrays["counts"], ends, strict=True):
        parts = (arrays[key][start:end] for key in ("xy", "descriptors", "words"))
        images.append((name, _LocalFeatures(*parts, file=file)))
    index._extend(images)
    return index


def is_index(path: Path) -> bool:
    """Whether a file is what ``ImageIndex.save`` wrote."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get("program") == _PROGRAM
    except (OSError, SafetensorError):
        return False


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"expected a method of {', '.join(METHODS)}, got {method!r}")


def _features_of(
    detector: HardNetDetector,
    images: Any,
    failed: list[tuple[str, str]] | None,
    files: dict[str, ImageFile] | None = None,
) -> Iterable[tuple[str, _LocalFeatures]]:
    """Name and features of each image; ``files`` are those of the names that an index has."""
    single, files = is_single(images), files or {}
    for source, file in _with_files(images_of(images, detector.channels), files):
        try:
            features = _described(detector, source.open(), source.name)
        except UserError as error:
            if single:
                raise
            warnings.warn(f"skipped: {error}", stacklevel=3)
            if failed is not None:
                failed.append((source.name, str(error)))
            continue
        features.file = file
        yield source.name, features


def _with_files(
    sources: Iterator[SourceImage], files: dict[str, ImageFile]
) -> Iterator[tuple[SourceImage, ImageFile | None]]:
    """Each image with its file, of which the names are checked at once: describing them takes minutes."""
    checked, others = [], iter(())
    for source in sources:
        if source.path is None:  # a frame, which holds its pixels
            others = chain((source,), sources)
            break
        checked.append((source, _require_same_file(files, source.name, ImageFile.of(source))))
    yield from checked
    for source in others:
        yield source, _require_same_file(files, source.name, ImageFile.of(source))


def _require_same_file(files: dict[str, ImageFile], name: str, file: ImageFile | None) -> ImageFile | None:
    """The file of an image of that name, which is put to ``files``.

    Raises:
        UserError: the name is that of another one with other contents.
    """
    if file is None:
        return None
    other = files.setdefault(name, file)
    if other.sha256 != file.sha256:
        what = "has changed" if other.path == file.path else f"is also {other.path}"
        raise UserError(
            f"{name}: the index has another image of that name, as {file.path} {what}: "
            "name images by different paths, such as absolute ones, or build the index anew"
        )
    return file


def _described(detector: HardNetDetector, image: Any, name: str | None) -> _LocalFeatures:
    features = detector.features(image, name=name)
    if not len(features.keypoints):
        raise UserError(f"{features.name} has no keypoints")
    return _LocalFeatures(features.keypoints.xy, features.descriptors.astype(np.float16), name=features.name)


def _inliers(a: _LocalFeatures, b: _LocalFeatures) -> int:
    """Places of two images whose matches agree with a homography."""
    pairs, _ = mutual_matches(a.descriptors, b.descriptors, RATIO)
    points_a, points_b = a.xy[pairs[:, 0]], b.xy[pairs[:, 1]]
    geometry = estimate_geometry(points_a, points_b)
    return 0 if geometry is None else count_places(points_a[geometry.inliers], points_b[geometry.inliers])


def _weights_of(model: nn.Module) -> str:
    return getattr(model, "weights", None) or f"a {type(model).__name__} given as a network"


def _keypoints_of(detector: KeyNetDetector | None) -> str:
    """What finds the keypoints, weights included; ValueError where their digest is not known."""
    if detector is None:
        return "SIFT"
    if not isinstance(detector, KeyNetDetector):
        raise ValueError(
            f"expected keypoints of SIFT or a KeyNetDetector for an index in a file, got a "
            f"{type(detector).__name__}"
        )
    return f"{' and '.join(detector.networks)} (digest {digest_of(detector.networks)})"


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and header of an index, with the types and dimensions that they should have."""
    from safetensors import SafetensorError, safe_open

    try:
        require_regular(path)
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("program") != _PROGRAM:
                raise UserError(f"{path} is not an index of images: expected what hardnet-suite index writes")
            arrays = {key: file.get_tensor(key) for key in file.keys() if key in _ARRAYS}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except SafetensorError:
        raise UserError(f"{path} is damaged, or not an index of images") from None
    for key, (dtype, dimensions) in _ARRAYS.items():
        if key not in arrays or arrays[key].dtype != dtype or arrays[key].ndim != dimensions:
            raise UserError(
                f"{path} is damaged: expected {key} of {np.dtype(dtype)}, {dimensions}-dimensional"
            )
    missing = {"method", "names", "weights", "weights_digest", "keypoints", "detection"} - set(metadata)
    if missing:
        raise UserError(f"{path} is damaged: its header has no {', '.join(sorted(missing))}")
    return arrays, metadata


def _files_of(metadata: dict[str, str], count: int) -> list[ImageFile | None]:
    """The files of an index's images; those of earlier versions have none."""
    rows = json.loads(metadata["files"]) if "files" in metadata else [None] * count
    files = [None if row is None else ImageFile(*row) for row in rows]
    values = (value for file in files if file is not None for value in astuple(file))
    if len(files) != count or not all(isinstance(value, str) for value in values):
        raise ValueError(f"expected a path and a digest of {count} files")
    return files


def _check_content(arrays: dict[str, np.ndarray], names: Any) -> None:
    counts, words = arrays["counts"], arrays["words"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("expected a list of names")
    if len(names) != len(counts) or (counts < 1).any() or (counts > len(words)).any():
        raise ValueError(f"expected keypoints of {len(names)} images")
    total = sum(map(int, counts))  # of Python: no overflow
    if arrays["xy"].shape != (total, 2) or words.shape != (total,):
        raise ValueError(f"expected {total} places and words")
    if arrays["descriptors"].shape != (total, arrays["codebook"].shape[1]):
        raise ValueError(f"expected {total} descriptors as long as the codebook's")
    if total and (words.min() < 0 or words.max() >= len(arrays["codebook"])):
        raise ValueError("words beyond the codebook")
    if not (np.isfinite(arrays["xy"]).all() and np.isfinite(arrays["descriptors"]).all()):
        raise ValueError("places or descriptors hold NaN or infinity")
