"""Pipeline steps that load images and label images; broken files are errors that name the file."""

from __future__ import annotations

import mmcv.transforms
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmengine.registry import TRANSFORMS

from hardnet_suite.data.images import image_bytes, image_errors, read_rgb
from hardnet_suite.data.segmentation import labels_of, read_label
from hardnet_suite.errors import UserError


@TRANSFORMS.register_module(name=["LoadImageFromFile", "LoadPicture"], force=True)
class LoadImageFromFile(mmcv.transforms.LoadImageFromFile):
    """mmcv's transform of this name with the suite's decoder, ``hardnet_suite.data.images.read_rgb``.

    Required keys: ``img_path``. Added keys: ``img``, (H, W, 3) BGR, ``img_shape`` and ``ori_shape``, (H, W).

    Args:
        to_float32: give ``img`` as float32 instead of uint8.
        color_type: other than "color": mmcv decodes, as its documentation says.
        imdecode_backend: a backend of mmcv ("cv2", "pillow", "tifffile", "turbojpeg"): mmcv decodes with it.
            None: the suite's decoder, the one that ``predict`` uses.
        file_client_args: deprecated form of ``backend_args``.
        ignore_empty: skip an image that cannot be read (the data set then draws another) instead of failing.
        backend_args: the file backend of mmengine that fetches the bytes.

    Raises:
        UserError: the file is missing, no image, broken or truncated.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = "color",
        imdecode_backend: str | None = None,
        file_client_args: dict | None = None,
        ignore_empty: bool = False,
        *,
        backend_args: dict | None = None,
    ):
        backend = imdecode_backend or "cv2"
        super().__init__(
            to_float32, color_type, backend, file_client_args, ignore_empty, backend_args=backend_args
        )
        self.is_suites = imdecode_backend is None and color_type == "color"

    def transform(self, results: dict) -> dict | None:
        if not self.is_suites:
            return super().transform(results)
        path = str(results["img_path"])
        try:
            with image_errors(path):
                content = self._fetch(path)
            image = read_rgb(content, path, channels="bgr")
        except UserError:
            if self.ignore_empty:
                return None
            raise
        results["img"] = image.astype(np.float32) if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def _fetch(self, path: str) -> bytes:
        if self.file_client_args is not None:
            return fileio.FileClient.infer_client(self.file_client_args, path).get(path)
        if self.backend_args is None and "://" not in path:
            return image_bytes(path)  # a local file; finding its backend takes longer
        return fileio.get(path, backend_args=self.backend_args)


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
