"""Draws the sample images, hardnet_suite/data/samples, and the picture of the README.

    python docs/images/draw_samples.py [FOLDER]

NumPy and Pillow alone draw them, so they are the suite's own, under its licence.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "hardnet_suite/data/samples"
TURN = 2 * np.pi


class Painting:
    """A float canvas on which soft masks and polygons of one grainy colour are painted."""

    def __init__(self, width: int, height: int, seed: int):
        self.rng = np.random.default_rng(seed)
        self.width, self.height = width, height
        self.pixels = np.zeros((height, width, 3), np.float32)
        self.y, self.x = np.mgrid[:height, :width].astype(np.float32)

    def noise(self, scale: int) -> np.ndarray:
        """(H, W, 1): smooth noise of unit deviation whose spots are ``scale`` pixels wide."""
        size = (self.height // scale + 2, self.width // scale + 2)
        coarse = Image.fromarray(self.rng.normal(size=size).astype(np.float32))
        fine = coarse.resize((self.width + scale, self.height + scale), Image.Resampling.BICUBIC)
        return np.asarray(fine)[: self.height, : self.width, None]

    def blend(self, mask: np.ndarray, colour: np.ndarray) -> None:
        self.pixels = self.pixels * (1 - mask) + mask * colour

    def polygon(self, points, colour, grain: float = 0.0, scale: int = 4) -> None:
        mask = Image.new("L", (self.width, self.height))
        ImageDraw.Draw(mask).polygon([tuple(map(float, point)) for point in points], fill=255)
        mask = np.asarray(mask.filter(ImageFilter.GaussianBlur(0.7)), np.float32)[..., None] / 255
        self.blend(mask, np.asarray(colour, np.float32) + (grain * self.noise(scale) if grain else 0))

    def ellipse(self, cx: float, cy: float, rx: float, ry: float, colour, **grain) -> None:
        angle = np.linspace(0, TURN, 40)
        self.polygon(np.c_[cx + rx * np.cos(angle), cy + ry * np.sin(angle)], colour, **grain)

    def blob(self, cx: float, cy: float, radius: float, wobble: float) -> np.ndarray:
        """(H, W, 1): distance from the centre over the uneven radius in that direction; 1 at the rim."""
        angle = np.arctan2(self.y - cy, self.x - cx)
        uneven = sum(
            wobble * radius * self.rng.normal() * np.cos(n * angle + self.rng.uniform(0, TURN)) / n
            for n in (2, 3, 4, 5)
        )
        return (np.hypot(self.x - cx, self.y - cy) / (radius + uneven))[..., None]

    def image(self) -> Image.Image:
        return Image.fromarray(np.clip(self.pixels, 0, 255).astype(np.uint8))


def inside(distance: np.ndarray, edge: float) -> np.ndarray:
    """A soft mask of a blob."""
    return np.clip((1 - distance) / edge + 0.5, 0, 1)


def cells(seed: int = 10) -> Image.Image:
    """A blood smear: red cells, one white cell and platelets, 640×480."""
    art = Painting(640, 480, seed)
    rng = art.rng
    art.pixels[:] = (222, 214, 216)
    art.pixels += 4 * art.noise(120)
    white = (rng.uniform(0.3, 0.6) * art.width, rng.uniform(0.35, 0.6) * art.height, 88.0)
    placed = [white]

    def room(radius: float, margin: float, overlap: float) -> tuple[float, float] | None:
        for _ in range(300):
            cx, cy = rng.uniform(margin, art.width - margin), rng.uniform(margin, art.height - margin)
            if all(np.hypot(cx - x, cy - y) > (radius + r) * (1 - overlap) for x, y, r in placed):
                placed.append((cx, cy, radius))
                return cx, cy
        return None

    for _ in range(17):
        radius = rng.normal(50, 3.5)
        if (place := room(radius, 22, 0.05)) is None:
            break
        distance = art.blob(*place, radius, 0.04)
        tone = rng.normal(0, 4, 3)
        rim, centre = np.array([186, 142, 150]) + tone, np.array([214, 190, 194]) + tone / 2
        colour = centre + (rim - centre) * np.clip(distance / 0.62, 0, 1) ** 2.2
        colour -= 14 * np.exp(-(((distance - 0.93) / 0.06) ** 2))
        art.blend(0.93 * inside(distance, 0.06), colour)

    cx, cy, radius = white
    body = inside(art.blob(cx, cy, radius, 0.05), 0.06)
    art.blend(0.95 * body, np.array([192, 168, 205]) + 8 * art.noise(6))
    start = rng.uniform(0, TURN)
    nucleus = np.zeros_like(body)
    for angle in start + 1.15 * np.arange(4):
        lobe = (cx + 0.38 * radius * np.cos(angle), cy + 0.38 * radius * np.sin(angle))
        nucleus = np.maximum(nucleus, inside(art.blob(*lobe, 0.43 * radius, 0.08), 0.08))
    art.blend(nucleus, np.array([112, 58, 150]) + 14 * art.noise(9) + 8 * art.noise(3))

    for _ in range(3):
        radius = rng.uniform(14, 18)
        if (place := room(radius, 30, -0.1)) is not None:
            platelet = inside(art.blob(*place, radius, 0.12), 0.18)
            art.blend(0.9 * platelet, np.array([150, 100, 175]) + 16 * art.noise(4))
    art.pixels += rng.normal(0, 2, art.pixels.shape)
    return art.image().filter(ImageFilter.GaussianBlur(1))


class Street(Painting):
    """A street in perspective: X metres to the right, Y up, Z ahead; the camera is 1.4 m above the road."""

    def at(self, x: float, y: float, z: float) -> tuple[float, float]:
        focal = 0.95 * self.width
        return 0.52 * self.width + focal * x / z, 0.455 * self.height + focal * (1.4 - y) / z

    def metres(self, length: float, z: float) -> float:
        return 0.95 * self.width * length / z

    def upright(self, x0: float, y0: float, x1: float, y1: float, z: float, colour, **grain) -> None:
        """A rectangle that faces the camera."""
        corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        self.polygon([self.at(x, y, z) for x, y in corners], colour, **grain)

    def strip(self, x0: float, x1: float, z0: float, z1: float, colour, y: float = 0.0, **grain) -> None:
        """A rectangle on the ground."""
        corners = ((x0, z1), (x1, z1), (x1, z0), (x0, z0))
        self.polygon([self.at(x, y, z) for x, z in corners], colour, **grain)

    def wall(self, x: float, y0: float, y1: float, z0: float, z1: float, colour, **grain) -> None:
        """A rectangle along the street."""
        corners = ((y0, z0), (y1, z0), (y1, z1), (y0, z1))
        self.polygon([self.at(x, y, z) for y, z in corners], colour, **grain)

    def house(self, x: float, z0: float, z1: float, height: float, colour, shop=None) -> None:
        colour = np.array(colour)
        self.wall(x, 0.1, height, z0, z1, colour, grain=6, scale=3)
        windows = max(2, int((z1 - z0) / 2.3))
        step = (z1 - z0) / windows
        for left in z0 + step * np.arange(windows):
            a, b = left + 0.28 * step, left + 0.72 * step
            for y in 4.0 + 2.6 * np.arange(int((height - 3.2) / 2.6)):
                self.wall(x, y - 0.1, y + 1.6, a, b, 1.2 * colour)
                self.wall(x, y, y + 1.5, a, b, (56, 62, 74), grain=6, scale=5)
            if shop is not None:
                self.wall(x, 0.6, 2.6, left + 0.1 * step, left + 0.9 * step, (34, 38, 42), grain=9, scale=8)
        if shop is not None:
            self.wall(x, 2.75, 3.35, z0, z1, shop, grain=4)
        self.wall(x, height, height + 0.25, z0, z1, 0.7 * colour)

    def tree(self, x: float, z: float, height: float = 7.5, radius: float = 2.6) -> None:
        self.upright(x - 0.13, 0, x + 0.13, 0.5 * height, z, (58, 48, 40), grain=5, scale=3)
        cx, cy = self.at(x, 0.72 * height, z)
        crown = self.metres(radius, z)
        angle = np.linspace(0, TURN, 90)
        for _ in range(26):
            towards, away = self.rng.uniform(0, TURN), crown * np.sqrt(self.rng.uniform(0, 0.75))
            jagged = crown * self.rng.uniform(0.2, 0.38) * (1 + 0.22 * self.rng.normal(size=90))
            points = np.c_[
                cx + away * np.cos(towards) + jagged * np.cos(angle),
                cy + 0.85 * away * np.sin(towards) + jagged * np.sin(angle),
            ]
            tone = self.rng.uniform(0.75, 1.15)
            self.polygon(points, np.array([82, 78, 50]) * tone, grain=20, scale=3)

    def car(self, x: float, z: float, colour) -> None:
        colour = np.array(colour)
        self.strip(x - 0.98, x + 0.98, 0.95 * z, z, (36, 38, 44))
        for side in (-0.7, 0.7):
            self.upright(x + side - 0.13, 0, x + side + 0.13, 0.45, z, (24, 24, 26))
        outline = ((0.875, 0.25), (0.875, 0.8), (0.7, 0.92), (0.54, 1.4))
        points = [*outline, *((-dx, y) for dx, y in outline[::-1])]
        self.polygon([self.at(x + dx, y, z) for dx, y in points], colour, grain=4)
        glass = ((0.63, 0.94), (0.49, 1.3), (-0.49, 1.3), (-0.63, 0.94))
        self.polygon([self.at(x + dx, y, z) for dx, y in glass], (44, 52, 62), grain=6, scale=6)
        for a, b in ((-0.84, -0.56), (0.56, 0.84)):
            self.upright(x + a, 0.6, x + b, 0.76, z, (230, 230, 215))
        self.upright(x - 0.28, 0.42, x + 0.28, 0.54, z, (235, 230, 190))
        self.upright(x - 0.82, 0.3, x + 0.82, 0.38, z, 0.55 * colour)
        self.upright(x - 0.49, 0.58, x + 0.49, 0.72, z, (40, 42, 46))

    def person(self, x: float, z: float, top, legs, cycling: bool = False) -> None:
        def part(dx: float, y: float, rx: float, ry: float, colour, **grain) -> None:
            self.ellipse(*self.at(x + dx, y, z), self.metres(rx, z), self.metres(ry, z), colour, **grain)

        ground = 0.35 if cycling else 0.12
        if cycling:
            part(0, 0.36, 0.07, 0.36, (25, 25, 28))
            self.upright(x - 0.28, 1.0, x + 0.28, 1.05, z, (30, 30, 32))
        for side in (-1, 1):
            part(0.1 * side, ground + 0.42, 0.09, 0.44, legs, grain=4)
        part(0, ground + 1.1, 0.24, 0.36, top, grain=5)
        for side in (-1, 1):
            part(0.24 * side, ground + 1.05, 0.07, 0.3, 0.85 * np.array(top))
        part(0, ground + 1.58, 0.11, 0.14, (196, 158, 138))
        part(0, ground + 1.66, 0.12, 0.09, (45, 35, 30))

    def lamp(self, x: float, z: float) -> None:
        self.upright(x - 0.06, 0.1, x + 0.06, 6, z, (56, 58, 60))
        self.upright(x, 5.9, x - 0.9 * np.sign(x), 6.1, z, (60, 62, 64))

    def sign(self, x: float, z: float) -> None:
        self.upright(x - 0.05, 0.1, x + 0.05, 2.6, z, (110, 112, 114))
        for radius, colour in ((0.36, (190, 30, 36)), (0.27, (236, 236, 236))):
            size = self.metres(radius, z)
            self.ellipse(*self.at(x, 2.7, z), size, size, colour)


def street(seed: int = 0) -> Image.Image:
    """A street with houses, trees, cars and people, 480×360."""
    art = Street(960, 720, seed)
    fall = np.clip(art.y / (0.455 * art.height), 0, 1)[..., None]
    art.pixels = np.array([150, 205, 240]) + fall * np.array([95, 42, 10]) + 5 * art.noise(160)
    art.strip(-3.2, 3.8, 1.5, 300, (74, 80, 90), grain=4, scale=3)
    for kerb, edge, colour in ((-3.2, -6.2, (92, 92, 98)), (3.8, 8.3, (112, 110, 108))):
        art.strip(kerb, edge, 1.6, 300, colour, y=0.12, grain=5, scale=3)
        art.wall(kerb, 0, 0.12, 1.6, 300, (70, 70, 72))
        for z in np.geomspace(2, 60, 16):
            art.strip(kerb, edge, z, 1.01 * z, (70, 70, 76), y=0.12)
    for x in (-2.9, -2.75):
        art.strip(x, x + 0.06, 1.6, 300, (150, 140, 80))
    for z in range(4, 70, 6):
        art.strip(0.25, 0.37, z, z + 2.4, (178, 180, 182))
    left = (
        (60, 130, 8.5, (150, 140, 132), None),
        (42, 60, 10, (120, 92, 80), (90, 60, 50)),
        (28, 42, 9, (168, 160, 148), (40, 60, 80)),
        (18, 28, 11, (112, 84, 72), (70, 30, 30)),
        (10.5, 18, 9.5, (150, 146, 140), (38, 50, 44)),
        (3, 10.5, 11, (124, 98, 84), (52, 36, 34)),
    )
    for near, far, height, colour, shop in left:
        art.house(-6.2, near, far, height, colour, shop)
    right = (
        (60, 140, 9, (160, 146, 130)),
        (34, 60, 11, (134, 112, 98)),
        (20, 34, 9.5, (150, 140, 128)),
        (5, 20, 10.5, (118, 92, 80)),
    )
    for near, far, height, colour in right:
        art.house(8.2, near, far, height, colour)
    for z, x in ((52, 6.2), (38, 6.4), (27, 6.2), (19, 6.5), (12.5, 6.9)):
        art.tree(x, z)
    art.lamp(4.3, 34)
    art.car(2.55, 30, (150, 155, 165))
    art.lamp(-3.5, 22)
    art.person(-4.6, 19, (50, 60, 80), (40, 40, 44))
    art.car(2.6, 17, (120, 60, 60))
    art.person(5.0, 13.5, (70, 60, 66), (40, 44, 60))
    art.sign(-3.6, 14)
    art.person(-5.2, 12.5, (90, 88, 84), (44, 44, 52))
    art.person(-1.5, 12, (40, 42, 48), (40, 44, 60), cycling=True)
    art.lamp(4.4, 10.5)
    art.car(2.1, 9.3, (120, 140, 160))
    art.pixels = 0.96 * art.pixels + art.rng.normal(0, 1.5, art.pixels.shape)
    return art.image().resize((480, 360), Image.Resampling.LANCZOS)


def bus(seed: int = 0) -> Image.Image:
    """A yellow school bus from the side, 640×480."""
    width, height, scale = 640, 480, 2
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width * scale, height * scale))
    draw = ImageDraw.Draw(image)

    def scaled(*values: float) -> list[float]:
        return [value * scale for value in values]

    yellow, black, glass = (248, 178, 16), (30, 30, 30), (56, 66, 80)
    for y in range(300):
        colour = np.array([140, 185, 230]) + y / 300 * np.array([80, 50, 20])
        draw.line(scaled(0, y, width, y), fill=tuple(map(int, colour)), width=scale)
    for x in range(-20, width + 40, 26):
        radius, y, tone = rng.uniform(34, 60), rng.uniform(260, 300), rng.uniform(0.8, 1.1)
        colour = tuple(int(part * tone) for part in (66, 98, 52))
        draw.ellipse(scaled(x - radius, y - radius, x + radius, y + radius), fill=colour)
    draw.rectangle(scaled(0, 300, width, 318), fill=(150, 146, 138))
    draw.rectangle(scaled(0, 318, width, height), fill=(118, 118, 120))
    draw.polygon(scaled(60, 402, 600, 402, 570, 424, 90, 424), fill=(70, 70, 72))
    draw.rounded_rectangle(scaled(48, 128, 500, 390), 26 * scale, fill=yellow)
    draw.polygon(scaled(490, 238, 560, 246, 590, 268, 592, 390, 490, 390), fill=yellow)
    for y in (268, 322):
        draw.rectangle(scaled(48, y, 592, y + 7), fill=black)
    for x in range(66, 420, 60):
        draw.rounded_rectangle(scaled(x, 168, x + 50, 236), 10, fill=glass, outline=black, width=6)
        draw.line(scaled(x, 202, x + 50, 202), fill=black, width=4)
    draw.rounded_rectangle(scaled(432, 164, 486, 380), 8, fill=glass, outline=black, width=6)
    draw.line(scaled(459, 164, 459, 380), fill=black, width=6)
    draw.polygon(scaled(494, 168, 506, 172, 520, 236, 494, 236), fill=glass)
    for x in (140, 530):
        draw.pieslice(scaled(x - 50, 334, x + 50, 434), 180, 360, fill=black)
        draw.ellipse(scaled(x - 38, 346, x + 38, 422), fill=(24, 24, 26))
        draw.ellipse(scaled(x - 18, 366, x + 18, 402), fill=(150, 150, 152))
    for x in (36, 578):
        draw.rectangle(scaled(x, 372, x + 26, 388), fill=black)
    draw.ellipse(scaled(576, 286, 594, 306), fill=(250, 246, 220))
    for x in (64, 476):
        draw.ellipse(scaled(x, 142, x + 14, 152), fill=(200, 30, 24))
    stop = (400, 286, 412, 274, 426, 274, 438, 286, 438, 300, 426, 312, 412, 312, 400, 300)
    draw.polygon(scaled(*stop), fill=(196, 24, 28))
    pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS), np.float32)
    return Image.fromarray(np.clip(pixels + rng.normal(0, 3, (height, width, 1)), 0, 255).astype(np.uint8))


def first_page(folder: Path) -> Image.Image:
    """What the shipped weights say of the samples, side by side."""
    from hardnet_suite import predict

    shown = (
        ("cells", "ssd320_hardnet39ds", {"weights": "bccd", "score": 0.5}),
        ("street", "fchardnet70", {"weights": "camvid_trainval"}),
        ("bus", "hardnet39ds", {"weights": "tiny_imagenet10", "top": 3}),
    )
    height, gap, drawings = 420, 12, []
    for name, model, options in shown:
        (prediction,) = predict(model, str(folder / f"{name}.jpg"), **options)
        drawing = prediction.draw().convert("RGB")
        drawings.append(drawing.resize((round(drawing.width * height / drawing.height), height)))
    page = Image.new("RGB", (sum(d.width + gap for d in drawings) - gap, height), "white")
    left = 0
    for drawing in drawings:
        page.paste(drawing, (left, 0))
        left += drawing.width + gap
    return page


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in {"cells": cells, "street": street, "bus": bus}.items():
        draw().save(folder / f"{name}.jpg", quality=90)
    first_page(folder).save(Path(__file__).with_name("first_page.jpg"), quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)
