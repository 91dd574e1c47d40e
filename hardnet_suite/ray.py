"""Predictions on Ray Data: images of an object store, or of any data set of Ray's, over many machines.

import ray
from hardnet_suite.ray import predict_dataset, write_lines

images = ray.data.read_binary_files("s3://bucket/images", include_paths=True)
lines = predict_dataset(images, "fchardnet70", weights="camvid_trainval", concurrency=8, num_gpus=1)
write_lines(lines, "s3://bucket/predictions")
"""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

try:
    import pyarrow.fs
    import ray.data
    from ray.data import SaveMode
    from ray.data.block import BlockAccessor
    from ray.data.datasource import BlockBasedFileDatasink
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] not in ("ray", "pyarrow", "pandas"):
        raise
    raise ModuleNotFoundError(
        "hardnet_suite.ray needs Ray Data: pip install 'hardnet-suite[ray]', or pip install 'ray[data]'",
        name=error.name,
    ) from None

import torch
from PIL import Image

from hardnet_suite.data.images import open_rgb
from hardnet_suite.data.sources import SourceImage
from hardnet_suite.errors import UserError
from hardnet_suite.numeric import is_count
from hardnet_suite.precision import Precision
from hardnet_suite.prediction import load_model
from hardnet_suite.prediction.batch import Wanted, require_counts, require_wanted
from hardnet_suite.prediction.run import predict_sources
from hardnet_suite.prediction.writer import failure_line

__all__ = ["predict_dataset", "write_lines"]

_COLUMNS = ("name", "line", "error")
_KEY = "__key__"  # of WebDataset: the name of a file up to its suffix, after which its column is called


