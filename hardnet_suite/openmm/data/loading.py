"""Reading images and label images, without swallowing broken ones."""

from __future__ import annotations

import io
from pathlib import Path

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS
from PIL import Image

from hardnet_suite.data.segmentation import labels_of, read_label
from hardnet_suite.errors import UserError


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR pixels. UserError for a missing, unreadable or truncated file.

    OpenCV fills the lost part of a truncated JPEG with grey and says nothing; a file that does not end as
    a JPEG should is decoded by Pillow first, which complains.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {error.strerror}") from None
    if data[:2] != b"\xff\xd8" or not data.rstrip(b"\0\r\n ").endswith(b"\xff\xd9"):
        try:
            Image.open(io.BytesIO(data)).load()
        except Exception as error:
            raise UserError(f"the image {path} is broken or truncated ({error}); replace the file") from None
    image = mmcv.imfrombytes(data, flag="color", backend="cv2")
    if image is None:
        raise UserError(f"the image {path} cannot be decoded; replace the file")
    return image


@TRANSFORMS.register_module(name=["LoadImageFromFile", "LoadPicture"], force=True)
class LoadImageFromFile(BaseTransform):
    """``img_path`` -> ``img`` (H, W, 3) uint8 BGR, ``img_shape``, ``ori_shape``; broken files are errors."""

    def transform(self, results: dict) -> dict:
        results["img"] = read_image(results["img_path"])
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results


@TRANSFORMS.register_module()
class LoadLabels(BaseTransform):
    """``seg_map_path`` and ``label_set`` (see ``SegmentationDataset``) -> ``gt_seg_map``, (H, W) uint8 train
    labels, 255 where ignored. Without a ``seg_map_path``: nothing, for data that has no labels.

    UserError for a label image that is missing, broken, in colour or of 16 bits, of unknown values, or of
    another size than its image.
    """

    def transform(self, results: dict) -> dict:
        path = results.get("seg_map_path")
        if path is None:
            return results
        found = read_label(path, labels_of(path, results["label_set"]))
        if found.shape != tuple(results["ori_shape"]):
            raise UserError(
                "the label image {} is {}×{} pixels, its image {} is {}×{}".format(
                    path, *found.shape[::-1], results["img_path"], *results["ori_shape"][::-1]
                )
            )
        results["gt_seg_map"] = found
        results["seg_fields"].append("gt_seg_map")
        return results
