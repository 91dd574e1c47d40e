"""Panoptic data sets for mmdetection's pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS

from hardnet_suite.data.options import take
from hardnet_suite.data.panoptic import read_label_image
from hardnet_suite.data.segmentation import IGNORE
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts.panoptic import PanopticPart


@DATASETS.register_module()
class PanopticDataset(BaseDataset):
    """Images with COCO panoptic annotations, labels by the names of the classes: things first, then stuff.

    The annotations are read by the rules of ``hardnet_suite.data.panoptic``, as in scoring and checks.
    Segments of categories that are not among the classes are void.

    Args:
        ann_file: COCO panoptic annotations.
        data_root: folder that the other paths are relative to.
        data_prefix: ``dict(img=…, seg=…)``, the folders of the images and of their label images.
        metainfo: ``dict(thing_classes=…, stuff_classes=…, palette=…)``; COCO's 80 and 53 by default;
            ``palette``, one RGB color per class, is optional.
        indices: as in mmengine's ``BaseDataset``.
        test_mode: whether it is for validation or testing.
        annotated: False: the annotations are not read; the images are for prediction only.
        pipeline: the transforms; ``LoadPanoptic`` loads the annotations.
        options: mmengine's further ones: ``serialize_data``, ``lazy_init``, ``max_refetch``.

    Raises:
        UserError: an unknown option, a value it cannot have, annotations that cannot be used, or a pipeline
            for training that reads them by other steps than ``LoadPanoptic``.
    """

    def __init__(
        self,
        *,
        pipeline: Sequence[dict | Callable] = (),
        indices: int | Sequence[int] | None = None,
        **options: Any,
    ):
        self.part = PanopticPart.of_options(
            "PanopticDataset", options | {"indices": indices, "pipeline": pipeline}
        )
        metainfo = {
            "classes": self.part.classes,
            "thing_classes": self.part.things,
            "stuff_classes": self.part.stuff,
        }
        if self.part.palette is not None:
            metainfo["palette"] = [list(color) for color in self.part.palette]
        mmengine_options = ("serialize_data", "test_mode", "lazy_init", "max_refetch")
        super().__init__(
            ann_file=str(options["ann_file"]),
            metainfo=metainfo,
            data_root=options.get("data_root"),
            data_prefix={key: str(folder) for key, folder in options["data_prefix"].items()},
            pipeline=list(pipeline),
            indices=self.part.indices,
            **{key: options[key] for key in mmengine_options if key in options},
        )
        if self.test_mode:  # for the evaluator; set afterwards: mmengine takes a string for a file's path
            self._metainfo["annotation_file"] = str(self.part.annotation_file)
            self._metainfo["image_folder"] = str(self.part.image_folder)
            self._metainfo["label_folder"] = str(self.part.label_folder)

    def load_data_list(self) -> list[dict]:
        items = []
        images = self.part.images()
        take(images, self.part.indices, self.part.dataset_name)  # mmengine's own error names nothing
        for image in images:
            size = {"height": image.height, "width": image.width}
            items.append({"img_id": image.id, "img_path": str(self.part.path_of(image)), **size})
        if self.part.annotated:
            for item, (_, label, meanings) in zip(items, self.part.annotations(), strict=True):
                item |= {"label_path": str(label), "segments": meanings, "num_things": len(self.part.things)}
        return items


@TRANSFORMS.register_module()
class LoadPanoptic(BaseTransform):
    """``label_path`` and ``segments`` of ``PanopticDataset`` -> what panoptic models of mmdet train on.

    Required keys: these and ``img``. Added keys: of the things, ``gt_bboxes`` (around the masks),
    ``gt_bboxes_labels``, ``gt_masks`` and ``gt_ignore_flags`` (crowds); ``gt_seg_map``, (H, W) uint8 labels
    of things and stuff, 255 for void and crowds.

    Raises:
        UserError: the label image is missing or broken, of another size than its image, or has other ids than
            the annotations.
    """

    def transform(self, results: dict) -> dict:
        if "label_path" not in results:
            raise UserError(f"{results['img_path']}: LoadPanoptic needs the annotations of a PanopticDataset")
        path, segments = results["label_path"], results["segments"]
        ids = read_label_image(path, segments)
        if ids.shape != tuple(results["img"].shape[:2]):
            raise UserError(
                "the label image {} is {}×{} pixels, its image {} is {}×{}".format(
                    path, *ids.shape[::-1], results["img_path"], *results["img"].shape[1::-1]
                )
            )
        things = results["num_things"]
        semantic = np.full(ids.shape, IGNORE, np.uint8)
        masks, labels, crowds, boxes = [], [], [], []
        for key, meaning in segments.items():
            if meaning is None:
                continue
            label, is_crowd = meaning
            mask = ids == key
            if not is_crowd:
                semantic[mask] = label
            if label >= things:
                continue
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            masks.append(mask.astype(np.uint8))
            labels.append(label)
            crowds.append(is_crowd)
        height, width = ids.shape
        results["gt_bboxes"] = HorizontalBoxes(np.array(boxes, np.float32).reshape(-1, 4))
        results["gt_bboxes_labels"] = np.array(labels, np.int64)
        results["gt_ignore_flags"] = np.array(crowds, bool)
        results["gt_masks"] = BitmapMasks(masks, height, width)
        results["gt_seg_map"] = semantic
        return results
