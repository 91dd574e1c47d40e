"""Segmentation data sets for mmsegmentation's pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset

from hardnet_suite.data.segmentation import labels_of
from hardnet_suite.openmm.data.parts import SegmentationPart


@DATASETS.register_module()
class SegmentationDataset(BaseSegDataset):
    """A folder of images and one of label images, of the same structure.

    Args:
        labels: name of a known set, "cityscapes" or "camvid": its classes, file names and stored values.
            None: custom data.
        metainfo: for custom data, ``dict(classes=…, palette=…)``; ``palette``, one RGB color per class, is
            optional.
        stored: for custom data, value in a label image -> class index or 255 (ignored). A class that it does
            not name is stored as its index; 255 is ignored unless it is given a class here. With one class,
            1 stands for pixels that are not of it, as ``LabelSet`` explains.
        reduce_zero_label: for custom data, 0 in the files is ignored and 1 … C are the classes.
        ignore_index: for custom data, a label that is ignored besides 255.
        data_root: folder that the other paths are relative to.
        data_prefix: ``dict(img_path=…, seg_map_path=…)``; without ``seg_map_path`` the images have no
            labels, and are for prediction only.
        ann_file: a text file with one image per line, relative to ``img_path``, with or without its ending;
            empty: all images.
        img_suffix: how the file names of images end, one string or several; None: any image.
        seg_map_suffix: how those of label images end in its place; None: ".png".
        indices: as in mmengine's ``BaseDataset``.
        pipeline: the transforms.
        options: mmengine's further ones: ``serialize_data``, ``test_mode``, ``lazy_init``, ``max_refetch``.

    Raises:
        UserError: an option that has no effect, a value it cannot have, or an image without a label.
    """

    def __init__(
        self,
        *,
        pipeline: Sequence[dict | Callable] = (),
        indices: int | Sequence[int] | None = None,
        **options: Any,
    ):
        self.part = SegmentationPart.of_options("SegmentationDataset", options | {"indices": indices})
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
            indices=indices,
            **{key: options[key] for key in mmengine_options if key in options},
        )
        # mmengine takes a word in metainfo for the path of a file
        self._metainfo |= {"labels": options.get("labels"), "image_endings": labels.image_endings}

    @property
    def label_set(self):
        """The classes, how the label images store them, and how the files are named."""
        return self.part.labels

    def load_data_list(self) -> list[dict]:
        items = []
        for image, label in self.part.pairs():
            item = {"img_path": str(image), "seg_fields": [], "reduce_zero_label": False}
            if label is not None:  # mmseg's LoadAnnotations reads with label_map, LoadLabels with the set
                item |= {"seg_map_path": str(label), "label_map": labels_of(label, self.label_set).values}
            items.append(item)
        return items

    def get_data_info(self, idx: int) -> dict:
        return super().get_data_info(idx) | {"label_set": self.label_set}
