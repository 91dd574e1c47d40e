"""From a model's name and a data folder to a config: ``train MODEL --data FOLDER``."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hardnet_suite.data.boxes import OUTLINES, BoxData, BoxImage, copies_told, split_name
from hardnet_suite.data.classes import readable
from hardnet_suite.data.classification import Samples, choose, csv_text, read_folder
from hardnet_suite.data.coco.folder import NO_ANNOTATIONS
from hardnet_suite.data.coco.layout import read_json
from hardnet_suite.data.conversion.coco import coco_content
from hardnet_suite.data.conversion.convert import read_boxes
from hardnet_suite.data.conversion.target import annotations_digest
from hardnet_suite.data.folders import (
    SegmentationFolder,
    draw_validation,
    find_class_folders,
    find_segmentation,
    missing_labels,
    tasks_of,
)
from hardnet_suite.data.images import IMAGE_SUFFIXES, header_sizes, walk_files
from hardnet_suite.data.report import brief_lines, counted, shortened
from hardnet_suite.data.segmentation import find_pairs
from hardnet_suite.data.segmentation.pairs import list_text
from hardnet_suite.errors import UserError
from hardnet_suite.inference.labels import ONE_CLASS
from hardnet_suite.networks import ARCHS, CenterNetArch, FCHarDNetArch, HarDNetArch, MSEGArch, SSDArch
from hardnet_suite.openmm.data.parts import label_set
from hardnet_suite.openmm.run.config_copies import flat_copy
from hardnet_suite.openmm.run.recipes import (
    Plan,
    Start,
    choose_batch_size,
    choose_epochs,
    choose_workers,
    classification,
    detection,
    segmentation,
)
from hardnet_suite.openmm.run.resuming import (
    Image,
    RunRecord,
    images_of,
    is_record,
    record_path,
    relative_name,
    require_resumable,
    resumed_record,
)
from hardnet_suite.outputs import require_replaceable, write_file
from hardnet_suite.run_folders import CHOSEN
from hardnet_suite.weights import ROWS, WeightsRow, fetch
from hardnet_suite.weights.layouts import LAYOUTS

_TASKS = {
    SSDArch: "detection",
    CenterNetArch: "detection",
    FCHarDNetArch: "segmentation",
    MSEGArch: "segmentation",
    HarDNetArch: "classification",
}
_NEEDED = {
    "detection": "COCO, VOC, YOLO, LabelMe or CVAT boxes",
    "segmentation": "images and label images (images/train and labels/train …)",
    "classification": "a folder of images per class (train/CLASS/IMAGE)",
}
_DESCRIPTION = "written by hardnet-suite train --data"
_USUAL_STEMS = ("data", "dataset", "annotations", "_annotations.coco")
_LOOKED_AT = 200  # images whose sizes are read


@dataclass(frozen=True)
class Choices:
    """What the user chose in place of the data; None: as the data suggest.

    Attributes:
        epochs: how often every image is seen.
        image_size: side of the input in pixels; of a segmentor, of the crop.
        batch_size: images of one iteration, on each rank.
        global_batch_size: images of one iteration on all ranks together, in place of ``batch_size``.
        ranks: processes that train together.
        from_scratch: starts from random weights.
        resume: goes on with the run in the work dir (True), or with that of a checkpoint or folder: what is
            None is as in that run, whatever the data suggest now.
    """

    epochs: int | None = None
    image_size: int | None = None
    batch_size: int | None = None
    from_scratch: bool = False
    resume: bool | str = False
    global_batch_size: int | None = None
    ranks: int = 1


@dataclass(frozen=True)
class _Request:
    """What a config is asked for.

    Attributes:
        model: a name of ``list_models()``.
        data: the data, an absolute path.
        work_dir: folder of the run, an absolute path.
        choices: what the data need not decide.
        before: the run that is resumed, if any.
        gpu: whether it is trained on a GPU.
        say: called with each line that tells what was chosen.
    """

    model: str
    data: Path
    work_dir: Path
    choices: Choices
    before: RunRecord | None
    gpu: bool
    say: Callable[[str], None]


@dataclass(frozen=True)
class _ConfigDraft:
    """What a config is written of.

    Attributes:
        text: of the config.
        plan: what was chosen.
        images: split -> its images.
        files: what is read beside the images -> its content.
    """

    text: str
    plan: Plan
    images: Mapping[str, Sequence[Image]]
    files: Mapping[Path, str]


def default_work_dir(model: str, data: str | Path) -> Path:
    """Where a run goes by default; the "-" keeps it apart from the runs of the suite's configs."""
    path = Path(os.path.abspath(data))
    name = path.name
    if path.is_file():
        is_inner = path.parent.name == "annotations" or split_name(path.parent.name)
        folder = path.parent.parent if is_inner else path.parent
        name = folder.name if path.stem in _USUAL_STEMS else f"{folder.name}-{path.stem}"
    return Path("work_dirs", f"{model}-" + re.sub(r"[^\w.-]", "_", name))


