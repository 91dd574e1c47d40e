# ImageNet (https://www.image-net.org): DATA_ROOT/train/WNID/*.JPEG and DATA_ROOT/val/WNID/*.JPEG, a folder for each of
# the 1000 WordNet ids (some of them will do for scoring). --data-root moves every path.
data_root = "data/imagenet/"
num_classes = 1000

crop_and_flip = [
    dict(type="torchvision/RandomResizedCrop", size=224),
    dict(type="torchvision/RandomHorizontalFlip"),
]
test_pipeline = [
    dict(type="torchvision/Resize", size=256),
    dict(type="torchvision/CenterCrop", size=224),
    dict(type="PackClass"),
]
train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ClassificationDataset",
        data_root=data_root,
        folder="train",
        classes="imagenet",
        pipeline=[*crop_and_flip, dict(type="PackClass")],
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ClassificationDataset",
        data_root=data_root,
        folder="val",
        classes="imagenet",
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
val_evaluator = dict(type="ImageClassification")
test_evaluator = val_evaluator
