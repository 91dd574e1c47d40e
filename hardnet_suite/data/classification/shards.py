"""Classification data in tar files, as WebDataset writes them, with access to any image."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hardnet_suite.data.classes import class_names
from hardnet_suite.data.classification.samples import Samples
from hardnet_suite.data.files import require_regular
from hardnet_suite.data.images import IMAGE_SUFFIXES, open_rgb
from hardnet_suite.errors import UserError

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_MOST_SHARDS = 1_000_000
_LONGEST_LABEL = 20  # bytes
_THREADS = 8  # that read the headers


class ShardImages:
    """The images of shards, each read where it lies in its file.

    ``images[index]`` is the pair of an RGB image and its label, as torchvision's data sets have it. A file is
    open only while an image is read, so that processes and threads may read at once.

    Attributes:
        paths: the shards.
        shard: (N,) int32, the shard of each image.
        start: (N,) int64, where in it its file begins, in bytes.
        size: (N,) int64 bytes.
        labels: (N,) int32.
        keys: names of the images in their shards.
    """

    def __init__(
        self,
        paths: Sequence[str],
        shard: np.ndarray,
        start: np.ndarray,
        size: np.ndarray,
        labels: np.ndarray,
        keys: Sequence[str],
    ):
        self.paths, self.shard, self.start, self.size = tuple(paths), shard, start, size
        self.labels = labels
        self.keys = np.array(keys, np.bytes_) if all(map(str.isascii, keys)) else np.array(keys)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):
        path, size = self.paths[self.shard[index]], int(self.size[index])
        try:
            with open(path, "rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, int(self.start[index]))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from None
        if len(content) != size:
            raise UserError(f"{path}: it was cut short since its images were listed")
        return self._decoded(content, index), int(self.labels[index])

    def _decoded(self, content: bytes, index: int) -> Image.Image:
        return open_rgb(content, self.name(index))

    def name(self, index: int) -> str:
        """The image's shard and key, for people."""
        key = self.keys[index]
        return f"{self.paths[self.shard[index]]}/{key.decode() if isinstance(key, bytes) else key}"


@dataclass
class _Shard:
    """What one tar file holds: an entry per image."""

    keys: list[str]
    starts: list[int]
    sizes: list[int]
    labels: list[int]


def read_shards(pattern: str, classes: Sequence[str] | None = None) -> Samples:
    """Reads which images and labels tar files hold, not the images.

    A sample is the files of one name, up to the first dot after the last slash: KEY.jpg (or another image
    format) and KEY.cls, the label as a number in text; others, such as KEY.json, are left alone. Images are
    read at any place of a shard: training shuffles all of them and resumes exactly. The files should be
    on a disk that reads at any place fast.

    Args:
        pattern: paths of the shards: ``train-{000..099}.tar``, ``{a,b}.tar``, wildcards, or a mixture.
        classes: names in the order of the labels. None: the labels themselves, from 0 on.

    Raises:
        UserError: a shard is missing, compressed, broken or cut short, an image has no label or a label no
            image, or a label is beyond the classes.
    """
    paths = shard_paths(pattern)
    with ThreadPoolExecutor(_THREADS) as pool:
        shards = list(pool.map(_read_shard, paths))
    counts = [len(shard.keys) for shard in shards]
    if not sum(counts):
        raise UserError(f"{pattern}: no image in {len(paths)} shards")
    labels = np.array([label for shard in shards for label in shard.labels], np.int32)
    names = tuple(class_names(classes, "classes")) if classes is not None else None
    if names is None:
        names = tuple(map(str, range(int(labels.max()) + 1)))
    images = ShardImages(
        paths,
        np.repeat(np.arange(len(paths), dtype=np.int32), counts),
        np.array([start for shard in shards for start in shard.starts], np.int64),
        np.array([size for shard in shards for size in shard.sizes], np.int64),
        labels,
        [key for shard in shards for key in shard.keys],
    )
    beyond = np.flatnonzero(labels >= len(names))
    if len(beyond):
        index = int(beyond[0])
        raise UserError(f"{images.name(index)}: label {labels[index]}, but there are {len(names)} classes")
    return Samples(pattern, names, tuple(range(len(images))), tuple(labels.tolist()), images)


def is_shards(text: str) -> bool:
    """Whether a path names shards rather than a folder."""
    return text.endswith(".tar")


