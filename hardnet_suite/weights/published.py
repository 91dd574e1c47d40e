"""Where the published weights lie, what they score and under which licence: one row per file."""

from __future__ import annotations

import re
from dataclasses import replace

from hardnet_suite.weights.row import Address, WeightsRow

_HOST = "https://ping-chao.com/hardnet"
_ARCHIVE = "https://web.archive.org/web/2023id_"  # the bytes as they were, of the capture nearest to 2023
_CLASSIFIERS = "https://github.com/PingoLH/Pytorch-HarDNet"
_SSD = "https://github.com/PingoLH/PytorchSSD-HarDNet"
_FCHARDNET = "https://github.com/PingoLH/FCHarDNet"
_CENTERNET = "https://github.com/PingoLH/CenterNet-HarDNet"
_PYTORCHCV = "https://github.com/osmr/pytorchcv"
_PADDLECLAS = "https://github.com/PaddlePaddle/PaddleClas"
_NO_HASH = "the authors publish none, and no copy in a git repository is known"
_ONE_HOST = "it is on the authors' host alone, apart from a possible capture of the Internet Archive"
_DRIVE_ONLY = "it is on the authors' Google Drive alone"
_PADDLE_ONLY = "it is on Paddle's host alone, apart from a possible capture of the Internet Archive"
_DESCRIPTOR = "https://github.com/DagnyT/hardnet"
_KORNIA = "https://huggingface.co/kornia/hardnet"
_PADDLESEG = "https://github.com/PaddlePaddle/PaddleSeg"
_PADDLEDETECTION = "https://github.com/PaddlePaddle/PaddleDetection"
_MSEG = "https://github.com/james128333/HarDNet-MSEG"
_STREETS = "https://github.com/sithu31296/semantic-segmentation"
_STM32 = "https://github.com/STMicroelectronics/stm32ai-modelzoo"
# forks of DagnyT/hardnet, by their last commits: the second lacks what was added after it
_DESCRIPTOR_FORKS = (
    "deep-learning-20/hardnet@5320ce948702e9232c2927efa81685889105a25f",
    "keeeeenw/hardnet@f3b5df4d51e7f3b8ad9536706a09903964b053ad",
)
# the last commit of DagnyT/hardnet, and of its forks, with the files that were deleted later
_BEFORE_DELETION = "98e55b37f07f52337e846d4f99aedd0263a4a764"


def _published(file: str, *others: Address, sha256_prefix: str | None = None) -> tuple[Address, ...]:
    """A file of the authors' host: there, elsewhere, and last what the Internet Archive may have kept."""
    own = Address(f"{_HOST}/{file}", sha256_prefix)
    return (own, *others, replace(own, url=f"{_ARCHIVE}/{own.url}"))


def _blob(blob: str, *places: str, small: bool = False, name: str | None = None) -> tuple[Address, ...]:
    """One file in several git repositories, byte for byte the same.

    Args:
        blob: its git SHA-1.
        places: "owner/repository@commit-or-branch:path". "HEAD" is the default branch.
        small: up to 20 MB, which jsDelivr serves too; it follows GitHub for the first place.
        name: as of ``Address``.
    """
    parts = [re.fullmatch(r"([^@]+)@([^:]+):(.+)", place).groups() for place in places]
    urls = [f"https://raw.githubusercontent.com/{repo}/{ref}/{path}" for repo, ref, path in parts]
    if small:
        urls.insert(1, "https://cdn.jsdelivr.net/gh/{}@{}/{}".format(*parts[0]))
    return tuple(Address(url, name=name, git_blob=blob) for url in urls)


def _pointer(sha256: str, repository: str, commit: str, path: str) -> tuple[Address, Address]:
    """A file that a repository on GitHub keeps by Git LFS, whose pointer names the file's SHA-256."""
    return (
        Address(f"https://media.githubusercontent.com/media/{repository}/{commit}/{path}", sha256),
        Address(f"https://github.com/{repository}/raw/{commit}/{path}", sha256),
    )


def _drive(file: str, name: str) -> Address:
    """A file of Google Drive by its id, and its name in the cache."""
    url = f"https://drive.usercontent.google.com/download?id={file}&export=download&confirm=t"
    return Address(url, name=name)


