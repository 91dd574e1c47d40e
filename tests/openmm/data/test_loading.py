"""The pipelines' loader is the suite's decoder, with mmcv's options, where mm*'s own tools look for it."""

from __future__ import annotations

import struct
import zlib

import cv2
import mmcv.transforms
import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import Image

from hardnet_suite.data.images import image_size, open_rgb, read_rgb
from hardnet_suite.data.sources import images_of
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.loading import LoadImageFromFile
from hardnet_suite.openmm.run.configs import load_config

ROTATED = Image.Exif()
ROTATED[0x0112] = 6


def rgba() -> Image.Image:
    """Red, transparent in places, with a blue edge."""
    pixels = np.zeros((24, 36, 4), np.uint8)
    pixels[..., 0], pixels[:, :5, 2] = 200, 255
    pixels[..., 3] = np.linspace(0, 255, 36).astype(np.uint8)
    return Image.fromarray(pixels)


def palette() -> Image.Image:
    return rgba().convert("RGB").quantize(4)


def grey16() -> Image.Image:
    return Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)


FILES = {  # name -> (image, options)
    "rgb.jpg": (lambda: rgba().convert("RGB"), {}),
    "progressive.jpg": (lambda: rgba().convert("RGB"), {"progressive": True}),
    "grey.jpg": (lambda: rgba().convert("L"), {}),
    "cmyk.jpg": (lambda: rgba().convert("RGB").convert("CMYK"), {}),
    "rotated.jpg": (lambda: rgba().convert("RGB"), {"exif": ROTATED}),
    "rotated.png": (lambda: rgba().convert("RGB"), {"exif": ROTATED}),
    "rotated_rgba.webp": (rgba, {"exif": ROTATED, "lossless": True}),
    "rgba.png": (rgba, {}),
    "rgba.webp": (rgba, {"lossless": True}),
    "rgba.tif": (rgba, {}),
    "la.png": (lambda: rgba().convert("LA"), {}),
    "la.tif": (lambda: rgba().convert("LA"), {}),
    "palette.png": (palette, {}),
    "palette_transparent.png": (palette, {"transparency": 1}),
    "palette_transparent.gif": (palette, {"transparency": 0}),
    "colour_transparent.png": (lambda: Image.new("RGB", (9, 7), (9, 8, 7)), {"transparency": (9, 8, 7)}),
    "grey_transparent.png": (lambda: Image.new("L", (9, 7), 30), {"transparency": 30}),
    "grey16.png": (grey16, {}),
    "grey16_transparent.png": (grey16, {"transparency": 100}),
    "grey16.tif": (grey16, {}),
    "one_bit.png": (lambda: rgba().convert("1"), {}),
    "zstd.tif": (lambda: rgba().convert("RGB"), {"compression": "zstd"}),
    "animated.gif": (palette, {"save_all": True, "append_images": [Image.new("P", (36, 24), 2)]}),
    "animated.png": (rgba, {"save_all": True, "append_images": [Image.new("RGBA", (36, 24))]}),
    "animated.webp": (rgba, {"save_all": True, "append_images": [Image.new("RGBA", (36, 24))]}),
}


def loaded(path, **options) -> dict:
    transform = TRANSFORMS.build({"type": "LoadImageFromFile", **options})
    return transform({"img_path": path})


