# HarDNet-68 as the backbone of another program's model: Mask2Former of mmdet, panoptic segmentation of COCO.
_base_ = ["_base_/runtime.py", "_base_/coco_panoptic.py"]
from hardnet_suite.networks import feature_channels

trunk = "hardnet68"
crop = 1024
num_things, num_stuff = 80, 53
width = 256  # channels of the decoders

# The network, which reads maps of stride 4, 8, 16 and 32. Input: RGB, (x / 255 − mean) / std with ImageNet's mean and
# std, as the published weights of the trunk expect it.
attention = dict(embed_dims=width, num_heads=8, dropout=0.0, batch_first=True)
activation = dict(type="ReLU", inplace=True)
counts = dict(num_things_classes=num_things, num_stuff_classes=num_stuff)
model = dict(
    type="Mask2Former",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        pad_mask=True,
        mask_pad_value=0,
        pad_seg=True,
        seg_pad_value=255,
    ),
    # published ImageNet weights of the trunk; --from-scratch trains without them
    backbone=dict(type="HarDNet", arch=trunk, pretrained=True),
    panoptic_head=dict(
        type="Mask2FormerHead",
        in_channels=feature_channels(trunk),
        strides=[4, 8, 16, 32],
        feat_channels=width,
        out_channels=width,
        num_queries=100,
        num_transformer_feat_level=3,
        pixel_decoder=dict(
            type="MSDeformAttnPixelDecoder",
            num_outs=3,
            norm_cfg=dict(type="GN", num_groups=32),
            act_cfg=dict(type="ReLU"),
            encoder=dict(
                num_layers=6,
                layer_cfg=dict(
                    self_attn_cfg=dict(num_levels=3, num_points=4, **attention),
                    ffn_cfg=dict(
                        embed_dims=width,
                        feedforward_channels=1024,
                        num_fcs=2,
                        ffn_drop=0.0,
                        act_cfg=activation,
                    ),
                ),
            ),
            positional_encoding=dict(num_feats=width // 2, normalize=True),
        ),
        positional_encoding=dict(num_feats=width // 2, normalize=True),
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=9,
            layer_cfg=dict(
                self_attn_cfg=attention,
                cross_attn_cfg=attention,
                ffn_cfg=dict(
                    embed_dims=width, feedforward_channels=2048, num_fcs=2, ffn_drop=0.0, act_cfg=activation
                ),
            ),
            init_cfg=None,
        ),
        loss_cls=dict(
            type="CrossEntropyLoss",
            use_sigmoid=False,
            loss_weight=2.0,
            reduction="mean",
            class_weight=[1.0] * (num_things + num_stuff) + [0.1],  # the last: no object
        ),
        loss_mask=dict(type="CrossEntropyLoss", use_sigmoid=True, reduction="mean", loss_weight=5.0),
        loss_dice=dict(
            type="DiceLoss",
            use_sigmoid=True,
            activate=True,
            reduction="mean",
            naive_dice=True,
            eps=1.0,
            loss_weight=5.0,
        ),
        **counts,
    ),
    panoptic_fusion_head=dict(type="MaskFormerFusionHead", loss_panoptic=None, init_cfg=None, **counts),
    train_cfg=dict(
        num_points=112 * 112,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        assigner=dict(
            type="HungarianAssigner",
            match_costs=[
                dict(type="ClassificationCost", weight=2.0),
                dict(type="CrossEntropyLossCost", weight=5.0, use_sigmoid=True),
                dict(type="DiceCost", weight=5.0, pred_act=True, eps=1.0),
            ],
        ),
        sampler=dict(type="MaskPseudoSampler"),
    ),
    test_cfg=dict(panoptic_on=True, semantic_on=False, instance_on=False, iou_thr=0.8, filter_low_score=True),
    init_cfg=None,
)

# The data.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadPanoptic"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=(crop, crop), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type="RandomCrop",
        crop_size=(crop, crop),
        crop_type="absolute",
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

# Its published recipe: 50 epochs, batches of 16, AdamW with learning rate 0.0001, a tenth of it for the backbone, divided
# by 10 after 9/10 of the run and once more near its end.
train_cfg = dict(type="ResumableEpochLoop", max_epochs=50, val_interval=5)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
embedding = dict(lr_mult=1.0, decay_mult=0.0)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=0.1), query_embed=embedding, query_feat=embedding, level_embed=embedding
        ),
        norm_decay_mult=0.0,
    ),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
param_scheduler = [dict(type="MultiStepLR", milestones=[44, 48], gamma=0.1)]
auto_scale_lr = dict(enable=True, base_batch_size=16)  # scales the learning rate with the batch size
default_hooks = dict(checkpoint=dict(save_best="coco/PQ"))