def _archived(own: Address) -> tuple[Address, Address]:
    """An address, and what the Internet Archive may have kept of it."""
    return own, replace(own, name=own.file, url=f"{_ARCHIVE}/{own.url}")


# of the same ImageNet training: for SSD and RFB Net, which have one trunk
_SSD_BASES = {
    "hardnet68": _published(
        "hardnet68_base_bridge.pth",
        *_blob(
            "e1c5068f95b680e0dbd2dba7fbcf9bfa76eb9d80",
            "PingoLH/PytorchSSD-HarDNet@master:weights/hardnet68_base_bridge.pth",
        ),
    ),
    "hardnet85": _published(
        "hardnet85_base.pth",
        *_blob(
            "5fcc95ce628fba75994a83c40da1e92c118bd27a",
            "PingoLH/PytorchSSD-HarDNet@master:weights/hardnet85_base.pth",
        ),
    ),
}


def _ssd(model: str, file: str, metric: str) -> tuple[WeightsRow, WeightsRow]:
    """A detector of the authors' SSD program, and the trunk that it starts from."""
    whole = WeightsRow(
        model=model,
        tag="published",
        urls=_published(file),
        task="detection",
        licence="MIT",
        metric=metric,
        source=_SSD,
        no_hash=_NO_HASH,
        no_mirror=_ONE_HOST,
    )
    urls = _SSD_BASES[model.partition("_")[2]]
    return whole, replace(whole, tag="base", urls=urls, metric="", no_hash="", no_mirror="", base_only=True)


def _classifier_blob(blob: str, file: str, *more: str, small: bool = False) -> tuple[Address, ...]:
    """A classifier in the authors' repository and its forks."""
    forks = (f"{owner}/Pytorch-HarDNet@HEAD:{file}" for owner in ("AK391", "GibranBenitez"))
    return _blob(blob, f"PingoLH/Pytorch-HarDNet@master:{file}", *forks, *more, small=small)


def _pytorchcv(model: str, error: str, sha1: str, release: str, metric: str) -> WeightsRow:
    """A file of pytorchcv, which trained all but hardnet68 anew; the SHA-1 is of the file in the .zip."""
    file = f"{model}-{error}-{sha1[:8]}.pth.zip"
    own = Address(f"https://github.com/osmr/imgclsmob/releases/download/{release}/{file}", sha1=sha1)
    return WeightsRow(
        model=model,
        tag="pytorchcv",
        urls=_archived(own),
        task="classification",
        licence="MIT",
        metric=metric,
        source=_PYTORCHCV,
        layout="pytorchcv",
        no_mirror="it is in the releases of osmr/imgclsmob alone, apart from a possible archived capture",
    )


def _paddleclas(model: str, file: str, metric: str) -> WeightsRow:
    """A file of PaddleClas, whose bytes nobody publishes a hash of."""
    own = Address(f"https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/{file}")
    return WeightsRow(
        model=model,
        tag="paddleclas",
        urls=_archived(own),
        task="classification",
        licence="Apache-2.0",
        metric=metric,
        source=_PADDLECLAS,
        no_hash="PaddleClas publishes none",
        layout="paddleclas",
        no_mirror=_PADDLE_ONLY,
    )


def _descriptor(
    tag: str,
    path: str,
    blob: str,
    *mirrors: str,
    model: str = "hardnet_descriptor",
    deleted: bool = False,
    forks: int = 2,
    others: tuple[Address, ...] = (),
) -> WeightsRow:
    """A file of the patch descriptor, HardNet of NIPS 2017: another network than HarDNet.

    Args:
        tag: of the row.
        path: below the folder of pretrained weights.
        blob: its git SHA-1.
        mirrors: as ``places`` of ``_blob``.
        model: whose weights.
        deleted: from the repository and its forks, so that an earlier commit is asked for.
        forks: how many of the forks have the file.
        others: addresses that are not in a git repository, which come last.
    """
    repositories = ("DagnyT/hardnet@master", *_DESCRIPTOR_FORKS[:forks])
    if deleted:
        repositories = [f"{each.partition('@')[0]}@{_BEFORE_DELETION}" for each in repositories]
    own, *copies = (f"{each}:pretrained/{path}" for each in repositories)
    return WeightsRow(
        model=model,
        tag=tag,
        urls=_blob(blob, own, *mirrors, *copies, small=True) + others,
        task="descriptor",
        licence="MIT",
        metric="",
        source=_DESCRIPTOR,
    )


