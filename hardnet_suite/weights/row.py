"""What the registry says of one set of weights."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ARCHIVE = re.compile(r"https://web\.archive\.org/web/[^/]+/(?=https://)")
# hosts of many repositories: what stands before OWNER/REPOSITORY in the path
_SHARED_HOSTS = {
    "raw.githubusercontent.com": "",
    "media.githubusercontent.com": "media/",
    "cdn.jsdelivr.net": "gh/",
    "github.com": "",
    "huggingface.co": "",
}


@dataclass(frozen=True)
class Address:
    """One place to download from.

    Hashes belong to the address, not to the row: two hosts may hold the same weights in files whose bytes
    differ.

    Attributes:
        url: an https address.
        sha256_prefix: the first hex digits of the file's SHA-256, if known.
        name: the file's name in the cache, where the address's own name is also another file's.
        git_blob: the SHA-1 under which git stores the file, ``sha1(b"blob SIZE\\0" + bytes)``, if known.
        sha1: the SHA-1 of the file, if known; of a .zip, that of the one file in it.
    """

    url: str
    sha256_prefix: str | None = None
    name: str | None = None
    git_blob: str | None = None
    sha1: str | None = None

    @property
    def file(self) -> str:
        """The file's name in the cache."""
        return self.name or self.url.rsplit("/", 1)[1]

    @property
    def holder(self) -> str:
        """Who keeps this copy: "owner/repository" on a host of many repositories, else the host.

        A capture of the Internet Archive counts as the address that it is of: that there is one is not known.
        """
        host, _, path = _ARCHIVE.sub("", self.url).removeprefix("https://").partition("/")
        if host not in _SHARED_HOSTS:
            return host
        owner, repository = path.removeprefix(_SHARED_HOSTS[host]).split("/")[:2]
        return f"{owner}/{repository.partition('@')[0]}"

    @property
    def pinned(self) -> bool:
        """Whether a hash of the file is known."""
        return any(hash_ is not None for hash_ in (self.sha256_prefix, self.git_blob, self.sha1))


@dataclass(frozen=True)
class WeightsRow:
    """One published set of weights of one model, or one that the package ships.

    Attributes:
        model: a name of ``list_models()``.
        tag: its name among the weights of the model.
        urls: in the order in which they are tried.
        task: "classification", "detection", "segmentation" or "descriptor".
        licence: of the weights.
        metric: what the authors report; empty where they report nothing.
        source: the repository or config the weights come from.
        base_only: a pretrained trunk, without the heads.
        shipped: the file in the package's ``weights/shipped``, in place of ``urls``.
        sha256: of the shipped file.
        classes: names in the order of the labels, where they differ from the model's usual ones.
        no_hash: why no hash of the file is known; empty where one is.
        layout: the program whose network the weights belong to, a name of ``layouts.LAYOUTS``; empty for the
            authors' and the suite's own files, which are told by their keys.
        no_mirror: why no copy kept by somebody else is known; empty where one is.
        saw_validation: whether the data's validation split trained the weights too.
    """

    model: str
    tag: str
    urls: tuple[Address, ...]
    task: str
    licence: str
    metric: str
    source: str
    base_only: bool = False
    shipped: str | None = None
    sha256: str | None = None
    classes: tuple[str, ...] = ()
    no_hash: str = ""
    layout: str = ""
    no_mirror: str = ""
    saw_validation: bool = False

    @property
    def pinned(self) -> bool:
        """Whether a hash of the file is known."""
        return self.sha256 is not None or any(address.pinned for address in self.urls)

    @property
    def num_classes(self) -> int:
        """Number of classes of the weights; 0 for a patch descriptor."""
        from hardnet_suite.networks import find_arch

        return len(self.classes) or getattr(find_arch(self.model), "num_classes", 0)

    @property
    def mirrored(self) -> bool:
        """Whether copies are kept by more than one holder."""
        return len({address.holder for address in self.urls}) > 1

    def is_file(self, sha256: str, git_blob: str, sha1: str) -> bool:
        """Whether a file has a hash of this row.

        Args:
            sha256: SHA-256 of the file, in hex.
            git_blob: SHA-1 under which git stores it.
            sha1: SHA-1 of the file, or of the one file in it.
        """
        if self.sha256 is not None and self.sha256 == sha256:
            return True
        return any(
            (address.sha256_prefix is not None and sha256.startswith(address.sha256_prefix))
            or (address.git_blob is not None and address.git_blob == git_blob)
            or (address.sha1 is not None and address.sha1 == sha1)
            for address in self.urls
        )

    @property
    def file(self) -> str:
        """The name under which the file is found or put by hand: that of the first address."""
        return self.shipped or self.urls[0].file