def require_model(name: str) -> str:
    """The task of a model that can be trained from a data folder.

    Raises:
        UserError: an unknown name, or a model without such a task.
    """
    trainable = [model for model in sorted(ARCHS) if type(ARCHS[model]) in _TASKS]
    if name not in ARCHS:
        raise UserError(f"--data goes with the name of a model, got {name}; there are {', '.join(trainable)}")
    if name not in trainable:
        raise UserError(
            f"{name} describes patches: train it with a config, hardnet-suite train "
            "hardnet_descriptor_homography --data-root FOLDER (with sets of patches in train and val, as "
            f"make-patches writes them); models that --data is for: {', '.join(trainable)}"
        )
    return _TASKS[type(ARCHS[name])]


def write_config(
    model: str,
    data: str | Path,
    work_dir: str | Path,
    choices: Choices | None = None,
    *,
    gpu: bool = False,
    say: Callable[[str], None] = print,
    replaced: dict[Path, bytes | None] | None = None,
) -> Path:
    """Writes a config for training a model on a data folder, with all that it needs beside the images.

    The config, flat, is ``work_dir``/NAME.py; annotations in COCO's format and lists of images go to
    ``work_dir``/annotations. Images stay where they are. Nothing is written before all is checked.

    Args:
        model: a name of ``list_models()``.
        data: folder of the data; of COCO and YOLO data sets also the JSON or YAML file.
        work_dir: folder of the run.
        choices: what the data need not decide.
        gpu: whether it is trained on a GPU, for batch and image sizes.
        say: called with each line that tells what was chosen.
        replaced: gets the files of an earlier run that were replaced -> their content before; of one that is
            resumed, also new files -> None. ``put_back`` undoes it where the training is refused after all.

    Returns:
        The path of the config.

    Raises:
        UserError: the data cannot be read or are of another task, a choice is out of range, a file of the
            user's is in the way, or a run cannot be resumed with these data and choices.
    """
    task = require_model(model)
    data, work_dir = Path(os.path.abspath(data)), Path(os.path.abspath(work_dir))
    choices = choices or Choices()
    _require_choices(model, choices)
    if not data.exists():
        raise UserError(f"no folder {data}: give the folder of the data with --data")
    tasks = tasks_of(data)
    if task not in tasks:
        what = f"has data for {' and '.join(tasks)}" if tasks else "has no data of a known layout"
        lacking = missing_labels(data) if task == "segmentation" else None
        raise UserError(
            f"{data} {what}, but {model} is for {task}: it needs {_NEEDED[task]}"
            + (f"; {lacking}" if lacking else "")
        )
    path = work_dir / f"{work_dir.name}.py"
    require_replaceable(path, _is_unchanged, writer="training", option="--work-dir")
    build = {"detection": _detection, "segmentation": _segmentation, "classification": _classification}[task]
    before = resumed_record(choices.resume, work_dir, say)
    if before is not None and choices.from_scratch and before.plan.start.is_trained:
        raise UserError(
            "cannot resume with --from-scratch: the run began with pretrained weights; leave the option out, "
            "or start a new run in another --work-dir"
        )
    built = build(_Request(model, data, work_dir, choices, before, gpu, say))
    title, text = f"# {model} on {data}.", built.text
    if "{{" in text:
        raise UserError(f"{data}: a path or class name contains {{{{, which configs read as a variable")
    with tempfile.TemporaryDirectory() as folder:
        derived = Path(folder, path.name)
        derived.write_text(f"{title}\n{text}\nwork_dir = {str(work_dir)!r}\n", encoding="utf-8")
        flat = flat_copy(derived, origin=f"# `hardnet-suite train {model} --data …` chose it from the data.")
    images = built.images if before is None else before.followed_by(built.images)
    record = RunRecord(built.plan, images).to_json()
    files = {
        **built.files,
        record_path(work_dir): record,
        path: f"{CHOSEN}{_digest(flat)}\n{flat}",
    }
    _write(files, {} if replaced is None else replaced, resumes=before is not None)
    say(f"config: {_shown(path)}; train, test and predict read it")
    return path


