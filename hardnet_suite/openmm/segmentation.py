"""FC-HarDNet as an mmsegmentation model: the decoder as a decode head, its loss, and data sets.

In a config: ``custom_imports = dict(imports=["hardnet_suite.openmm.segmentation"])``.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import DATASETS, MODELS
from torch import Tensor, nn

import hardnet_suite.openmm  # noqa: F401  (before anything that imports mmcv.ops)
from hardnet_suite.data.segmentation import find_pairs, labels_of, require_pairs
from hardnet_suite.losses import bootstrapped_cross_entropy
from hardnet_suite.networks import FCHarDNetArch, find_arch
from hardnet_suite.networks.fchardnet import FCHarDNetDecoder
from hardnet_suite.openmm.configs import label_set

from mmseg.datasets import BaseSegDataset  # isort: skip
from mmseg.models.decode_heads.decode_head import BaseDecodeHead  # isort: skip


def fchardnet_arch(name: str) -> FCHarDNetArch:
    """The table's row of that name, which must be an FC-HarDNet."""
    row = find_arch(name)
    if not isinstance(row, FCHarDNetArch):
        raise ValueError(f"arch={name!r} is no FC-HarDNet")
    return row


@MODELS.register_module()
class FCHarDNetHead(BaseDecodeHead):
    """The decoder and the classifier: block outputs of strides 4 … 64 -> (N, num_classes, H/4, W/4) logits.

    The further options are those of mmseg's ``BaseDecodeHead``.
    """

    def __init__(self, arch: str, in_channels: Sequence[int], channels: int, **options):
        super().__init__(
            in_channels=list(in_channels),
            channels=channels,
            in_index=list(range(len(in_channels))),
            input_transform="multiple_select",
            align_corners=True,
            dropout_ratio=0.0,
            **options,
        )
        self.decoder = FCHarDNetDecoder(fchardnet_arch(arch), in_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.cls_seg(self.decoder(maps))


@MODELS.register_module()
class BootstrappedCrossEntropyLoss(nn.Module):
    """``losses.bootstrapped_cross_entropy`` for mmseg's heads; ``class_weight``: one number a class."""

    def __init__(
        self,
        min_kept: int = 4096,
        threshold: float = 0.3,
        class_weight: Sequence[float] | None = None,
        loss_weight: float = 1.0,
        loss_name: str = "loss_bootstrapped",
    ):
        super().__init__()
        self.min_kept, self.threshold, self.class_weight = min_kept, threshold, class_weight
        self.loss_weight, self.loss_name = loss_weight, loss_name

    def forward(
        self, logits: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = 255
    ) -> Tensor:
        if weight is not None:
            raise ValueError(
                "this loss picks its own hard pixels: use a sampler, such as OHEMPixelSampler, with another"
            )
        of_class = None if self.class_weight is None else logits.new_tensor(self.class_weight).float()
        return self.loss_weight * bootstrapped_cross_entropy(
            logits, target, self.min_kept, self.threshold, ignore_index, weight=of_class
        )


@DATASETS.register_module()
class SegmentationDataset(BaseSegDataset):
    """A folder of pictures and one of label pictures, of like structure.

    Args:
        labels: name of a known set, "cityscapes" or "camvid": its classes, files and stored values. None:
            data of one's own.
        metainfo: for data of one's own, ``dict(classes=…, palette=…)``; the palette, an RGB colour a class,
            may be left out.
        stored: for data of one's own, value in a label picture -> class number or 255 (ignored); a class that
            it does not name is stored as its number, and 255 is always ignored.
        data_prefix: ``dict(img_path=…, seg_map_path=…)``; without ``seg_map_path`` the pictures have no
            labels, and are for prediction only.
        options: the further ones of mmengine's ``BaseDataset``.

    Pictures that lack a label are a UserError, with what is to be done.
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
        pictures, annotations = self.data_prefix["img_path"], self.data_prefix.get("seg_map_path")
        find = find_pairs if annotations is None else require_pairs
        items = []
        for picture, label in find(pictures, annotations, self.label_set):
            item = {"img_path": str(picture), "seg_fields": [], "reduce_zero_label": False}
            if label is not None:  # mmseg's LoadAnnotations reads with label_map, LoadLabels with the set
                item |= {"seg_map_path": str(label), "label_map": labels_of(label, self.label_set).stored}
            items.append(item)
        return items

    def get_data_info(self, idx: int) -> dict:
        return super().get_data_info(idx) | {"label_set": self.label_set}
