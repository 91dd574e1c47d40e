# FC-HarDNet in mmsegmentation. A config says num_classes and the crop it trains on.

# Input: BGR pixels / 255, less the mean, by the standard deviation.
model = dict(
    type="mmseg.EncoderDecoder",
    data_preprocessor=dict(
        type="mmseg.SegDataPreProcessor",
        mean=[255 * value for value in (0.406, 0.456, 0.485)],
        std=[255 * value for value in (0.225, 0.224, 0.229)],
        bgr_to_rgb=False,
        pad_val=0,
        seg_pad_val=255,
        test_cfg=dict(size=(64, 64)),  # smaller images are padded: the network halves them six times
    ),
    backbone=dict(type="HarDNet", arch="fchardnet70", out_indices=(1, 2, 3, 4, 5), tap="block"),
    decode_head=dict(
        type="FCHarDNetHead",
        arch="fchardnet70",
        in_channels=[48, 78, 160, 214, 286],
        channels=48,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
