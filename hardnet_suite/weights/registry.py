"""Where the published weights lie, what they reach and under which licence: one row a file."""

from __future__ import annotations

from dataclasses import dataclass, replace


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
    """

    url: str
    sha256_prefix: str | None = None
    name: str | None = None
    git_blob: str | None = None

    @property
    def file(self) -> str:
        """The file's name in the cache."""
        return self.name or self.url.rsplit("/", 1)[1]

    @property
    def pinned(self) -> bool:
        """Whether a hash of the file is known."""
        return self.sha256_prefix is not None or self.git_blob is not None


@dataclass(frozen=True)
class WeightsRow:
    """One published set of weights of one model, or one that the package brings along.

    ``urls`` stand in the order in which they are tried. ``metric`` is what the authors report, empty where
    they report nothing. ``base_only`` marks files of a pretrained trunk, without the heads. ``shipped``: the
    file in the package's ``weights/shipped``, in place of ``urls``, with its ``sha256``.
    ``classes``: their names in order, where they are others than the model's usual ones.
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

    @property
    def file(self) -> str:
        """The name under which a person finds the file or puts it by hand: that of the first address."""
        return self.shipped or self.urls[0].file


_HOST = "https://ping-chao.com/hardnet"
_ARCHIVE = "https://web.archive.org/web/2023id_"  # the bytes as they were, of the capture nearest to 2023
_RAW = "https://raw.githubusercontent.com/PingoLH"
_MIRROR = "https://cdn.jsdelivr.net/gh"  # of files in git trees, up to 20 MB
_CLASSIFIERS = "https://github.com/PingoLH/Pytorch-HarDNet"
_SSD = "https://github.com/PingoLH/PytorchSSD-HarDNet"
_FCHARDNET = "https://github.com/PingoLH/FCHarDNet"
_CENTERNET = "https://github.com/PingoLH/CenterNet-HarDNet"
_DESCRIPTOR = "https://github.com/DagnyT/hardnet"


def _published(file: str, *others: Address, sha256_prefix: str | None = None) -> tuple[Address, ...]:
    """A file of the authors' host: there, elsewhere, and last what the Internet Archive may have kept."""
    own = Address(f"{_HOST}/{file}", sha256_prefix)
    return (own, *others, replace(own, url=f"{_ARCHIVE}/{own.url}"))


def _descriptor(tag: str, path: str, model: str = "hardnet_descriptor") -> WeightsRow:
    """A file of the patch descriptor, HardNet of NIPS 2017: another network than HarDNet."""
    return WeightsRow(
        model=model,
        tag=tag,
        urls=(
            Address(f"https://raw.githubusercontent.com/DagnyT/hardnet/master/pretrained/{path}"),
            Address(f"{_MIRROR}/DagnyT/hardnet@master/pretrained/{path}"),
        ),
        task="descriptor",
        licence="MIT",
        metric="",
        source=_DESCRIPTOR,
    )