@pytest.mark.parametrize("name", FILES)
def test_training_sees_what_predict_and_checks_see(tmp_path, name):
    make, options = FILES[name]
    path = tmp_path / name
    make().save(path, **options)
    results = loaded(str(path))
    image = results["img"]
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert results["img_shape"] == results["ori_shape"] == image.shape[:2]
    (source,) = images_of(path)
    for other in (read_rgb(path), np.asarray(open_rgb(path)), np.asarray(source.open())):
        np.testing.assert_array_equal(image[..., ::-1], other)
    assert image_size(path) == image.shape[1::-1]
    if "transparent" in name or any(mode in name for mode in ("rgba", "la.")):
        white = np.asarray(make().convert("RGBA"))[..., 3] == 0
        if "rotated" not in name and white.any():
            assert (image[white] == 255).all()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(side: int) -> bytes:
    """Black, one bit per pixel."""
    rows = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    data = b"".join(rows.compress(row) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(path, image, **options) -> bytes:
    image.save(path, **options)
    return path.read_bytes()


BROKEN = {  # name -> content
    "float.tif": lambda path: saved(path, Image.fromarray(np.ones((4, 4), np.float32))),
    "int.tif": lambda path: saved(path, Image.fromarray(np.ones((4, 4), np.int32))),
    "cut.jpg": lambda path: saved(path, rgba().convert("RGB"))[:500],
    "cut_tail.jpg": lambda path: saved(path, Image.effect_noise((90, 90), 90))[:-200],
    "cut.png": lambda path: saved(path, Image.effect_noise((90, 90), 90))[:3000],
    "cut.tif": lambda path: saved(path, rgba())[:200],
    "huge.png": lambda path: huge_png(13400),
    "text.jpg": lambda path: b"<html>404</html>",
    "empty.png": lambda path: b"",
}


@pytest.mark.parametrize("name", [*BROKEN, "missing.jpg", "folder.png"])
def test_what_cannot_be_decoded_is_the_same_error_everywhere(tmp_path, name):
    path = tmp_path / name
    if name in BROKEN:
        path.write_bytes(BROKEN[name](path))
    elif name == "folder.png":
        path.mkdir()
    messages = set()
    for read in (loaded, read_rgb, open_rgb, image_size):
        with pytest.raises(UserError) as caught:
            read(path)
        messages.add(str(caught.value))
    (message,) = messages
    assert message.startswith(f"cannot read the image {path}: ")
    assert "\n" not in message


def test_a_png_without_its_end_is_decoded_by_all(tmp_path):
    """All pixels are there."""
    path = tmp_path / "a.png"
    expected = rgba().convert("RGB")
    path.write_bytes(saved(path, expected)[:-12])
    np.testing.assert_array_equal(loaded(path)["img"][..., ::-1], expected)
    assert image_size(path) == (36, 24)


def test_mmcvs_options(tmp_path):
    path = tmp_path / "a.png"
    rgba().save(path)
    plain = loaded(path)["img"]
    as_float = loaded(path, to_float32=True)["img"]
    assert as_float.dtype == np.float32
    np.testing.assert_array_equal(as_float, plain)
    (tmp_path / "bad.png").write_bytes(b"no image")
    for bad in ("bad.png", "missing.png"):
        assert loaded(tmp_path / bad, ignore_empty=True) is None
    for options in (
        {"color_type": "unchanged"},
        {"color_type": "grayscale"},
        {"imdecode_backend": "cv2"},
        {"imdecode_backend": "pillow"},
    ):
        expected = mmcv.transforms.LoadImageFromFile(**options)({"img_path": path})["img"]
        np.testing.assert_array_equal(loaded(path, **options)["img"], expected)
    assert loaded(path, color_type="unchanged")["img"].shape == (24, 36, 4)
    assert not np.array_equal(loaded(path, imdecode_backend="cv2")["img"], plain)  # it drops the alpha


def test_the_file_backend_fetches_the_bytes(tmp_path):
    rgba().save(tmp_path / "a.png")
    mapped = {"backend": "petrel"}  # not installed: the option must not be ignored
    with pytest.raises(UserError, match=r"there\.png: .*petrel"):
        loaded("s3://bucket/there.png", backend_args=mapped)
    local = loaded(tmp_path / "a.png", backend_args={"backend": "local"})
    np.testing.assert_array_equal(local["img"], loaded(tmp_path / "a.png")["img"])
    with pytest.warns(DeprecationWarning, match="file_client_args"):
        old = loaded(tmp_path / "a.png", file_client_args={"backend": "disk"})
    np.testing.assert_array_equal(old["img"], local["img"])


def test_it_is_mmcvs_transform_under_both_names():
    assert issubclass(LoadImageFromFile, mmcv.transforms.LoadImageFromFile)
    for name in ("LoadImageFromFile", "LoadPicture", "mmengine::LoadImageFromFile"):
        assert TRANSFORMS.get(name.replace("::", ".")) is LoadImageFromFile


@pytest.fixture
def image(tmp_path):
    random = np.random.default_rng(0)
    pixels = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((120, 90))
    pixels.putalpha(pixels.convert("L"))
    pixels.save(tmp_path / "image.png")
    return tmp_path / "image.png"


def random_checkpoint(config, scope, registry, path, classes) -> None:
    cfg = load_config(config) if isinstance(config, str) else config
    init_default_scope(scope)
    torch.manual_seed(0)
    model = registry.build(cfg.model)
    meta = {"dataset_meta": {"classes": classes, "palette": [(9, 9, 9)] * len(classes)}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)


@pytest.mark.filterwarnings("ignore")
def test_mmdets_inferencer_on_a_config_of_the_suite(tmp_path, image):
    from mmdet.apis import DetInferencer, inference_detector
    from mmdet.registry import MODELS

    config = "configs/ssd320_hardnet39ds_bccd.py"
    random_checkpoint(config, "mmdet", MODELS, tmp_path / "a.pth", ("RBC", "WBC", "Platelets"))
    inferencer = DetInferencer(config, str(tmp_path / "a.pth"), device="cpu", show_progress=False)
    inferencer.model.test_cfg.score_thr = 0.0
    from_path, from_array = (
        inferencer(source, no_save_vis=True)["predictions"][0]
        for source in (str(image), read_rgb(image, channels="bgr"))
    )
    expected = inference_detector(inferencer.model, str(image)).pred_instances
    assert len(expected) > 0
    for predictions in (from_path, from_array):
        np.testing.assert_allclose(predictions["bboxes"], expected.bboxes.numpy(), rtol=1e-6)
        np.testing.assert_allclose(predictions["scores"], expected.scores.numpy(), rtol=1e-6)
    blind = inferencer(cv2.imread(str(image)), no_save_vis=True)["predictions"][0]
    assert blind["bboxes"] != from_path["bboxes"]  # OpenCV drops the alpha


@pytest.mark.filterwarnings("ignore")
def test_mmsegs_inferencer_on_a_config_of_the_suite(tmp_path, image):
    from mmseg.apis import MMSegInferencer
    from mmseg.registry import MODELS

    cfg = load_config("configs/fchardnet70_camvid.py")
    random_checkpoint(cfg, "mmseg", MODELS, tmp_path / "a.pth", tuple("abcdefghijk"))
    inferencer = MMSegInferencer(cfg, str(tmp_path / "a.pth"), device="cpu")
    from_path = inferencer(str(image))["predictions"]
    from_array = inferencer(read_rgb(image, channels="bgr"))["predictions"]
    assert from_path.shape == (90, 120)
    np.testing.assert_array_equal(from_path, from_array)
    assert not np.array_equal(inferencer(cv2.imread(str(image)))["predictions"], from_path)
