"""One call from pictures to answers, for every task: ``predict``, and what it is made of."""

from hardnet_suite.prediction.model import LoadedModel, load_model
from hardnet_suite.prediction.result import Prediction
from hardnet_suite.prediction.run import predict
from hardnet_suite.prediction.sources import Picture, pictures_of

__all__ = ["LoadedModel", "Picture", "Prediction", "load_model", "pictures_of", "predict"]