ROWS: tuple[WeightsRow, ...] = (
    WeightsRow(
        model="hardnet39ds",
        tag="published",
        urls=_published(
            "hardnet39ds-0e6c6fa9.pth",
            Address(f"{_RAW}/Pytorch-HarDNet/master/hardnet39ds.pth"),
            Address(f"{_MIRROR}/PingoLH/Pytorch-HarDNet@master/hardnet39ds.pth"),
            sha256_prefix="0e6c6fa9",
        ),
        task="classification",
        licence="MIT",
        metric="ImageNet top-1 72.1",
        source=_CLASSIFIERS,
    ),
    WeightsRow(
        model="hardnet68ds",
        tag="published",
        urls=_published(
            "hardnet68ds-632474d2.pth",
            Address(f"{_RAW}/Pytorch-HarDNet/master/hardnet68ds.pth"),
            Address(f"{_MIRROR}/PingoLH/Pytorch-HarDNet@master/hardnet68ds.pth"),
            sha256_prefix="632474d2",
        ),
        task="classification",
        licence="MIT",
        metric="ImageNet top-1 74.3",
        source=_CLASSIFIERS,
    ),
    WeightsRow(
        model="hardnet68",
        tag="published",
        urls=_published(
            "hardnet68-5d684880.pth",
            Address(f"{_RAW}/Pytorch-HarDNet/master/hardnet68.pth"),
            sha256_prefix="5d684880",
        ),
        task="classification",
        licence="MIT",
        metric="ImageNet top-1 76.5",
        source=_CLASSIFIERS,
    ),
    WeightsRow(
        model="hardnet85",
        tag="published",
        urls=_published(
            "hardnet85-a28faa00.pth",
            Address(
                "https://drive.usercontent.google.com/download"
                "?id=1I-qbZtpVlWbRyz1c3lT7rg2IqxCl28at&export=download&confirm=t",
                name="hardnet85.pth",
            ),
            sha256_prefix="a28faa00",
        ),
        task="classification",
        licence="MIT",
        metric="ImageNet top-1 78.0",
        source=_CLASSIFIERS,
    ),
    WeightsRow(
        model="ssd512_hardnet68",
        tag="published",
        urls=_published("SSD512_HarDNet68_COCO.pth"),
        task="detection",
        licence="MIT",
        metric="COCO test-dev mAP 31.7",
        source=_SSD,
    ),
    WeightsRow(
        model="ssd512_hardnet68",
        tag="base",
        urls=_published(
            "hardnet68_base_bridge.pth",
            Address(f"{_RAW}/PytorchSSD-HarDNet/master/weights/hardnet68_base_bridge.pth"),
        ),
        task="detection",
        licence="MIT",
        metric="",
        source=_SSD,
        base_only=True,
    ),
    WeightsRow(
        model="ssd512_hardnet85",
        tag="published",
        urls=_published("SSD512_HarDNet85_COCO.pth"),
        task="detection",
        licence="MIT",
        metric="COCO test-dev mAP 35.1",
        source=_SSD,
    ),
    WeightsRow(
        model="ssd512_hardnet85",
        tag="base",
        urls=_published(
            "hardnet85_base.pth",
            Address(f"{_RAW}/PytorchSSD-HarDNet/master/weights/hardnet85_base.pth"),
        ),
        task="detection",
        licence="MIT",
        metric="",
        source=_SSD,
        base_only=True,
    ),
    WeightsRow(
        model="centernet_hardnet85",
        tag="published",
        urls=_published("centernet_hardnet85_coco.pth"),
        task="detection",
        licence="MIT",
        metric="COCO test-dev mAP 44.3",
        source=_CENTERNET,
    ),
    WeightsRow(
        model="centernet_hardnet85",
        tag="published_608",
        urls=_published("centernet_hardnet85_coco_608.pth"),
        task="detection",
        licence="MIT",
        metric="COCO test-dev mAP 45.3 at 608 pixels",
        source=_CENTERNET,
    ),
    WeightsRow(
        model="centernet_hardnet85",
        tag="base",
        urls=(
            Address(
                f"{_RAW}/CenterNet-HarDNet/master/src/hardnet85_base.pth",
                name="centernet_hardnet85_base.pth",
            ),
        ),
        task="detection",
        licence="MIT",
        metric="",
        source=_CENTERNET,
        base_only=True,
    ),
    WeightsRow(
        model="centernet_hardnet68",
        tag="base",
        urls=(
            Address(
                f"{_RAW}/CenterNet-HarDNet/master/src/hardnet68_base.pth",
                name="centernet_hardnet68_base.pth",
            ),
        ),
        task="detection",
        licence="MIT",
        metric="",
        source=_CENTERNET,
        base_only=True,
    ),
    WeightsRow(
        model="fchardnet70",
        tag="published",
        urls=_published("hardnet70_cityscapes_model.pkl"),
        task="segmentation",
        licence="MIT",
        metric="Cityscapes val mIoU 77.7",
        source=_FCHARDNET,
    ),
    WeightsRow(
        model="fchardnet70",
        tag="published_2",
        urls=_published("hardnet70_cityscapes_model_2.pkl"),
        task="segmentation",
        licence="MIT",
        metric="",
        source=_FCHARDNET,
    ),
    WeightsRow(
        model="fchardnet70",
        tag="base",
        urls=(
            Address(f"{_RAW}/FCHarDNet/master/weights/hardnet_petite_base.pth"),
            Address(f"{_MIRROR}/PingoLH/FCHarDNet@master/weights/hardnet_petite_base.pth"),
        ),
        task="segmentation",
        licence="MIT",
        metric="",
        source=_FCHARDNET,
        base_only=True,
    ),
    _descriptor("published", "pretrained_all_datasets/HardNet++.pth"),
    _descriptor("liberty", "train_liberty/checkpoint_liberty_no_aug.pth"),
    _descriptor("liberty_aug", "train_liberty_with_aug/checkpoint_liberty_with_aug.pth"),
    _descriptor("notredame", "train_notredame/checkpoint_notredame_no_aug.pth"),
    _descriptor("notredame_aug", "train_notredame_with_aug/checkpoint_notredame_with_aug.pth"),
    _descriptor("yosemite", "train_yosemite/checkpoint_yosemite_no_aug.pth"),
    _descriptor("yosemite_aug", "train_yosemite_with_aug/checkpoint_yosemite_with_aug.pth"),
    _descriptor("published", "3rd_party/HardNetPS/HardNetPS.pth", model="hardnet_descriptor_ps"),
    # trained by ourselves, in the package: docs/experiments.md
    WeightsRow(
        model="ssd320_hardnet39ds",
        tag="bccd",
        urls=(),
        task="detection",
        licence="MIT",
        metric="BCCD test AP50 0.891",
        source="configs/ssd320_hardnet39ds_bccd.py",
        shipped="ssd320_hardnet39ds_bccd.safetensors",
        sha256="5a9dc433e8d98e2b4cf247d6090eddf0089190b7718e062e6602695aa9b6106f",
        classes=("RBC", "WBC", "Platelets"),
    ),
    WeightsRow(
        model="fchardnet70",
        tag="camvid",
        urls=(),
        task="segmentation",
        licence="CC BY-NC, as CamVid, which they were trained on",
        metric="CamVid val mIoU 72.7",
        source="configs/fchardnet70_camvid_finetune.py",
        shipped="fchardnet70_camvid.safetensors",
        sha256="ebb1d67a68dba549d447b124e40ec4c3f406fa4839da34d2e826aae7641a804a",
        classes=(
            "Sky",
            "Building",
            "Pole",
            "Road",
            "Pavement",
            "Tree",
            "SignSymbol",
            "Fence",
            "Car",
            "Pedestrian",
            "Bicyclist",
        ),
    ),
    WeightsRow(
        model="hardnet39ds",
        tag="tiny_imagenet10",
        urls=(),
        task="classification",
        licence="non-commercial research, as ImageNet, which they were trained on",
        metric="Tiny-ImageNet, ten classes, held-out top-1 88.4",
        source="configs/hardnet39ds_tiny_imagenet10.py",
        shipped="hardnet39ds_tiny_imagenet10.safetensors",
        sha256="c7875bc94769cd7e3df08dd651d88e54e667589105eaab5f17d9d0db784aceba",
        classes=(
            "n01443537",
            "n02099601",
            "n02123045",
            "n02504458",
            "n02917067",
            "n03100240",
            "n03662601",
            "n04146614",
            "n07753592",
            "n09246464",
        ),
    ),
)


def find(model: str, tag: str = "published") -> WeightsRow:
    """The row of ``model`` under ``tag``; ValueError, with what there is, for an unknown model or tag."""
    tags = {row.tag: row for row in ROWS if row.model == model}
    if not tags:
        models = ", ".join(dict.fromkeys(row.model for row in ROWS))
        raise ValueError(f"no published weights for model {model!r}; there are weights for: {models}")
    if tag not in tags:
        raise ValueError(f"no weights tagged {tag!r} for {model}; allowed tags: {', '.join(tags)}")
    return tags[tag]
