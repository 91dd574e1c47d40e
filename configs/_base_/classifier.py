# A HarDNet classifier. A config sets arch and num_classes.
# Input: RGB, (x / 255 − mean) / std with ImageNet's mean and std.
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(
        type="ClassificationPreprocessor",
        mean=[255 * value for value in (0.485, 0.456, 0.406)],
        std=[255 * value for value in (0.229, 0.224, 0.225)],
    ),
)
default_scope = "mmengine"
visualizer = dict(
    type="Visualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
)
