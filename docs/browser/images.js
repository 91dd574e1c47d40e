// Image files to upright 8-bit RGB pixels, by the rules of hardnet_suite/data/images.py. What a browser would read
// differently is refused.

import { isJpeg, readJpeg } from "./jpeg.js";
import { ImageError, ascii } from "./metadata.js";
import { isPng, readPng } from "./png.js";

const MOST_BYTES = 2 ** 27;
const MOST_PIXELS = 64_000_000;
const MOST_SIDE = 2 ** 14;
const OTHER_FORMATS = [
  ["GIF", /^GIF8/], ["BMP", /^BM/], ["TIFF", /^(?:II\*\0|MM\0\*)/], ["WebP", /^RIFF[^]{4}WEBP/],
  ["AVIF and HEIC", /^[^]{4}ftyp(?:avi[fs]|hei[cx]|mif1)/], ["JPEG 2000", /^\0\0\0\x0cjP/], ["SVG", /^\s*<(?:svg|\?xml)/],
];

/**
 * The pixels of an image file.
 * @param {Blob} file
 * @returns {Promise<{width: number, height: number, pixels: Uint8Array}>} RGB, row by row
 */
export async function readImage(file) {
  if (file.size > MOST_BYTES) throw new ImageError(`${file.size} bytes, the limit is ${MOST_BYTES}`);
  const bytes = new Uint8Array(await contentOf(file));
  if (isPng(bytes)) return upright(await readPng(bytes, requireSize));
  if (isJpeg(bytes)) return upright(await readJpeg(bytes, requireSize));
  const head = ascii(bytes.subarray(0, 32));
  const format = OTHER_FORMATS.find(([, pattern]) => pattern.test(head));
  throw new ImageError(
    format ? `${format[0]} files are not read here: save it as PNG or JPEG` : "not an image: this page reads PNG and JPEG",
  );
}

async function contentOf(file) {
  try {
    return await file.arrayBuffer();
  } catch { // browsers word it differently
    throw new ImageError("it cannot be read: it is a folder, or has changed since it was chosen");
  }
}

function requireSize(width, height) {
  if (!width || !height) throw new ImageError("an image without pixels");
  if (width > MOST_SIDE || height > MOST_SIDE || width * height > MOST_PIXELS) {
    throw new ImageError(
      `${width}×${height} pixels; the limits are ${MOST_SIDE} per side and ${MOST_PIXELS} in all`,
    );
  }
}

/** An image turned as its EXIF orientation says. */
function upright({ width, height, pixels, orientation }) {
  if (!(orientation >= 2 && orientation <= 8)) return { width, height, pixels };
  const isAcross = orientation >= 5;
  const fromRight = [2, 3, 7, 8].includes(orientation); // of the stored image
  const fromBottom = [3, 4, 6, 7].includes(orientation);
  const [newWidth, newHeight] = isAcross ? [height, width] : [width, height];
  const turned = new Uint8Array(pixels.length);
  let to = 0;
  for (let y = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++) {
      let row = isAcross ? x : y;
      let column = isAcross ? y : x;
      if (fromRight) column = width - 1 - column;
      if (fromBottom) row = height - 1 - row;
      const from = 3 * (row * width + column);
      turned[to++] = pixels[from];
      turned[to++] = pixels[from + 1];
      turned[to++] = pixels[from + 2];
    }
  }
  return { width: newWidth, height: newHeight, pixels: turned };
}
