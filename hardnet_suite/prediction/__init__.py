"""Predictions for images, for every task: ``predict`` and its parts."""

from hardnet_suite.data.sources import SourceImage, images_of
from hardnet_suite.prediction.files import VideoFile
from hardnet_suite.prediction.items import Guess, PredictedBox, Segment
from hardnet_suite.prediction.model import LoadedModel, load_model
from hardnet_suite.prediction.options import Images
from hardnet_suite.prediction.result import Prediction
from hardnet_suite.prediction.run import predict
from hardnet_suite.prediction.writer import PredictionWriter

__all__ = [
    "Guess",
    "Images",
    "LoadedModel",
    "PredictedBox",
    "Prediction",
    "PredictionWriter",
    "Segment",
    "SourceImage",
    "VideoFile",
    "images_of",
    "load_model",
    "predict",
]
