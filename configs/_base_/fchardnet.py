# FC-HarDNet in mmsegmentation. A config sets arch, num_classes and the crop it trains on.

# Input: BGR, (x / 255 − mean) / std.
model = dict(
    type="HarDNetSegmentor",
    data_preprocessor=dict(
        type="mmseg.SegDataPreProcessor",
        mean=[255 * value for value in (0.406, 0.456, 0.485)],
        std=[255 * value for value in (0.225, 0.224, 0.229)],
        bgr_to_rgb=False,
        pad_val=0,
        seg_pad_val=255,
        test_cfg=dict(size=(64, 64)),  # smaller images are padded to 64: the largest stride
    ),
    backbone=dict(type="HarDNet"),
    decode_head=dict(type="FCHarDNetHead"),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