def split_shards(pattern: str, split: str) -> str:
    """The pattern of another split's shards beside those of "train": ``val-*.tar`` of ``train-{0..9}.tar``.

    Raises:
        UserError: the name of the shards does not say that they are of "train", or there are no others.
    """
    folder, name = os.path.split(pattern)
    if "train" not in name:
        raise UserError(
            f"{pattern}: the names of the shards do not say train, so those of {split} are not known"
        )
    other = os.path.join(folder, _BRACES.sub("*", name).replace("train", split))
    if not any(glob.glob(path) for path in _expanded(other)):
        raise UserError(f"{pattern}: no shards {other} for {split}")
    return other


def shard_paths(pattern: str) -> list[str]:
    """The files that a pattern names, in its order; those of a wildcard sorted.

    Raises:
        UserError: one is missing, or the pattern names none or too many.
    """
    paths: list[str] = []
    for path in _expanded(pattern):
        if glob.has_magic(path):
            found = sorted(glob.glob(path))
            if not found:
                raise UserError(f"{path}: no such shards")
            paths += found
        else:
            paths.append(path)
        if len(paths) > _MOST_SHARDS:
            raise UserError(f"{pattern}: more than {_MOST_SHARDS} shards")
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{pattern}: no shard {missing[0]}{more}")
    twice = {path for path in paths if paths.count(path) > 1} if len(paths) < 10_000 else set()
    if twice:
        raise UserError(f"{pattern}: {min(twice)} is named twice")
    return paths


def _expanded(pattern: str) -> Iterator[str]:
    """Braces as a shell has them: {000..099} keeps its zeros, {a,b} are words."""
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    first, last, words = found.groups()
    if words is not None:
        parts: Iterator[str] = iter(words.split(","))
    else:
        low, high = int(first), int(last)
        if high < low or high - low >= _MOST_SHARDS:
            raise UserError(f"{pattern}: expected {{FIRST..LAST}} with FIRST up to LAST")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        parts = (str(number).zfill(width) for number in range(low, high + 1))
    for part in parts:
        yield from _expanded(pattern[: found.start()] + part + pattern[found.end() :])


def _read_shard(path: str) -> _Shard:
    try:
        require_regular(path)
        with tarfile.open(path, "r:") as tar:
            return _listed(path, tar)
    except tarfile.ReadError as error:
        what = "is compressed, and images of it could not be read one by one: unpack it"
        if not _is_compressed(path):
            what = f"is no tar file, or a broken one ({error})"
        raise UserError(f"{path} {what}") from None
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _is_compressed(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


def _listed(path: str, tar: tarfile.TarFile) -> _Shard:
    shard = _Shard([], [], [], [])
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    dotted: dict[str, str] = {}  # a.left.jpg belongs to the sample a, as a further file
    length, end = os.path.getsize(path), 0
    for member in tar:
        tar.members = []  # else the whole listing stays in memory
        if not member.isreg():
            end = member.offset_data
            continue
        end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        folder, _, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key, suffix = f"{folder}/{stem}" if folder else stem, f".{suffix.lower()}"
        if member.offset_data + member.size > length:
            raise UserError(f"{path} is cut short in {member.name}")
        if suffix == ".cls":
            if key in labels:
                raise UserError(f"{path}: two labels of {key}")
            labels[key] = _label(path, member, tar)
        elif suffix in IMAGE_SUFFIXES:
            if key in images:
                raise UserError(f"{path}: two images {key}: {images[key][0]} and {member.name}")
            images[key] = member.name, member.offset_data, member.size
        elif suffix.endswith((".cls", *IMAGE_SUFFIXES)):
            dotted.setdefault(key, member.name)
    with open(path, "rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile itself takes it for the end
            raise UserError(f"{path} is cut short: a tar file ends with zeros")
    lone = next((name for key, name in dotted.items() if key not in images), None)
    if lone is not None:
        raise UserError(f"{path}: the name {lone} has several dots: a sample's name ends at its first")
    for kind, one, other in (("image", images, labels), ("label", labels, images)):
        alone = next((key for key in one if key not in other), None)
        if alone is not None:
            wanted = "label (.cls)" if kind == "image" else "image"
            raise UserError(f"{path}: the {kind} of {alone} has no {wanted}")
    for key, (name, start, size) in images.items():
        shard.keys.append(name)
        shard.starts.append(start)
        shard.sizes.append(size)
        shard.labels.append(labels[key])
    return shard


def _label(path: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> int:
    stream = tar.extractfile(member)
    text = b"" if stream is None or member.size > _LONGEST_LABEL else stream.read()
    if not re.fullmatch(rb"\s*\d{1,9}\s*", text):
        raise UserError(f"{path}: {member.name} holds no number of a class")
    return int(text)
