"""Detection data sets for mmdetection's pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmdet.datasets import BaseDetDataset
from mmengine.registry import DATASETS

from hardnet_suite.data.coco import CocoBox
from hardnet_suite.data.coco.masks import mask_json
from hardnet_suite.data.options import take
from hardnet_suite.openmm.data.parts import DetectionPart


@DATASETS.register_module()
class DetectionDataset(BaseDetDataset):
    """Boxes and masks of a COCO annotation file, labels by the names of ``metainfo.classes``.

    The file is read by the rules of ``hardnet_suite.data.coco.reader``, as in scoring and checks. The order
    of its categories is irrelevant; categories that are not among the classes are ignored.

    Args:
        ann_file: COCO annotations.
        data_root: folder that the other paths are relative to.
        data_prefix: ``dict(img=…)``, the folder of the images.
        metainfo: ``dict(classes=…, palette=…)``; ``classes`` are COCO's 80 by default, ``palette``, one RGB
            color per class, is optional.
        filter_cfg: ``dict(filter_empty_gt=…, min_size=…)``: drops images without a box, and images with a
            shorter side than ``min_size`` pixels. Not with ``test_mode``.
        indices: as in mmengine's ``BaseDataset``.
        test_mode: whether it is for validation or testing.
        annotated: False: the annotations are not read; the images are for prediction only.
        pipeline: the transforms.
        options: mmengine's further ones: ``serialize_data``, ``lazy_init``, ``max_refetch``.

    Raises:
        UserError: an unknown option, a value it cannot have, or annotations that cannot be used: among them
            boxes without a mask where the pipeline loads masks (``LoadAnnotations(with_mask=True)``).
    """

    def __init__(
        self,
        *,
        pipeline: Sequence[dict | Callable] = (),
        indices: int | Sequence[int] | None = None,
        **options: Any,
    ):
        self.part = DetectionPart.of_options(
            "DetectionDataset", options | {"indices": indices, "pipeline": pipeline}
        )
        metainfo = {"classes": self.part.classes}
        if self.part.palette is not None:
            metainfo["palette"] = [list(color) for color in self.part.palette]
        mmengine_options = ("serialize_data", "test_mode", "lazy_init", "max_refetch")
        super().__init__(
            ann_file=str(options["ann_file"]),
            metainfo=metainfo,
            data_root=options.get("data_root"),
            data_prefix={"img": str(options["data_prefix"]["img"])},
            pipeline=list(pipeline),
            indices=self.part.indices,
            **{key: options[key] for key in mmengine_options if key in options},
        )
        if self.test_mode:  # the evaluator compares it with its own
            self._metainfo["annotation_file"] = str(self.part.annotation_file)
            self._metainfo["image_folder"] = str(self.part.image_folder)

    def load_data_list(self) -> list[dict]:
        self.part.require_masks()
        labels = {name: label for label, name in enumerate(self.part.classes)}
        items = []
        images = self.part.images()
        take(images, self.part.indices, self.part.dataset_name)  # mmengine's own error names nothing
        for image, boxes in images:
            width, height = self.part.size_of(image)
            items.append(
                {
                    "img_id": image.id,
                    "img_path": str(self.part.path_of(image)),
                    "seg_map_path": None,
                    "height": height,
                    "width": width,
                    "instances": [_instance(box, labels[box.category]) for box in boxes],
                }
            )
        return items


def _instance(box: CocoBox, label: int) -> dict:
    x, y, width, height = box.bbox
    instance = {
        "ignore_flag": int(box.iscrowd),
        "bbox": [x, y, x + width, y + height],
        "bbox_label": label,
    }
    if box.segmentation is not None:
        instance["mask"] = mask_json(box.segmentation)
    return instance
