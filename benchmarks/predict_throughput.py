"""How much of its time ``predict`` keeps the network busy: end to end against its slower part.

    python benchmarks/predict_throughput.py --model hardnet68 --images FOLDER --batch-size 8

In turn, on the same images: decoding and preparing them alone ("decoder", in as many threads),
the network and its answers alone on prepared inputs ("network"), ``predict`` without and with threads,
and with ``--draw`` also drawing and writing. The ratio is that of the end-to-end rate to the smaller of the
decoder's and the network's. Without ``--images``, JPEG files are drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hardnet_suite import create_model
from hardnet_suite.data.sources import images_of
from hardnet_suite.outputs import write_file
from hardnet_suite.prediction import LoadedModel, PredictionWriter, load_model, predict
from hardnet_suite.prediction.batch import Wanted, predictions_of, prepare_source
from hardnet_suite.prediction.model import model_of_network
from hardnet_suite.prediction.workers import map_ahead
from hardnet_suite.timing import interleaved, median_ratio


def draw_images(folder: Path, count: int, width: int, height: int) -> None:
    """JPEG files of smooth noise, as large as photographs of that size."""
    random = np.random.default_rng(0)
    for index in range(count):
        coarse = random.integers(0, 256, (height // 6, width // 6, 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:05}.jpg", quality=90)


def decode(model: LoadedModel, folder: Path, workers: int, count: int) -> None:
    """Decodes and prepares every image in threads."""
    images = map_ahead(
        partial(prepare_source, model), images_of(folder), workers=workers, ahead=2 * workers + 1
    )
    assert sum(1 for _, future in images if future.result()) == count


def measure(
    model: LoadedModel, folder: Path, *, batch_size: int, workers: int, rounds: int, draw: bool
) -> dict[str, float]:
    """Images per second of every part, and the ratios of end to end to the slower part.

    Args:
        model: on its device.
        folder: images that can be read.
        batch_size: of ``predict``.
        workers: threads.
        rounds: how often every part has its turn.
        draw: whether drawings are made and written, too.
    """
    paths = [source.name for source in images_of(folder)]
    prepared = [prepare_source(model, source) for source in images_of(folder)]
    batches = [prepared[start : start + batch_size] for start in range(0, len(prepared), batch_size)]
    shapes = [{tuple(one.pixels.shape) for one in batch} for batch in batches]
    if any(len(shape) > 1 for shape in shapes):
        raise SystemExit("the images' inputs differ in size: give images of one size")

    def compute() -> None:
        for batch in batches:
            predictions_of(model, batch, [Wanted()] * len(batch))

    def run(count: int) -> None:
        stream = predict(model, folder, batch_size=batch_size, workers=count, stream=True)
        assert sum(1 for _ in stream) == len(paths)

    def run_and_draw(count: int) -> None:
        with tempfile.TemporaryDirectory() as out:
            writer = PredictionWriter(out)
            writer.create()
            stream = predict(model, folder, batch_size=batch_size, workers=count, stream=True)
            drawn = map_ahead(writer.stage.add, stream, workers=count, ahead=2 * count + 1)
            assert sum(1 for _, staged in drawn if writer.place(staged.result())) == len(paths)

    parts: dict[str, Callable[[], object]] = {
        "decoder": partial(decode, model, folder, workers, len(paths)),
        "network": compute,
        "end to end, 0 threads": partial(run, 0),
        f"end to end, {workers} threads": partial(run, workers),
    }
    if draw:
        parts["with drawings, 0 threads"] = partial(run_and_draw, 0)
        parts[f"with drawings, {workers} threads"] = partial(run_and_draw, workers)
    synchronize = torch.cuda.synchronize if model.device.type == "cuda" else None
    seconds = interleaved(parts, rounds=rounds, synchronize=synchronize)
    figures = {name: len(paths) / statistics.median(times) for name, times in seconds.items()}
    slower = [max(pair) for pair in zip(seconds["decoder"], seconds["network"], strict=True)]
    for name in parts:
        if name.startswith("end"):
            figures[f"{name}: of the slower part"] = 1 / median_ratio(seconds[name], slower)
    both = [sum(pair) for pair in zip(seconds["decoder"], seconds["network"], strict=True)]
    figures["end to end against decoder + network, one after the other"] = 1 / median_ratio(
        seconds[f"end to end, {workers} threads"], both
    )
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="hardnet68", help="random weights if it has none here")
    parser.add_argument("--weights")
    parser.add_argument("--images", type=Path, help="a folder of images whose inputs have one size")
    parser.add_argument("--count", type=int, default=64, help="of drawn images")
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("H", "W"))
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--workers", type=int, default=min(len(os.sched_getaffinity(0)), 8))
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draw", action="store_true", help="also time drawing and writing")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.weights:
        loaded = load_model(args.model, weights=args.weights, bf16=args.bf16)
    else:
        network = create_model(args.model).eval().to("cuda" if torch.cuda.is_available() else "cpu")
        loaded = model_of_network(network.to(memory_format=torch.channels_last), bf16=args.bf16)
    with tempfile.TemporaryDirectory() as drawn:
        if args.images is None:
            draw_images(Path(drawn), args.count, args.size[1], args.size[0])
        figures = measure(
            loaded,
            args.images or Path(drawn),
            batch_size=args.batch_size,
            workers=args.workers,
            rounds=args.rounds,
            draw=args.draw,
        )
    print(
        f"| {args.model}, batch {args.batch_size}, {torch.get_num_threads()} threads of PyTorch | images/s |"
    )
    print("|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:.2f} |")
    if args.json:
        write_file(args.json, json.dumps(figures, indent=2) + "\n")
