// JPEG files to RGB pixels, with the browser's decoder, which gets them without colour profile and orientation.

import { ImageError, exifOrientation, ascii, single, xmpOrientation } from "./metadata.js";

const MOST_SCANS = 200; // each may take as long as the decoding of the whole image

export function isJpeg(bytes) {
  return bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff;
}

/**
 * The pixels of a JPEG file as stored.
 * @param {Uint8Array} bytes
 * @param {(width: number, height: number) => void} requireSize throws where the image is too large
 */
export async function readJpeg(bytes, requireSize) {
  const { parts, width, height, orientation } = partsOf(bytes);
  requireSize(width, height);
  // in one part: Firefox recognises a JPEG file by the first part of a blob, here only two bytes
  const whole = await new Blob(parts).arrayBuffer();
  const blob = new Blob([whole], { type: "image/jpeg" });
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    throw new ImageError("the browser cannot decode this JPEG file: it is damaged or of a rare kind");
  }
  if (bitmap.width !== width || bitmap.height !== height) throw damaged();
  requireTrueCanvas();
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true, alpha: false });
  context.fillStyle = "#fff";
  context.fillRect(width - 1, height - 1, 1, 1);
  if (context.getImageData(width - 1, height - 1, 1, 1).data[0] !== 255) { // too large for this browser
    throw new ImageError(`this browser cannot read back ${width}×${height} pixels: reduce the image, or save it as PNG`);
  }
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const pixels = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < pixels.length; from += 4, to += 3) {
    pixels[to] = data[from];
    pixels[to + 1] = data[from + 1];
    pixels[to + 2] = data[from + 2];
  }
  return { width, height, pixels, orientation };
}

function damaged() {
  return new ImageError("the JPEG file is damaged or cut short");
}

/** The file up to its pixels, segment by segment, without what decoders treat differently. */
function partsOf(bytes) {
  const parts = [bytes.subarray(0, 2)];
  let width, height, exif, xmp; // null: there, without an orientation
  for (let start = 2; start + 4 <= bytes.length && bytes[start] === 0xff;) {
    const marker = bytes[start + 1];
    if (marker === 0xff) { // fill bytes may precede a marker
      start++;
      continue;
    }
    if (marker === 0xda) {
      if (width === undefined) break;
      const scans = bytes.subarray(start);
      requireWhole(scans);
      return { parts: [...parts, scans], width, height, orientation: exif ?? xmp ?? 1 };
    }
    const end = start + 2 + 256 * bytes[start + 2] + bytes[start + 3];
    const segment = bytes.subarray(start + 4, end);
    const name = ascii(segment.subarray(0, 32));
    if (isFrame(marker)) [height, width] = sizeOf(segment);
    if (marker === 0xe1 && name.startsWith("Exif\0\0")) exif = single(exif, exifOrientation(segment) ?? null);
    if (marker === 0xe1 && name.startsWith("http://ns.adobe.com/xap/1.0/\0")) xmp = single(xmp, xmpOrientation(ascii(segment)) ?? null);
    if (marker !== 0xe1 && marker !== 0xe2) parts.push(bytes.subarray(start, end)); // EXIF and XMP, colour profiles
    start = end;
  }
  throw damaged();
}

function isFrame(marker) {
  return marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
}

function sizeOf(frame) {
  if (frame.length < 6) throw damaged();
  const [bits, channels] = [frame[0], frame[5]];
  if (bits !== 8) throw new ImageError(`a JPEG file of ${bits} bits per channel: save it with 8`);
  if (channels !== 1 && channels !== 3) throw new ImageError("a JPEG file in CMYK: save it in RGB");
  return [256 * frame[1] + frame[2], 256 * frame[3] + frame[4]];
}

/** Browsers show the first part of a file that is cut short; Python refuses it. */
function requireWhole(scans) {
  let count = 0;
  let isWhole = false;
  for (let place = scans.indexOf(0xff); place >= 0; place = scans.indexOf(0xff, place + 1)) {
    if (scans[place + 1] === 0xda) count++;
    if (scans[place + 1] === 0xd9) isWhole = true;
    if (scans[place + 1] === 0xd8 && !isWhole) throw damaged(); // the end may be that of another image
  }
  if (!isWhole) throw damaged();
  if (count > MOST_SCANS) throw new ImageError(`a JPEG file of more than ${MOST_SCANS} scans`);
}

let canvasIsTrue = false;

/** Some browsers change the pixels that pages read from a canvas, so that the pages cannot recognise them. */
function requireTrueCanvas() {
  if (canvasIsTrue) return;
  const side = 64;
  const context = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
  const drawn = new ImageData(side, side);
  for (let place = 0; place < drawn.data.length; place++) {
    drawn.data[place] = place % 4 === 3 ? 255 : (place * 37) % 256;
  }
  context.putImageData(drawn, 0, 0);
  const { data } = context.getImageData(0, 0, side, side);
  canvasIsTrue = data.every((value, place) => value === drawn.data[place]);
  if (!canvasIsTrue) {
    throw new ImageError(
      "this browser alters pixels that a page reads, against fingerprinting: permit it for this page, or use a PNG file",
    );
  }
}
