"""Classification data in tar files, as WebDataset writes them, with access to any image."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hardnet_suite.data.classes import class_names
from hardnet_suite.data.classification.samples import NamedImages, Samples
from hardnet_suite.data.images import IMAGE_SUFFIXES, open_rgb
from hardnet_suite.data.report import counted
from hardnet_suite.data.tar_files import (
    TarMember,
    is_compressed_tar,
    is_tar,
    read_image_member,
    read_member,
    split_braces,
    tar_members,
    tar_paths,
)
from hardnet_suite.errors import UserError

_LONGEST_LABEL = 20  # bytes
_THREADS = 8  # that read the headers
_MOST_CLASSES = 1_000_000  # where the labels alone tell how many


class ShardImages(NamedImages):
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
        member = TarMember(self._key(index), int(self.start[index]), int(self.size[index]))
        content = read_image_member(self.paths[self.shard[index]], member)
        return self._decoded(content, index), int(self.labels[index])

    def _decoded(self, content: bytes, index: int) -> Image.Image:
        return open_rgb(content, self.name(index))

    def name(self, index: int) -> str:
        """The image's shard and path there, as ``predict`` names it."""
        return f"{self.paths[self.shard[index]]}/{self._key(index)}"

    def find(self, name: str) -> int:
        for shard, path in enumerate(self.paths):
            if not name.startswith(f"{path}/"):
                continue
            key = name.removeprefix(f"{path}/")
            first, end = np.searchsorted(self.shard, (shard, shard + 1))
            wanted = key if self.keys.dtype.kind == "U" else key.encode("utf-8", "surrogateescape")
            found = np.flatnonzero(self.keys[first:end] == wanted)
            if len(found):
                return int(first + found[0])
        raise KeyError(name)

    def _key(self, index) -> str:
        key = self.keys[index]
        return key.decode() if isinstance(key, bytes) else str(key)


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
        classes: names in the order of the labels. None: the labels themselves, from 0 on, up to a million.

    Raises:
        UserError: a shard is missing, compressed, broken or cut short, an image has no label or a label no
            image, or a label is beyond the classes.
    """
    paths = tar_paths(pattern)
    with ThreadPoolExecutor(_THREADS) as pool:
        shards = list(pool.map(_read_shard, paths))
    counts = [len(shard.keys) for shard in shards]
    if not sum(counts):
        raise UserError(f"{pattern}: no image in {counted(len(paths), 'shard')}")
    labels = np.array([label for shard in shards for label in shard.labels], np.int32)
    names = tuple(class_names(classes, "classes")) if classes is not None else None
    images = ShardImages(
        paths,
        np.repeat(np.arange(len(paths), dtype=np.int32), counts),
        np.array([start for shard in shards for start in shard.starts], np.int64),
        np.array([size for shard in shards for size in shard.sizes], np.int64),
        labels,
        [key for shard in shards for key in shard.keys],
    )
    most = _MOST_CLASSES if names is None else len(names)
    beyond = np.flatnonzero(labels >= most)
    if len(beyond):
        index = int(beyond[0])
        reason = f"expected one below {most:,}"
        if names is not None:
            reason = f"but there are {counted(most, 'class')}"
        raise UserError(f"{images.name(index)}: label {labels[index]}, {reason}")
    if names is None:
        names = tuple(map(str, range(int(labels.max()) + 1)))
    return Samples(pattern, names, tuple(range(len(images))), tuple(labels.tolist()), images)


def is_shards(text: str) -> bool:
    """Whether a path names shards, compressed ones included, rather than a folder."""
    return is_tar(text) and not os.path.isdir(text)


def split_shards(pattern: str, split: str) -> str:
    """The pattern of another split's shards beside those of "train": ``val-*.tar`` of ``train-{0..9}.tar``.

    Args:
        pattern: of the shards of training, whose file names say ``train`` outside of braces and wildcards.
        split: the word in place of ``train``.

    Raises:
        UserError: the names do not say that they are of "train", there are no others, or some of these are of
            training as well.
    """
    if is_compressed_tar(pattern):
        raise UserError(
            f"{pattern}: compressed shards cannot be read image by image, and are not supported: unpack them"
        )
    parts = split_braces(pattern)
    last = max((at for at, (text, braces) in enumerate(parts) if not braces and "/" in text), default=0)
    folder, slash, first = parts[last][0].rpartition("/")
    names = [(first, False), *parts[last + 1 :]]
    looked_for = (
        f"{pattern}: the shards of {split} are looked for under the name of those of training with "
        f"{split} in place of train"
    )
    for text, braces in names:
        if braces and ("/" in text or "train" in text):
            raise UserError(f"{looked_for}: name folders and train outside of the braces {text}")
    if not any("train" in text for text, braces in names if not braces):
        raise UserError(f"{looked_for}, and these do not say train: rename them, such as train-000.tar")
    before = "".join(text for text, _ in parts[:last])
    name = "".join("*" if braces else text.replace("train", split) for text, braces in names)
    other = f"{before}{folder}{slash}{name}"
    try:
        paths = tar_paths(other)
    except UserError:
        raise UserError(f"{pattern}: no shards {other} for {split}") from None
    _require_apart(pattern, other, split, paths)
    return other


def _require_apart(pattern: str, other: str, split: str, paths: Sequence[str]) -> None:
    """UserError where a shard of training is one of another split, too."""
    try:
        training = set(map(os.path.realpath, tar_paths(pattern)))
    except UserError:
        return  # those of training are missing: nothing is trained then
    shared = next((path for path in paths if os.path.realpath(path) in training), None)
    if shared is not None:
        raise UserError(f"{pattern}: {other}, the shards of {split}, include {shared}, which is of training")


def _read_shard(path: str) -> _Shard:
    shard = _Shard([], [], [], [])
    images: dict[str, TarMember] = {}
    labels: dict[str, int] = {}
    dotted: dict[str, str] = {}  # a.left.jpg belongs to the sample a, as a further file
    for member in tar_members(path):
        folder, _, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key, suffix = f"{folder}/{stem}" if folder else stem, f".{suffix.lower()}"
        if suffix == ".cls":
            if key in labels:
                raise UserError(f"{path}: two labels of {key}")
            labels[key] = _label(path, member)
        elif suffix in IMAGE_SUFFIXES:
            if key in images:
                raise UserError(f"{path}: two images {key}: {images[key].name} and {member.name}")
            images[key] = member
        elif suffix.endswith((".cls", *IMAGE_SUFFIXES)):
            dotted.setdefault(key, member.name)
    lone = next((name for key, name in dotted.items() if key not in images), None)
    if lone is not None:
        raise UserError(f"{path}: the name {lone} has several dots: a sample's name ends at its first")
    for kind, one, other in (("image", images, labels), ("label", labels, images)):
        alone = next((key for key in one if key not in other), None)
        if alone is not None:
            wanted = "label (.cls)" if kind == "image" else "image"
            raise UserError(f"{path}: the {kind} of {alone} has no {wanted}")
    for key, member in images.items():
        shard.keys.append(member.name)
        shard.starts.append(member.start)
        shard.sizes.append(member.size)
        shard.labels.append(labels[key])
    return shard


def _label(path: str, member: TarMember) -> int:
    text = b"" if member.size > _LONGEST_LABEL else read_member(path, member.start, member.size)
    if not re.fullmatch(rb"\s*\d{1,9}\s*", text):
        raise UserError(f"{path}: {member.name} holds no number of a class")
    return int(text)