def predict_dataset(
    dataset: ray.data.Dataset,
    model: str | Path,
    *,
    image: str = "bytes",
    name: str | Sequence[str] = "path",
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    top: int | None = None,
    score: float | None = None,
    batch_size: int = 1,
    precision: Precision | None = None,
    concurrency: int | tuple[int, int] = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> ray.data.Dataset:
    """Classifies, detects or segments the images of a Ray data set, lazily, as ``predict`` does.

    Args:
        dataset: one image per row, as ``ray.data.read_binary_files(..., include_paths=True)`` or
            ``ray.data.read_webdataset(..., decoder=None)`` reads them.
        model: as for ``load_model``; files must be in reach of all workers under the same path.
        image: the column with the content of the image files, as they are: images that another program has
            decoded would differ from those that ``predict`` reads.
        name: the column with their names, or several, joined by slashes. A ``"__key__"`` of
            ``read_webdataset``, a name without its suffix, is completed by that of the column ``image``. Keys
            may repeat from shard to shard: with ``include_paths=True``, ``("path", "__key__")`` are unique,
            and the names that ``predict`` gives to images of shards.
        weights: as for ``predict``.
        classes: as for ``predict``.
        top: as for ``predict``.
        score: as for ``predict``.
        batch_size: as for ``predict``.
        precision: "float32" or "bf16"; "auto" is refused, as workers could choose differently.
        concurrency: how many workers load the model, or the least and the most. They must leave a core of
            the cluster for reading.
        num_cpus: cores, and threads of PyTorch, per worker: the answers of 1 and 2 threads may differ in
            the last digit, as everywhere in PyTorch.
        num_gpus: GPUs per worker; 0 computes on the CPU.

    Returns:
        A data set with a row per image: ``name``; ``line``, the JSON that ``predict --out FILE.jsonl``
        writes; and ``error``, which is None unless the image cannot be read: its ``line`` then holds ``name``
        and ``error``, and ``name`` is None where the row has none. The order is that of the images only where
        Ray preserves it (``DataContext.execution_options.preserve_order``).

    Raises:
        UserError: the data set lacks a column.
        ValueError: an option out of range.
    """
    require_wanted(Wanted(top, score))
    require_counts(batch_size=batch_size)
    least, most = _worker_range(concurrency)
    if precision == "auto":
        raise ValueError("precision='auto' times one process: choose 'float32' or 'bf16' for Ray's workers")
    if not isinstance(model, str | Path):
        raise ValueError(f"expected the name or path of a model, got a {type(model).__name__}")
    columns = dataset.columns()
    names = (name,) if isinstance(name, str) else tuple(name)
    if not names or not all(isinstance(column, str) for column in names):
        raise ValueError(f"expected the name of a column, or several, got name={name!r}")
    missing = [column for column in (image, *names) if columns is not None and column not in columns]
    if missing:
        raise UserError(f"the data set has no column {missing[0]!r}, but {', '.join(columns)}")
    _warn_of_few_cores(least, num_cpus)
    options = {
        "model": model,
        "columns": (image, *names),
        "wanted": Wanted(top, score),
        "batch_size": batch_size,
        "threads": max(1, int(num_cpus)),
        "load": {
            "weights": weights,
            "classes": classes,
            "precision": precision,
            "device": "cuda" if num_gpus else "cpu",
        },
    }
    return dataset.select_columns(list(dict.fromkeys((image, *names)))).map_batches(
        _Worker,
        batch_size=batch_size,
        batch_format="pyarrow",  # NumPy has no None in a column
        fn_constructor_kwargs=options,
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


def write_lines(
    dataset: ray.data.Dataset, path: str, *, filesystem: pyarrow.fs.FileSystem | None = None
) -> None:
    """Writes the lines of ``predict_dataset`` into files of a folder, FOLDER/….jsonl.

    The files come as workers finish them. When all are there, an empty file ``_SUCCESS`` is added: a folder
    without it is of a run that failed, and is to be removed before the next.

    Args:
        dataset: what ``predict_dataset`` returned.
        path: the folder, local or of an object store; it must not exist.
        filesystem: as for Ray's ``write_json``.

    Raises:
        UserError: the folder exists; nothing is computed.
    """
    sink = _LinesSink(path, filesystem=filesystem, file_format="jsonl", mode=SaveMode.ERROR)
    if sink.exists():
        raise UserError(f"{path} exists: remove it, or choose another folder")
    dataset.write_datasink(sink)


def _worker_range(concurrency: int | tuple[int, int]) -> tuple[int, int]:
    """The least and the most workers.

    Raises:
        ValueError: neither a number of workers nor the least and the most.
    """
    counts = concurrency if isinstance(concurrency, tuple | list) else (concurrency, concurrency)
    if len(counts) != 2 or not all(is_count(count) for count in counts) or counts[0] > counts[1]:
        raise ValueError(
            f"concurrency={concurrency!r}: expected an integer of at least 1, or the least and the most"
        )
    return int(counts[0]), int(counts[1])


def _warn_of_few_cores(workers: int, num_cpus: float) -> None:
    """Ray waits forever, without an error, where its workers leave no core for reading."""
    least = workers * num_cpus
    cores = ray.cluster_resources().get("CPU", 0) if ray.is_initialized() else None
    if cores is not None and least + 1 > cores:
        warnings.warn(
            f"the workers take {least:g} of the {cores:g} cores that Ray has, and reading needs one: unless "
            "the cluster grows, nothing will run; use fewer workers, or ray.init(num_cpus=...)",
            stacklevel=3,
        )


class _LinesSink(BlockBasedFileDatasink):
    def exists(self) -> bool:
        return self.filesystem.get_file_info(self.path).type is not pyarrow.fs.FileType.NotFound

    def on_write_complete(self, write_result: Any) -> None:
        super().on_write_complete(write_result)
        with self.filesystem.open_output_stream(posixpath.join(self.path, "_SUCCESS")):
            pass

    def write_block_to_file(self, block: BlockAccessor, file: Any) -> None:
        for line in block.to_arrow()["line"].to_pylist():
            file.write(f"{line}\n".encode())


class _Worker:
    """One process with the model."""

    def __init__(
        self,
        model: str | Path,
        columns: tuple[str, ...],
        wanted: Wanted,
        batch_size: int,
        threads: int,
        load: dict[str, Any],
    ):
        torch.set_flush_denormal(True)  # as the command does
        torch.set_num_threads(threads)
        self._model = load_model(model, **load)
        self._columns, self._wanted, self._batch_size = columns, wanted, batch_size

    def __call__(self, batch: pyarrow.Table) -> dict[str, list[str | None]]:
        image, *others = self._columns
        images = batch.column(image).to_pylist()
        names = [_names_in(column, batch.column(column).to_pylist(), image) for column in others]
        rows: list[tuple[str | None, str, str | None]] = []

        def skip(source: SourceImage, error: UserError) -> None:
            name, reason = source.name or None, str(error)
            rows.append((name, failure_line(name, reason), reason))

        predictions = predict_sources(  # in order, with skip called in its place
            self._model,
            (
                SourceImage(name, partial(_opened, content, name))
                for content, name in zip(images, map(_joined, zip(*names, strict=True)), strict=True)
            ),
            skip,
            top=self._wanted.top,
            score=self._wanted.score,
            batch_size=self._batch_size,
            workers=0,
        )
        for prediction in predictions:
            rows.append((prediction.name, prediction.to_json(), None))
        return {column: [row[index] for row in rows] for index, column in enumerate(_COLUMNS)}


def _names_in(column: str, values: Sequence[Any], image: str) -> list[Any]:
    """Values of a column; keys of WebDataset as names of the files of the column ``image``."""
    return [f"{value}.{image}" if column == _KEY and value is not None else value for value in values]


def _joined(parts: Sequence[Any]) -> str:
    """The name of an image; empty where a part is missing."""
    return "" if None in parts else "/".join(map(str, parts))


def _opened(content: Any, name: str) -> Image.Image:
    if not name:
        raise UserError("the row has no name")
    if content is None:
        raise UserError(f"{name}: the row has no image")
    if not isinstance(content, bytes):
        raise ValueError(
            f"{name}: expected the content of an image file, got a {type(content).__name__}; Ray reads it "
            "with read_binary_files, or read_webdataset(..., decoder=None)"
        )
    return open_rgb(content, name)
