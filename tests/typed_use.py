"""What users write, for the type checker: every line passes, or fails as its comment says."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from hardnet_suite import LoadedModel, Prediction, create_model, list_models, load_model, predict
from hardnet_suite.prediction import Guess, Images, PredictedBox, Segment


def loops(prediction: Prediction) -> None:
    for item in prediction:
        print(item.name, item.score, item.xyxy)
    for box in prediction.detections:
        print(box.name, box.score, box.xyxy[0] + 1)
        print(box.mask)  # type: ignore[attr-defined]
    for guess in prediction.guesses:
        print(guess.xyxy)  # type: ignore[attr-defined]
    for segment in prediction.segments:
        print(segment.mask.sum())
    first: PredictedBox = prediction.detections[0]
    best: Guess = prediction[0]
    largest: list[Segment] = prediction[:2]
    print(first, best, largest, len(prediction), prediction.rows()[0]["name"])


def images(model: LoadedModel, network: nn.Module) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    paths: list[str | Path] = ["a.jpg", Path("b.jpg")]
    good: list[Images] = ["a.jpg", Path("a.jpg"), 0, image, Image.fromarray(image), torch.zeros(3, 8, 8)]
    good += [b"", BytesIO(), paths, [image, "a.jpg"], (Path("a.jpg"),), iter(paths)]
    for each in good:
        model(each, top=3, score=0.5)
        predict(network, each)
    (prediction,) = predict(model, paths)
    print(prediction.names)
    for prediction in model("clip.mp4", stream=True):
        print(prediction.name)
    model(3.5)  # type: ignore[call-overload]
    model(None)  # type: ignore[call-overload]
    predict("m", {"a": 1})  # type: ignore[call-overload]
    predict("m", "a.jpg", score="0.5")  # type: ignore[call-overload]
    predict("m", "a.jpg", threshold=0.5)  # type: ignore[call-overload]


def models() -> None:
    names: list[str] = list_models("*hardnet68*")
    network: nn.Module = create_model(names[0], num_classes=3)
    load_model(network)  # type: ignore[arg-type]
    print(load_model("ssd320_hardnet39ds", weights="bccd", device="cpu").classes[0].upper())
