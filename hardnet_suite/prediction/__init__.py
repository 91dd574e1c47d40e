"""One call from images to answers, for every task: ``predict``, and what it is made of."""

from hardnet_suite.data.sources import SourceImage, images_of
from hardnet_suite.prediction.model import LoadedModel, load_model
from hardnet_suite.prediction.result import Prediction
from hardnet_suite.prediction.run import predict

__all__ = ["LoadedModel", "Prediction", "SourceImage", "images_of", "load_model", "predict"]
