"""``demo``: a page with the models in the package."""

from __future__ import annotations

import argparse
from typing import Any

from hardnet_suite.cli._options import add_threads_argument, flush_denormals, set_threads, show
from hardnet_suite.cli.samples import SAMPLES
from hardnet_suite.cli.serve import add_server_arguments, application, limits_of, listen, require_extra

# model, tag of its weights, and the drawn image that it is for; all in the package
_MODELS = (
    ("hardnet39ds", "tiny_imagenet10_128", "bus.jpg"),
    ("ssd320_hardnet39ds", "bccd", "cells.jpg"),
    ("fchardnet70", "camvid_trainval", "street.jpg"),
)
_PAIR = "street.jpg"  # matched with itself, seen from elsewhere


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_threads_argument(parser)
    add_server_arguments(parser, port=7860)


def run(args: argparse.Namespace) -> None:
    require_extra()
    set_threads(args.threads)
    flush_denormals()
    limits_of(args)  # an error comes before models are loaded
    from hardnet_suite.matching import HardNetDetector, match_features
    from hardnet_suite.prediction import load_model

    models, samples = {}, {}
    for model, tag, sample in _MODELS:
        name = f"{model}-{tag}"
        models[name] = load_model(model, weights=tag)
        samples[models[name].task] = {sample: (SAMPLES / sample).read_bytes()}
        show(f"model {name}: {models[name].summary}")
    samples["match"] = _pair()
    describer = HardNetDetector(weights="homography", top_k=1024)

    def match(a: Any, b: Any) -> Any:
        return match_features(describer.features(a), describer.features(b), geometry="homography")

    listen(application(args, models, matcher=match, samples=samples), args, "open it in a browser")


def _pair() -> dict[str, bytes]:
    """Two views of a drawing."""
    import io

    from PIL import Image

    content = (SAMPLES / _PAIR).read_bytes()
    image = Image.open(io.BytesIO(content))
    stream = io.BytesIO()
    image.rotate(12, Image.Resampling.BICUBIC, fillcolor="white").save(stream, "JPEG", quality=90)
    return {_PAIR: content, "turned.jpg": stream.getvalue()}
