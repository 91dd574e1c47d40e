"""Segmentation data sets for mmsegmentation's pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset

from hardnet_suite.data.options import take
from hardnet_suite.data.segmentation import labels_of, read_label
from hardnet_suite.openmm.data.parts import SegmentationPart, require_own_labels


@DATASETS.register_module()
class SegmentationDataset(BaseSegDataset):
    """A folder of images and a folder of label images with the same structure.

    ``LoadLabels`` reads the label images. A step of your own that does finds in each item ``seg_map_path``,
    ``label_set`` (the classes, a ``LabelSet``) and ``label_map``, stored value -> class index or 255.

    Args:
        labels: Name of a known label set, "cityscapes" or "camvid", which defines classes, file names and
            stored values. None: custom data.
        metainfo: For custom data, ``dict(classes=…, palette=…)``; ``palette``, one RGB color per class, is
            optional.
        stored: For custom data, value in a label image -> class index or 255 (ignored). A class missing here
            is stored as its index; 255 is ignored unless mapped to a class. With one class, 1 is the
            background, see ``LabelSet``.
        reduce_zero_label: For custom data, 0 in the files is ignored and 1 … C are the classes.
        ignore_index: For custom data, a label that is ignored in addition to 255.
        mask_threshold: For custom data of one class with grey masks of 0 to 255, such as Kvasir-SEG and
            CVC-ClinicDB have them: values from this one on are the class, lower ones the background. The
            masks may have three equal channels, any format and the soft edges of lossy files.
        data_root: Folder that the other paths are relative to.
        data_prefix: ``dict(img_path=…, seg_map_path=…)``; without ``seg_map_path`` the images have no labels
            and can only be predicted.
        ann_file: A text file with one image per line, relative to ``img_path``, with or without suffix;
            empty: all images.
        img_suffix: Suffix or suffixes of the image files; None: any image.
        seg_map_suffix: Suffix of the label images instead of that; None: ".png", or any image with
            ``mask_threshold``.
        indices: As in mmengine's ``BaseDataset``.
        pipeline: The transforms.
        options: Further options of mmengine: ``serialize_data``, ``test_mode``, ``lazy_init``,
            ``max_refetch``.

    Raises:
        UserError: An option without effect, an invalid value, an image without a label image, or a pipeline
            that reads label images by other steps than ``LoadLabels``.
    """

    def __init__(
        self,
        *,
        pipeline: Sequence[dict | Callable] = (),
        indices: int | Sequence[int] | None = None,
        **options: Any,
    ):
        self.part = SegmentationPart.of_options(
            "SegmentationDataset", options | {"indices": indices, "pipeline": pipeline}
        )
        labels = self.part.labels
        palette = [list(color) for color in labels.palette]
        mmengine_options = ("serialize_data", "test_mode", "lazy_init", "max_refetch")
        super().__init__(
            metainfo={"classes": labels.classes, "palette": palette},
            data_root=options.get("data_root"),
            data_prefix={
                key: str(folder) for key, folder in options["data_prefix"].items() if folder is not None
            },
            pipeline=list(pipeline),
            indices=self.part.indices,
            **{key: options[key] for key in mmengine_options if key in options},
        )
        require_own_labels(
            "SegmentationDataset.pipeline", self.pipeline
        )  # those that its steps build as well
        self._classes_of: dict[str, list[int]] = {}
        # set afterwards: mmengine treats a string in metainfo as the path of a file
        self._metainfo |= {"labels": options.get("labels"), "image_endings": labels.image_endings}

    @property
    def label_set(self):
        """The classes, their stored values and the file names, a ``LabelSet``."""
        return self.part.labels

    def load_data_list(self) -> list[dict]:
        items = []
        pairs = self.part.pairs()
        take(pairs, self.part.indices, self.part.dataset_name)  # mmengine's own error names nothing
        for image, label in pairs:
            item = {"img_path": str(image), "seg_fields": [], "reduce_zero_label": False}
            if label is not None:
                item["seg_map_path"] = str(label)
            items.append(item)
        return items

    def get_data_info(self, idx: int) -> dict:
        item = super().get_data_info(idx) | {"label_set": self.label_set}
        if (path := item.get("seg_map_path")) is not None:
            item["label_map"] = labels_of(path, self.label_set).values
        return item

    def get_cat_ids(self, idx: int) -> list[int]:
        """The classes in a label image, rising, as mmengine's ``ClassBalancedDataset`` asks for them.

        Args:
            idx: Of the image.

        Returns:
            Their indices, without the ignored label and, beside a single class, the background; none for an
            image without labels. A file is read once.
        """
        path = self.get_data_info(idx).get("seg_map_path")
        if path is None:
            return []
        if path not in self._classes_of:  # by file: a subset has other indices
            found = np.unique(read_label(path, labels_of(path, self.label_set)))
            self._classes_of[path] = [int(label) for label in found if label < len(self.label_set.classes)]
        return self._classes_of[path]
