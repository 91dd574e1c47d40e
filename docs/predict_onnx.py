"""Without PyTorch: predict_onnx.py FILE.onnx IMAGE [MASK.png]

FILE is of fixed size, exported --with postprocess. A mask goes into a new file in the current folder, named
STEM_mask.png after IMAGE, or into the one that is named.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) not in (3, 4):
    sys.exit("usage: python predict_onnx.py FILE.onnx IMAGE [MASK.png]")
try:
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
except Exception as error:
    sys.exit(f"cannot open {sys.argv[1]}: {str(error).splitlines()[0]}")
record = json.loads(session.get_modelmeta().custom_metadata_map.get("hardnet_suite", "null"))
if not record or "postprocess" not in record["includes"] or record["outputs"] == ["descriptors"]:
    sys.exit("expected a classifier, detector or segmentation network exported --with postprocess")
mask = Path(sys.argv[3] if len(sys.argv) == 4 else f"{Path(sys.argv[2]).stem}_mask.png")
if "mask" not in record["outputs"] and len(sys.argv) == 4:
    sys.exit(f"{mask}: only segmentation networks write a mask")
if "mask" in record["outputs"] and mask.suffix.lower() != ".png":
    sys.exit(f"{mask}: expected a name that ends in .png")
if "mask" in record["outputs"] and (mask.exists() or mask.is_symlink()):
    sys.exit(f"{mask} exists: name another file for the mask")
rule, names = record["usage"]["preprocess"], record["usage"].get("classes")
batch, _, height, width = record["input_shape"]
ways = ("stretch", "short") if record["outputs"] == ["probabilities"] else ("stretch",)
if rule["resize"] not in ways or rule["pad"] or [*np.broadcast_to(rule["size"], 2)] != [height, width]:
    sys.exit("this program resizes to a fixed size, without padding: export with --size HEIGHT WIDTH")
if record["in_chans"] != len(rule["mean"]):
    sys.exit(f"the network takes {record['in_chans']} channels, but its input rule makes {len(rule['mean'])}")
try:
    image = ImageOps.exif_transpose(Image.open(sys.argv[2]))
    transparent, deep = image.info.get("transparency"), image.mode.startswith("I;16")
    deep_color = isinstance(transparent, tuple) and max(transparent) > 255
    if image.mode in ("I", "F", "La") or deep_color or (deep and transparent is not None):
        raise ValueError("save it with 8 bits per channel")
    if deep:  # 65535 is white
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if "A" in image.getbands() or "a" in image.getbands() or transparent is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
except Exception as error:  # Pillow raises half a dozen types on broken files
    sys.exit(f"cannot read {sys.argv[2]}: {error}")
method = Image.Resampling[rule["interpolation"].upper()]
if rule["resize"] == "short":  # the short side, then the middle, on black where the image is smaller
    short = rule["resize_to"] or min(image.size)
    sides = [int(short * side / min(image.size)) for side in image.size]
    gaps = [side - crop for side, crop in zip(sides, (width, height), strict=True)]
    left, top = (round(gap / 2) if gap >= 0 else -(-gap // 2) for gap in gaps)
    resized = image.resize(sides, method).crop((left, top, left + width, top + height))
else:
    resized = image.resize((width, height), method)
pixels = np.asarray(resized).transpose(2, 0, 1)
if "preprocess" not in record["includes"]:
    if rule["channels"] == "grey":
        pixels = np.tensordot([[0.299, 0.587, 0.114]], pixels, 1)
    order = pixels[::-1] if rule["channels"] == "bgr" else pixels
    mean, std = (np.reshape(rule[key], (-1, 1, 1)) for key in ("mean", "std"))
    pixels = ((order / rule["scale"] - mean) / std).astype(np.float32)
inputs = np.stack([pixels] * (batch if isinstance(batch, int) else 1))  # the same image fills a fixed batch
outputs = session.run(record["outputs"], {session.get_inputs()[0].name: inputs})
found = {name: values[0] for name, values in zip(record["outputs"], outputs, strict=True)}
no_class = 255 if record["num_classes"] > 1 else 254  # of a mask whose logits are not finite
if not all(np.isfinite(values).all() for values in found.values()) or np.any(found.get("mask") == no_class):
    sys.exit("the network's output holds NaN or infinity")
if "probabilities" in found:
    for label in np.argsort(-found["probabilities"])[:5]:
        print(names[label] if names else label, found["probabilities"][label])
elif "boxes" in found:
    scale = np.tile(np.divide(image.size, (width, height)), 2)
    for box, score, label in zip(found["boxes"], found["scores"], found["labels"], strict=True):
        if score >= 0.3:
            print(names[label] if names else label, score, *(box * scale))
else:
    try:
        with mask.open("xb") as file:
            Image.fromarray(found["mask"]).resize(image.size, Image.Resampling.NEAREST).save(file, "PNG")
    except OSError as error:
        sys.exit(f"cannot write {mask}: {error.strerror}")
    print(f"mask: {mask}")