def _write(texts: Mapping[Path, str], replaced: dict[Path, bytes | None], *, resumes: bool) -> None:
    """Writes what is not there yet, once all of it may take its place."""
    contents = {path: text.encode() for path, text in texts.items()}
    for path, content in contents.items():
        is_own = {".py": _is_unchanged, ".json": _is_unchanged_json}.get(path.suffix)
        require_replaceable(
            path,
            is_own or (lambda file, content=content: file.read_bytes() == content),
            writer="training" if is_own else "training on the same images",
            option="--work-dir",
        )
    for path, content in contents.items():
        before = path.read_bytes() if path.exists() else None
        if before == content:
            continue
        if resumes or before is not None:
            replaced[path] = before
        write_file(path, content)


def put_back(replaced: Mapping[Path, bytes | None]) -> None:
    """Undoes what ``write_config`` has replaced, where the training could not begin."""
    for path, content in replaced.items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            write_file(path, content)


def _shown(path: Path) -> str:
    """A path as a line shows it: from the current folder where it is in it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_unchanged(path: Path) -> bool:
    """Whether a config is as an earlier run wrote it."""
    try:
        first, _, rest = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return False
    return first == CHOSEN + _digest(rest)


def _require_choices(model: str, choices: Choices) -> None:
    for name, value in (("--epochs", choices.epochs), ("--batch-size", choices.batch_size)):
        if value is not None and not 1 <= value <= 100_000:
            raise UserError(f"{name} {value}: expected a number from 1")
    size, arch = choices.image_size, ARCHS[model]
    if size is None:
        return
    if isinstance(arch, SSDArch) and size != arch.size:
        others = [name for name, other in ARCHS.items() if isinstance(other, SSDArch) and other.size == size]
        more = f" ({', '.join(others)} takes {size})" if others else ""
        raise UserError(
            f"--image-size {size}: the boxes of {model} are made for {arch.size}×{arch.size} pixels{more}"
        )
    if not 32 <= size <= 4096 or (size % 32 and not isinstance(arch, SSDArch | HarDNetArch)):
        raise UserError(f"--image-size {size}: expected a multiple of 32, from 32 to 4096")


def _start(request: _Request, classes: Sequence[str]) -> Start:
    """The best weights that can be had: whole networks before trunks, published before shipped.

    A run that is resumed began with its own, by which its schedule goes: others may be had now.
    """
    if request.before is not None:
        return request.before.plan.start
    if request.choices.from_scratch:
        return Start()
    rows = [
        row
        for row in ROWS
        if row.model == request.model and row.tag != "published_2" and _computes_alike(row)
    ]
    rows.sort(key=lambda row: _preference(row, classes))
    unavailable: list[str] = []
    for row in rows:
        try:
            path = fetch(row, timeout=5)
        except UserError as error:
            unavailable.append(f"{row.tag} ({_reason(error)})")
            continue
        _tell_unavailable(unavailable, request.say)
        if _fits(row, classes):
            request.say(
                f"the weights {row.tag!r} were trained on these classes: if on images of the validation "
                "split, these are not new to them"
            )
        return Start(tag=row.tag) if row.base_only else Start(load_from=str(path))
    _tell_unavailable(unavailable, request.say)
    return Start()


def _preference(row: WeightsRow, classes: Sequence[str]) -> tuple[bool, ...]:
    """A key that sorts rows, the best first.

    Classes like a row's suggest its data: of such rows, those that were not trained on its validation split
    come first.
    """
    fits = _fits(row, classes)
    return row.base_only, not fits, fits and row.saw_validation, row.shipped is not None


def _computes_alike(row: WeightsRow) -> bool:
    """Whether the weights belong to the network of the model as it is, and its input rule."""
    layout = LAYOUTS.get(row.layout)
    return layout is None or (
        layout.name != "onnx"
        and layout.arch_of(row.model) is None
        and layout.preprocess_of(row.model) is None
    )


def _tell_copies(splits: Mapping[str, Sequence[Path]], say: Callable[[str], None]) -> None:
    if told := copies_told(splits):
        say(f"warning: image in several splits: {': '.join(told)}")


def _reason(error: UserError) -> str:
    """Why weights cannot be had, in short: what the first address said, or the error's first words."""
    first = str(error).partition("; ")[0]
    said = re.search(r"https?://\S+ \((.+)\)$", first)
    return said[1] if said else shortened(first, 100)


