"""Segmentation data sets for mmsegmentation's pipelines."""

from __future__ import annotations

from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset

from hardnet_suite.data.segmentation import find_pairs, labels_of, require_pairs
from hardnet_suite.openmm.data.parts import label_set


@DATASETS.register_module()
class SegmentationDataset(BaseSegDataset):
    """A folder of images and one of label images, of like structure.

    Args:
        labels: name of a known set, "cityscapes" or "camvid": its classes, files and stored values. None:
            data of one's own.
        metainfo: for data of one's own, ``dict(classes=…, palette=…)``; the palette, an RGB colour a class,
            may be left out.
        stored: for data of one's own, value in a label image -> class number or 255 (ignored); a class that
            it does not name is stored as its number, and 255 is always ignored.
        data_prefix: ``dict(img_path=…, seg_map_path=…)``; without ``seg_map_path`` the images have no
            labels, and are for prediction only.
        options: the further ones of mmengine's ``BaseDataset``.

    Images that lack a label are a UserError, with what is to be done.
    """

    def __init__(
        self,
        labels: str | None = None,
        metainfo: dict | None = None,
        stored: dict[int, int] | None = None,
        **options,
    ):
        self.label_set = label_set(labels, metainfo, stored)
        classes, palette = self.label_set.classes, [list(color) for color in self.label_set.palette]
        super().__init__(metainfo={"classes": classes, "palette": palette}, **options)
        self._metainfo["labels"] = labels  # mmengine takes a word in metainfo for the path of a file

    def load_data_list(self) -> list[dict]:
        images, annotations = self.data_prefix["img_path"], self.data_prefix.get("seg_map_path")
        find = find_pairs if annotations is None else require_pairs
        items = []
        for image, label in find(images, annotations, self.label_set):
            item = {"img_path": str(image), "seg_fields": [], "reduce_zero_label": False}
            if label is not None:  # mmseg's LoadAnnotations reads with label_map, LoadLabels with the set
                item |= {"seg_map_path": str(label), "label_map": labels_of(label, self.label_set).stored}
            items.append(item)
        return items

    def get_data_info(self, idx: int) -> dict:
        return super().get_data_info(idx) | {"label_set": self.label_set}