PUBLISHED: tuple[WeightsRow, ...] = (
    WeightsRow(
        model="hardnet39ds",
        tag="published",
        urls=_published(
            "hardnet39ds-0e6c6fa9.pth",
            *_classifier_blob("5b99f2587b2f28687aef03f8cf1c00dbb7c73294", "hardnet39ds.pth", small=True),
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
            *_classifier_blob("f036deac5ad828a7838dc8101cd66112bcb55ec0", "hardnet68ds.pth", small=True),
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
            *_classifier_blob(
                "1cf247ba4935866c16d0f02c886797f860fb1366",
                "hardnet68.pth",
                "CV51GO/HarDNet_Megengine@HEAD:official_HarDNet/hardnet68.pth",
            ),
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
    _pytorchcv(
        "hardnet39ds",
        "0881",
        "ea47fc939a130a70c5fa3326c3af6ba049a99f92",
        "v0.0.485",
        "ImageNet top-1 73.2",
    ),
    _pytorchcv(
        "hardnet68ds",
        "0756",
        "e0da07508c1eb92fee49df42243836892fe2f4c8",
        "v0.0.487",
        "ImageNet top-1 75.5",
    ),
    _pytorchcv(  # the authors' weights under pytorchcv's keys; its program computes with ReLU in the blocks
        "hardnet68",
        "0699",
        "2e207f79a1995f5f30d5b9fca3391bb8e7b8594f",
        "v0.0.435",
        "ImageNet top-5 93.0",
    ),
    _pytorchcv(
        "hardnet85",
        "0586",
        "39d80e9361844e8ba02b08e93a7440eac14d2eda",
        "v0.0.495",
        "ImageNet top-1 78.0",
    ),
    WeightsRow(
        model="hardnet39ds",
        tag="stm32ai",
        urls=_pointer(
            "d716332e54717baf36141f5d678f017f50242cc711f2e8bca8ce51a37868dc2a",
            "STMicroelectronics/stm32ai-modelzoo",
            "7f3764d58ef8c7bca36116c4d6c12434d2682af7",
            "image_classification/hardnet_pt/Public_pretrainedmodel_public_dataset/Imagenet/hardnet39ds_pt_224/"
            "hardnet39ds_pt_224.onnx",
        ),
        task="classification",
        licence="Apache-2.0",
        metric="ImageNet top-1 74.38",
        source=_STM32,
        layout="onnx",
        no_mirror="it is in STMicroelectronics' repository alone",
    ),
    _paddleclas("hardnet39ds", "HarDNet39_ds_pretrained.pdparams", "ImageNet top-1 71.3"),
    _paddleclas("hardnet68ds", "HarDNet68_ds_pretrained.pdparams", "ImageNet top-1 73.6"),
    _paddleclas("hardnet68", "HarDNet68_pretrained.pdparams", "ImageNet top-1 75.5"),
    _paddleclas("hardnet85", "HarDNet85_pretrained.pdparams", "ImageNet top-1 77.4"),
    *_ssd("ssd512_hardnet68", "SSD512_HarDNet68_COCO.pth", "COCO test-dev mAP 31.7"),
    *_ssd("ssd512_hardnet85", "SSD512_HarDNet85_COCO.pth", "COCO test-dev mAP 35.1"),
    *_ssd("rfb512_hardnet68", "RFB512_HarDNet68_COCO.pth", "COCO test-dev mAP 33.9"),
    *_ssd("rfb512_hardnet85", "RFB512_HarDNet85_COCO.pth", "COCO test-dev mAP 36.8"),
    WeightsRow(
        model="centernet_hardnet85",
        tag="published",
        urls=_published("centernet_hardnet85_coco.pth"),
        task="detection",
        licence="MIT",
        metric="COCO test-dev mAP 44.3",
        source=_CENTERNET,
        no_hash=_NO_HASH,
        no_mirror=_ONE_HOST,
    ),
    WeightsRow(
        model="centernet_hardnet85",
        tag="published_608",
        urls=_published("centernet_hardnet85_coco_608.pth"),
        task="detection",
        licence="MIT",
        metric="COCO test-dev mAP 45.3 at 608 pixels",
        source=_CENTERNET,
        no_hash=_NO_HASH,
        no_mirror=_ONE_HOST,
    ),
    WeightsRow(
        model="centernet_hardnet85",
        tag="base",
        urls=_blob(
            "30e34ab3890f5bdf068ffb715a8dfb0dab369336",
            "PingoLH/CenterNet-HarDNet@master:src/hardnet85_base.pth",
            "docjag/CenterNet-HarDNet@HEAD:src/hardnet85_base.pth",
            "kuanhungchen/CenterNet-HarDNet@HEAD:src/hardnet85_base.pth",
            name="centernet_hardnet85_base.pth",
        ),
        task="detection",
        licence="MIT",
        metric="",
        source=_CENTERNET,
        base_only=True,
    ),
    WeightsRow(
        model="centernet_hardnet85",
        tag="fairmot",
        urls=_archived(
            Address(
                "https://paddledet.bj.bcebos.com/models/mot/fairmot_enhance_hardnet85_30e_1088x608.pdparams"
            )
        ),
        task="detection",
        licence="Apache-2.0",
        metric="of the tracker FairMOT, MOT-16 test MOTA 75.0",
        source=_PADDLEDETECTION,
        base_only=True,
        no_hash="PaddleDetection publishes none",
        layout="paddledetection",
        no_mirror=_PADDLE_ONLY,
    ),
    WeightsRow(
        model="centernet_hardnet68",
        tag="base",
        urls=_blob(
            "e921a52a4fe129abb1b87823969b01347a082a8c",
            "PingoLH/CenterNet-HarDNet@master:src/hardnet68_base.pth",
            "docjag/CenterNet-HarDNet@HEAD:src/hardnet68_base.pth",
            "kuanhungchen/CenterNet-HarDNet@HEAD:src/hardnet68_base.pth",
            name="centernet_hardnet68_base.pth",
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
        urls=_published(
            "hardnet70_cityscapes_model.pkl",
            *_blob(
                "02e4e6121214a874d3034badfea15f0c85b11663",
                "rehohoho/FCHarDNet@8ba5c58e63db:weights/hardnet70_cityscapes_model.pkl",
                "jdgalviss/FCHarDNet@b52906276e59:weights/hardnet70_cityscapes_model.pkl",
                "YanaShpot/FCHarDNet@de5ec4f6bad6:weights/hardnet70_cityscapes_model.pkl",
                "HoRuiEn/FCHarDNet@63f9910ff232:weights/hardnet70_cityscapes_model.pkl",
                "dlision/Sematic_Segmentaion@e6fa22e8a927:weights/hardnet70_cityscapes_model.pkl",
                small=True,
            ),
        ),
        task="segmentation",
        licence="MIT",
        metric="Cityscapes val mIoU 77.7",
        source=_FCHARDNET,
    ),
    WeightsRow(
        model="fchardnet70",
        tag="published_2",
        urls=_published(
            "hardnet70_cityscapes_model_2.pkl",
            *_blob(
                "8d887390d15aebd7d75b2d0a6ebb6f976fd0d2a8",
                "NCTUyoung/FCHarDNet@58564c9a1a19:weights/hardnet70_cityscapes_model_2.pkl",
                small=True,
            ),
        ),
        task="segmentation",
        licence="MIT",
        metric="",
        source=_FCHARDNET,
    ),
    WeightsRow(
        model="fchardnet70",
        tag="base",
        urls=_blob(
            "59ad749fde704f83988acd0a32b849e20778b9bf",
            "PingoLH/FCHarDNet@master:weights/hardnet_petite_base.pth",
            "rehohoho/FCHarDNet@8ba5c58e63db:weights/hardnet_petite_base.pth",
            small=True,
        ),
        task="segmentation",
        licence="MIT",
        metric="",
        source=_FCHARDNET,
        base_only=True,
    ),
    WeightsRow(
        model="fchardnet70",
        tag="semantic-segmentation",
        urls=(_drive("1QK1qgaKOPAatx-DHNmv7Mu0S0cE1fHCN", "hardnet70_cityscapes.pth"),),
        task="segmentation",
        licence="MIT",
        metric="Cityscapes val mIoU 77.7, as its README states (the authors' own figure)",
        source=_STREETS,
        no_hash="the program publishes none",
        layout="semantic-segmentation",
        no_mirror=_DRIVE_ONLY,
    ),
    WeightsRow(
        model="fchardnet70_paddleseg",
        tag="published",
        urls=_archived(
            Address(
                "https://bj.bcebos.com/paddleseg/dygraph/cityscapes/hardnet_cityscapes_1024x1024_160k/model.pdparams",
                name="hardnet_cityscapes_1024x1024_160k.pdparams",
            )
        ),
        task="segmentation",
        licence="Apache-2.0",
        metric="Cityscapes val mIoU 79.03, with scales and flip 79.76",
        source=_PADDLESEG,
        no_hash="PaddleSeg publishes none",
        layout="paddleseg",
        no_mirror=_PADDLE_ONLY,
    ),
    WeightsRow(
        model="hardnet_mseg",
        tag="published",
        urls=(_drive("1nj-zv64RiWwYjCmWg4NME7HNf_nBncUu", "hardnet_mseg_kvasir.pth"),),
        task="segmentation",
        licence="Apache-2.0",
        metric="Kvasir-SEG mean Dice 0.912, mean IoU 0.857",
        source=_MSEG,
        no_hash=_NO_HASH,
        no_mirror=_DRIVE_ONLY,
    ),
    _descriptor(
        "published",
        "pretrained_all_datasets/HardNet++.pth",
        "84aa9c230b7cd6d0a8a7d13b65b39cfb0f406eec",
        "ducha-aiki/affnet@HEAD:HardNet++.pth",
        "ducha-aiki/mods-light-zmq@HEAD:build/HardNet++.pth",
        "axelBarroso/Key.Net-Pytorch@HEAD:model/HyNet/weights/HardNet++.pth",
        others=(
            Address(
                f"{_KORNIA}/resolve/main/HardNetPP.pth",
                "9fe80a335fe72d1225fdd1ae0943418b12489f95014bd51dddc9819d6ffa33c7",
            ),
        ),
    ),
    _descriptor(
        "liberty",
        "train_liberty/checkpoint_liberty_no_aug.pth",
        "8694b2a670aec840800966e42cd8c79e3be66e9a",
    ),
    _descriptor(
        "liberty_aug",
        "train_liberty_with_aug/checkpoint_liberty_with_aug.pth",
        "c1b2a5f4e79a5f3e50ec9a1ac98a428965cef37b",
        others=(
            Address(
                f"{_KORNIA}/resolve/main/checkpoint_liberty_with_aug.pth",
                "1e9a41b19f1dc93c986e91df9aaf5696d1a777ac1d67498492856a65d6f49c16",
            ),
        ),
    ),
    _descriptor(
        "notredame",
        "train_notredame/checkpoint_notredame_no_aug.pth",
        "92807ed2eba4e664ddf1660e1569355e03bf98e9",
        deleted=True,
    ),
    _descriptor(
        "notredame_aug",
        "train_notredame_with_aug/checkpoint_notredame_with_aug.pth",
        "e3d10581066a9408db8c9a6b545e08318bdead2c",
        forks=1,
    ),
    _descriptor(
        "yosemite",
        "train_yosemite/checkpoint_yosemite_no_aug.pth",
        "752252a6195cc246338b32631e524f205585f3d7",
        deleted=True,
    ),
    _descriptor(
        "yosemite_aug",
        "train_yosemite_with_aug/checkpoint_yosemite_with_aug.pth",
        "ec9124d045fa7c05cefa76a7ae48a016754aae85",
        forks=1,
    ),
    _descriptor("br6", "6Brown/hardnetBr6.pth", "26df901859b3bbfc0cafaca504f09e771ac7b427"),
    _descriptor(
        "published",
        "3rd_party/HardNetPS/HardNetPS.pth",
        "2d5b2988f18d6bd9523c69907ee4cbf07e060ab0",
        model="hardnet_descriptor_ps",
    ),
    WeightsRow(
        model="hardnet8_descriptor",
        tag="published",
        urls=tuple(
            Address(
                f"{folder}/hardnet8v2.pt",
                sha256_prefix="5982f6d2c647545f13e74e8b011110fea2408130015a1496713253d9c00a941b",
            )
            for folder in (f"{_KORNIA}/resolve/main", "https://cmp.felk.cvut.cz/~mishkdmy")
        ),
        task="descriptor",
        licence="MIT",
        metric="",
        source=_KORNIA,
    ),
)