def _tell_unavailable(names: Sequence[str], say: Callable[[str], None]) -> None:
    if names:
        say(f"unavailable weights: {', '.join(names)}")


def _fits(row: WeightsRow, classes: Sequence[str]) -> bool:
    return sorted(readable(row.classes)) == sorted(readable(classes))


def _in_order_of_weights(model: str, classes: Sequence[str]) -> tuple[str, ...]:
    """The classes, in the order of a row of weights with the same ones, so that each starts from its own."""
    own = dict(zip(readable(classes), classes, strict=True))
    rows = (row for row in ROWS if row.model == model and _fits(row, classes))
    return next((tuple(own[name] for name in readable(row.classes)) for row in rows), tuple(classes))


def _listed(classes: Sequence[str]) -> str:
    names = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
    return f"{counted(len(classes), 'class')}: {names}"


def _images(splits: Mapping[str, Sequence]) -> str:
    return f"{len(splits['train'])} training and {counted(len(splits['val']), 'validation image')}"


def _held_out(images: str, count: int, lack: str = "no validation split") -> str:
    """The line that a validation split was drawn; ``images``: what, as the subject, of so many images."""
    return f"{lack}: {images}, drawn at random, {'is' if count == 1 else 'are'} held out"


def _tell(plan: Plan, say: Callable[[str], None], size: str) -> None:
    """Says what was chosen beyond the weights and the schedule, which every training tells."""
    warm_up = f", warm-up over {counted(plan.warm_up, 'iteration')}" if plan.warm_up else ""
    say(f"chosen: {size}, AdamW with learning rate {plan.lr:g}{warm_up}")


