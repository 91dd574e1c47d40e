"""Small variants of the configs that have HarDNet as another program's backbone, for drawn shapes."""

from __future__ import annotations

from pathlib import Path

from hardnet_suite.config_names import OWN_CONFIGS

_COMMON = """
trunk = "hardnet39ds"
things = ("circle", "square", "triangle", "star", "ring", "cross")
width = 32
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(128, 128), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
one_process = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(max_epochs=1, val_interval=1)
auto_scale_lr = dict(enable=False)
param_scheduler = [dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20)]
visualizer = dict(vis_backends=[dict(type="LocalVisBackend")])
"""
MASK_RCNN = f"""
_base_ = "{OWN_CONFIGS}/mask_rcnn_hardnet68.py"
from hardnet_suite.networks import feature_channels
{_COMMON}
model = dict(
    backbone=dict(arch=trunk, pretrained=None),
    neck=dict(in_channels=feature_channels(trunk), out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(num_classes=len(things), in_channels=width, fc_out_channels=64),
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(num_classes=len(things), in_channels=width, conv_out_channels=width),
    ),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
drawn = dict(metainfo=dict(classes=things))
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline, **drawn), **one_process)
val_dataloader = dict(batch_size=2, dataset=dict(pipeline=test_pipeline, **drawn), **one_process)
test_dataloader = val_dataloader
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-3, weight_decay=0.01), clip_grad=dict(max_norm=10.0)
)
"""
MASK2FORMER = f"""
_base_ = "{OWN_CONFIGS}/mask2former_hardnet68_panoptic.py"
from hardnet_suite.networks import feature_channels
{_COMMON}
stuff = ("ground",)
counts = dict(num_things_classes=len(things), num_stuff_classes=len(stuff))
attention = dict(embed_dims=width, num_heads=4)
layer = dict(self_attn_cfg=attention, ffn_cfg=dict(embed_dims=width, feedforward_channels=64))
position = dict(num_feats=width // 2)
model = dict(
    backbone=dict(arch=trunk, pretrained=None),
    panoptic_head=dict(
        in_channels=feature_channels(trunk),
        feat_channels=width,
        out_channels=width,
        num_queries=20,
        pixel_decoder=dict(
            norm_cfg=dict(num_groups=8),
            encoder=dict(num_layers=2, layer_cfg=layer),
            positional_encoding=position,
        ),
        positional_encoding=position,
        transformer_decoder=dict(num_layers=3, layer_cfg=dict(cross_attn_cfg=attention, **layer)),
        loss_cls=dict(class_weight=[1.0] * (len(things) + len(stuff)) + [0.1]),
        **counts,
    ),
    panoptic_fusion_head=counts,
    train_cfg=dict(num_points=1024),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadPanoptic"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
drawn = dict(metainfo=dict(thing_classes=things, stuff_classes=stuff))
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline, **drawn), **one_process)
val_dataloader = dict(batch_size=2, dataset=dict(pipeline=test_pipeline, **drawn), **one_process)
test_dataloader = val_dataloader
optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))),
    clip_grad=dict(max_norm=1.0),
)
"""


def write_config(path: Path, text: str, more: str = "") -> Path:
    """Writes one of these configs, with further lines, and returns its path."""
    path.write_text(f"{text}\n{more}\n")
    return path
