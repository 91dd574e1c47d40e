"""The registry of weights: the published ones, and those that the package ships."""

from __future__ import annotations

from hardnet_suite.names import did_you_mean, known_name
from hardnet_suite.weights.published import PUBLISHED
from hardnet_suite.weights.row import Address, WeightsRow

__all__ = ["ROWS", "Address", "WeightsRow", "find"]

_TINY_IMAGENET10 = (
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
)

_CAMVID = (
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
)

# trained by ourselves: docs/experiments.md
SHIPPED: tuple[WeightsRow, ...] = (
    WeightsRow(
        model="ssd320_hardnet39ds",
        tag="bccd",
        urls=(),
        task="detection",
        licence="MIT",
        metric="BCCD test AP50 0.891",
        source="configs/ssd320_hardnet39ds_bccd.py",
        shipped="ssd320_hardnet39ds_bccd.safetensors",
        sha256="4a12ad81d290f8336dc4a23da524714099356ee1693904c992ce47dbb1e744ff",
        classes=("RBC", "WBC", "Platelets"),
    ),
    WeightsRow(
        model="centernet_hardnet39ds",
        tag="bccd",
        urls=(),
        task="detection",
        licence="MIT",
        metric="BCCD test AP50 0.902",
        source="configs/centernet_hardnet39ds_bccd.py",
        shipped="centernet_hardnet39ds_bccd.safetensors",
        sha256="a904cb3baa3a48b18af21018767bebd0fc07eed050263ebbc32432d8a7c22cf6",
        classes=("RBC", "WBC", "Platelets"),
    ),
    WeightsRow(
        model="ssd224_hardnet29",
        tag="symbols",
        urls=(),
        task="detection",
        licence="MIT",
        metric="drawn symbols, held-out mAP 0.223; to start from",
        source="configs/ssd224_hardnet29_symbols.py",
        shipped="ssd224_hardnet29_symbols.safetensors",
        sha256="ab6654d02409bdd23c49262a84e57d8c0b55a6fd3ad03b869b07616e08116f14",
        classes=(
            "heart",
            "crescent",
            "arrow",
            "bolt",
            "drop",
            "half disc",
            "gear",
            "ell",
            "tee",
            "chevron",
            "frame",
            "pentagon",
            "ellipse",
            "hourglass",
        ),
    ),
    WeightsRow(
        model="fchardnet70",
        tag="camvid_trainval",
        urls=(),
        task="segmentation",
        licence="non-commercial use only: CC BY-NC, as CamVid, and for research, as Cityscapes and "
        "LabelMeFacade",
        metric="CamVid val mIoU 71.3 before stages 2 to 7, which train on val; 66.4 on Cityscapes val at "
        "256×256, 11 classes without outlines; test not scored",
        source="configs/fchardnet70_camvid_cities_finetune.py",
        shipped="fchardnet70_camvid_trainval.safetensors",
        sha256="e9ed340832a2df35f2d1daca9588a9371bf708c8e9fe829e391bde39d3baf14c",
        classes=_CAMVID,
        saw_validation=True,
    ),
    WeightsRow(
        model="fchardnet70",
        tag="camvid",
        urls=(),
        task="segmentation",
        licence="CC BY-NC, as CamVid, which they were trained on",
        metric="CamVid val mIoU 72.7, test 59.2",
        source="configs/fchardnet70_camvid_finetune.py",
        shipped="fchardnet70_camvid.safetensors",
        sha256="5fc3480b89bb4bb7f07a1c2f6a8adbdb2aa2509cbfc867e01d0326930584f072",
        classes=_CAMVID,
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
        sha256="0c921745b37ff5ce050182eaa6bbb408c989696e1fac54a360f41b9eeb9d55be",
        classes=_TINY_IMAGENET10,
    ),
    WeightsRow(
        model="hardnet39ds",
        tag="tiny_imagenet10_128",
        urls=(),
        task="classification",
        licence="non-commercial research, as ImageNet, which they were trained on",
        metric="Tiny-ImageNet, ten classes, held-out top-1 91.8 at 128×128",
        source="configs/hardnet39ds_tiny_imagenet10_128.py",
        shipped="hardnet39ds_tiny_imagenet10_128.safetensors",
        sha256="303ed88faa0652e787224402ec3b5f1c6e7600966d6aa3881cfccefdbc6d7e3f",
        classes=_TINY_IMAGENET10,
    ),
    WeightsRow(
        model="hardnet39dsa",
        tag="tiny_imagenet10",
        urls=(),
        task="classification",
        licence="non-commercial research, as ImageNet, which they were trained on",
        metric="Tiny-ImageNet, ten classes, held-out top-1 89.4",
        source="configs/hardnet39dsa_tiny_imagenet10.py",
        shipped="hardnet39dsa_tiny_imagenet10.safetensors",
        sha256="8b93110be2b25f69f72b81105e191dc8f274ea634a605b70a6d28e00e34d3ca2",
        classes=_TINY_IMAGENET10,
    ),
    WeightsRow(
        model="hardnet_descriptor",
        tag="homography",
        urls=(),
        task="descriptor",
        licence="non-commercial research, as CamVid and ImageNet, whose images are in the training set",
        metric="HPatches' v_churchill, matching mAP 86.3 (RootSIFT 61.9)",
        source="configs/hardnet_descriptor_homography.py",
        shipped="hardnet_descriptor_homography.safetensors",
        sha256="c036f1ae6f5382ee00adf18c5b75676ca88e7cabd49657cdd9b7174cf930a33a",
    ),
)

ROWS: tuple[WeightsRow, ...] = PUBLISHED + SHIPPED


def find(model: str, tag: str = "published") -> WeightsRow:
    """The row of ``model`` under ``tag``, in any case and with hyphens or underscores.

    Raises:
        ValueError: an unknown model or tag; the message says what there is.
    """
    models = list(dict.fromkeys(row.model for row in ROWS))
    model = known_name(model, models) or model
    tags = {row.tag: row for row in ROWS if row.model == model}
    if not tags:
        near = did_you_mean(model, models)
        raise ValueError(
            f"no published weights for model {model!r}; {near}there are weights for: {', '.join(models)}"
        )
    known = known_name(tag, tags)
    if known is None:
        raise ValueError(
            f"no weights tagged {tag!r} for {model}; {did_you_mean(tag, tags)}allowed tags: {', '.join(tags)}"
        )
    return tags[known]