def _plan(
    request: _Request,
    classes: tuple[str, ...],
    images: int,
    size: tuple[int, int],
    start: Start,
    *,
    batch: tuple[int, int],
    iterations: int,
    drop_last: bool = True,
) -> Plan:
    """The plan; ``batch``: the most images of an iteration on a GPU and on a CPU.

    What is not chosen is as in the run that is resumed, also on another machine.
    """
    chosen = choose_batch_size(images, on_gpu=batch[0], on_cpu=batch[1], gpu=request.gpu)
    choices, before = request.choices, request.before
    if before is not None:
        chosen = before.plan.batch_size
    batch_size = min(choices.batch_size or chosen, images)
    if choices.global_batch_size is not None:  # that it can be shared is checked with the launcher
        batch_size = max(1, choices.global_batch_size // choices.ranks)
    if start.load_from is not None:  # a whole network needs less than one that begins at random
        iterations //= 2
    kept = None if before is None else before.plan.epochs
    epochs = choices.epochs or kept or choose_epochs(images, batch_size, iterations)
    return Plan(
        request.model,
        classes,
        images,
        size,
        batch_size,
        epochs,
        choose_workers(),
        start,
        drop_last,
        choices.ranks,
    )


def _detection(request: _Request) -> _ConfigDraft:
    data, say = request.data, request.say
    boxes = read_boxes(data)
    not_needed = (OUTLINES, "masks left out", NO_ANNOTATIONS)  # told with the splits
    findings = [finding for finding in boxes.findings if finding.kind not in not_needed]
    findings += boxes.lost_ids
    for line in brief_lines(findings, frozenset(), ""):
        say(line)
    root = data.parent if data.is_file() else data
    splits, notes = _with_validation(boxes)
    counts = _counted_boxes(splits["train"])
    declared, _ = boxes.choose_classes()
    classes = tuple(name for name in declared if counts[name])
    if not classes:
        raise UserError(f"{data}: no training image has a box")
    if left_out := [name for name in declared if not counts[name]]:
        say(f"classes without a training box are left out: {', '.join(left_out)}")
    classes = _in_order_of_weights(request.model, classes)
    if not set(_counted_boxes(splits["val"])) & set(classes):
        raise UserError(f"{data}: no validation image has a box of {', '.join(classes)}")
    files = {split: request.work_dir / "annotations" / f"instances_{split}.json" for split in splits}
    paths = {split: [image.path for image in images] for split, images in splits.items()}
    known = images_of(paths, root)
    require_resumable(request.before, request.model, classes, known)
    texts = {}
    for split, images in splits.items():
        named = [replace(image, name=relative_name(image.path, root)) for image in images]
        content = coco_content(named, classes, _DESCRIPTION, boxes.category_ids)
        content["info"]["sha256"] = annotations_digest(content)
        texts[files[split]] = json.dumps(content)
    used = sum(any(box.name in classes for box in image.boxes) for image in splits["train"])
    say(
        f"data: {_shown(data)} ({boxes.format}), {_images(splits)}, "
        f"{counted(sum(counts.values()), 'training box')}, {_listed(classes)}"
    )
    for note in notes:
        say(note)
    if "val" not in boxes.splits:  # else they are among the findings
        _tell_copies(paths, say)
    arch = ARCHS[request.model]
    kept = None if request.before is None else request.before.plan.size[0]
    side = (
        arch.size
        if isinstance(arch, SSDArch)
        else request.choices.image_size or kept or _side(splits["train"])
    )
    start = _start(request, classes)
    batch = (32, 8) if side <= 320 else (16, 4)
    # RFB Net's last levels have one pixel, whose batch norms need two images
    full = isinstance(arch, SSDArch) and arch.fields is not None
    plan = _plan(
        request,
        classes,
        used,
        (side, side),
        start,
        batch=batch,
        iterations=6000,
        drop_last=full,
    )
    _tell(plan, say, f"images resized to {side}×{side}")
    return _ConfigDraft(detection(plan, root, files), plan, known, texts)


def _counted_boxes(images: Iterable[BoxImage]) -> Counter[str]:
    """Class -> number of the boxes that are trained on and scored."""
    return Counter(box.name for image in images for box in image.boxes if not box.difficult)


def _is_unchanged_json(path: Path) -> bool:
    """Whether annotations, or the record of a run, are as an earlier run wrote them."""
    if is_record(path):
        return True
    try:
        content = read_json(path)
        info = content["info"]
        return info["description"] == _DESCRIPTION and info["sha256"] == annotations_digest(content)
    except (UserError, TypeError, KeyError, AttributeError):
        return False


def _with_validation(boxes: BoxData) -> tuple[dict[str, list[BoxImage]], list[str]]:
    """train, val and, where there is one, test; and what to tell of splits left out, and of one drawn."""
    splits, notes = {name: [*images] for name, images in boxes.splits.items()}, []
    if "train" not in splits and len(splits) == 1:
        name, images = splits.popitem()
        splits["train"] = images
        notes.append(f"the only split, {name}, is the training split")
    if "train" not in splits:
        raise UserError(f"{boxes.source} has no training split (there are: {', '.join(splits)})")
    left_out = {}
    for name, images in [*splits.items()]:
        is_annotated = any(image.annotation for image in images)
        if name == "train" and not is_annotated:
            raise UserError(f"{boxes.source}: the training images have no annotations (is it a test set?)")
        if not is_annotated or name not in ("train", "val", "test"):
            without = "" if is_annotated else " without annotations"
            left_out[name] = f"{name} ({counted(len(splits.pop(name)), 'image')}{without})"
    notes += _left_out(left_out.values())
    splits = {name: splits[name] for name in ("train", "val", "test") if name in splits}
    if "val" in splits:
        return splits, notes
    images = splits["train"]
    names = {str(image.path): image for image in images}
    with_boxes = {name for name, image in names.items() if image.boxes}
    if len(with_boxes) < 2:
        raise UserError(f"{boxes.source} has no validation split, and too few images with boxes to draw one")
    drawn = draw_validation([*with_boxes])
    background = [name for name in names if name not in with_boxes]
    if len(background) > 1:
        drawn |= draw_validation(background)
    splits["train"] = [image for name, image in names.items() if name not in drawn]
    splits["val"] = [image for name, image in names.items() if name in drawn]
    lack = "no other validation split" if left_out else "no validation split"
    notes.append(_held_out(f"{len(drawn)} of the {len(images)} images", len(drawn), lack))
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}, notes


