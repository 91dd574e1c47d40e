# A HarDNet classifier. A config says arch and num_classes.
# Input: RGB pixels / 255, less ImageNet's mean, by its standard deviation.
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(
        type="ClassificationPreprocessor",
        mean=[255 * value for value in (0.485, 0.456, 0.406)],
        std=[255 * value for value in (0.229, 0.224, 0.225)],
    ),
)
default_scope = "mmengine"