def _left_out(splits: Iterable[str]) -> list[str]:
    """What to tell of splits that no training uses; nothing where there are none."""
    names = ", ".join(splits)
    return [f"splits left out: {names}; train, val and test are used"] if names else []


def _side(images: Sequence[BoxImage]) -> int:
    """The side of a CenterNet's input: the usual longer side, a multiple of 32, 256 to 512."""
    usual = statistics.median(max(image.size) for image in images)
    return min(512, max(256, math.ceil(usual / 32) * 32))


def _segmentation(request: _Request) -> _ConfigDraft:
    data, say = request.data, request.say
    folder = find_segmentation(data)
    if "train" not in folder.splits:
        raise UserError(f"{data} has no training split (there are: {', '.join(folder.splits)})")
    options = _dataset_options(folder)
    labels = label_set(**options)
    folders, lists = dict(folder.splits), dict(folder.lists)
    images = {
        split: [pair[0] for pair in find_pairs(data / place, None, labels, lists.get(split))]
        for split, (place, _) in folders.items()
    }
    note, texts = "", {}
    if "val" not in folders:
        place = data / folders["train"][0]
        names = [path.relative_to(place).as_posix() for path in images["train"]]
        if len(names) < 2:
            raise UserError(f"{data} has no validation split, and too few images to draw one")
        drawn = draw_validation(names)
        folders["val"] = folders["train"]
        members = {"train": [n for n in names if n not in drawn], "val": [n for n in names if n in drawn]}
        texts = {split: list_text(chosen) for split, chosen in members.items()}
        images |= {split: [place / name for name in chosen] for split, chosen in members.items()}
        note = _held_out(f"{len(drawn)} of the {len(names)} images", len(drawn))
    classes = labels.classes
    known = images_of(images, data)
    require_resumable(request.before, request.model, classes, known)
    files = _list_files(request.work_dir, texts, ".txt")
    lists |= files
    say(f"data: {_shown(data)} (images and label images), {_images(images)}, {_listed(classes)}")
    for line in (*folder.notes, *filter(None, [note])):
        say(line)
    _tell_copies(images, say)
    height, width = _usual_size(images["train"])
    most = (768, 768) if request.gpu else (384, 512)
    crop = tuple(
        request.choices.image_size or max(64, min(limit, side // 32 * 32))
        for limit, side in zip(most, (height, width), strict=True)
    )
    if request.before is not None and request.choices.image_size is None:
        crop = request.before.plan.size
    start = _start(request, classes)
    plan = _plan(
        request,
        classes,
        len(images["train"]),
        crop,
        start,
        batch=(16, 4),
        iterations=6000,
    )
    _tell(plan, say, "crops of {}×{}".format(*crop))
    text = segmentation(plan, data, folders, lists, dataset=options, image_size=(height, width))
    return _ConfigDraft(text, plan, known, {files[split]: texts[split] for split in files})


def _dataset_options(folder: SegmentationFolder) -> dict:
    options: dict = {"labels": folder.known}
    if folder.known is None:
        options["metainfo"] = {"classes": folder.classes}
    if folder.stored:
        options["stored"] = dict(folder.stored)
    if folder.label_suffix != ".png":
        options["seg_map_suffix"] = folder.label_suffix
    return options


def _list_files(work_dir: Path, texts: Mapping[str, str], suffix: str) -> dict[str, Path]:
    """Split -> file that will list its images."""
    return {split: work_dir / "annotations" / f"{split}{suffix}" for split in texts}


def _usual_size(images: Sequence[Path]) -> tuple[int, int]:
    """(height, width), the medians of images spread over the data; reads their headers."""
    sizes = [header_sizes(path)[1] for path in images[:: max(1, len(images) // _LOOKED_AT)]]
    width, height = (int(statistics.median(side)) for side in zip(*sizes, strict=True))
    return height, width


def _classification(request: _Request) -> _ConfigDraft:
    data, say = request.data, request.say
    found = find_class_folders(data)
    folders = found.splits
    if "train" not in folders:
        raise UserError(f"{data} has no training split (there are: {', '.join(folders)})")
    samples = read_folder(data / folders["train"])
    classes = _in_order_of_weights(request.model, samples.classes)
    if len(classes) < 2:
        raise UserError(f"{data} has one class, {classes[0]}: {ONE_CLASS}")
    folders, texts, note = dict(folders), {}, ""
    splits: dict[str, Sequence] = {
        split: walk_files(data / place, IMAGE_SUFFIXES) for split, place in folders.items()
    }
    splits["train"] = samples.images
    if "val" in folders:
        splits["val"] = read_folder(data / folders["val"], classes).images
    else:
        folders["val"] = folders["train"]
        members = _drawn_by_class(samples, data)
        texts = {split: csv_text(drawn, data / folders["train"]) for split, drawn in members.items()}
        splits |= {split: drawn.images for split, drawn in members.items()}
        held = len(members["val"])
        note = _held_out(f"{held} of the {len(samples)} images", held)
    known = images_of(splits, data)
    require_resumable(request.before, request.model, classes, known)
    lists = _list_files(request.work_dir, texts, ".csv")
    say(f"data: {_shown(data)} (folders of classes), {_images(splits)}, {_listed(classes)}")
    for line in (*found.notes, *filter(None, [note])):
        say(line)
    _tell_copies(splits, say)
    side = min(_usual_size(walk_files(data / folders["train"], IMAGE_SUFFIXES)))
    kept = None if request.before is None else request.before.plan.size[0]
    size = request.choices.image_size or kept or (224 if side >= 160 else max(64, side // 32 * 32))
    start = _start(request, classes)
    count = len(splits["train"])
    plan = _plan(request, classes, count, (size, size), start, batch=(128, 32), iterations=6000)
    _tell(plan, say, f"images of {size}×{size}")
    enlarged = round(size * 8 / 7) if side > size else size
    text = classification(plan, data, folders, lists, enlarged=enlarged)
    return _ConfigDraft(text, plan, known, {lists[split]: texts[split] for split in lists})


def _drawn_by_class(samples: Samples, data: Path) -> dict[str, Samples]:
    """train and val, the latter drawn from the images of each class."""
    drawn: set[int] = set()
    for label, name in enumerate(samples.classes):
        own = {str(samples.images[at]): at for at, other in enumerate(samples.labels) if other == label}
        if len(own) < 2:
            raise UserError(f"{data} has no validation split, and too few images of {name} to draw one")
        drawn |= {own[path] for path in draw_validation([*own])}
    kept = [at for at in range(len(samples)) if at not in drawn]
    return {"train": choose(samples, kept), "val": choose(samples, sorted(drawn))}
