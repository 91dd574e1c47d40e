// PNG files to RGB pixels and back. A canvas would not do: it stores colours multiplied by their transparency, and 8 of 16 bits.

import { ImageError, exifOrientation, ascii, single, xmpOrientation } from "./metadata.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const UNREAD = "unread";
const GREY = 0, RGB = 2, PALETTE = 3, GREY_ALPHA = 4, RGB_ALPHA = 6; // colour types
const CHANNELS = { [GREY]: 1, [RGB]: 3, [PALETTE]: 1, [GREY_ALPHA]: 2, [RGB_ALPHA]: 4 };
const DEPTHS = { [GREY]: [1, 2, 4, 8, 16], [RGB]: [8, 16], [PALETTE]: [1, 2, 4, 8], [GREY_ALPHA]: [8, 16], [RGB_ALPHA]: [8, 16] };
// first column and row, and steps, of the passes of an interlaced image
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
const CRC = new Uint32Array(256).map((_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

export function isPng(bytes) {
  return SIGNATURE.every((byte, place) => bytes[place] === byte);
}

/**
 * The pixels of a PNG file as stored, on white where they are transparent; of an animation the first frame.
 * @param {Uint8Array} bytes
 * @param {(width: number, height: number) => void} requireSize throws where the image is too large
 */
export async function readPng(bytes, requireSize) {
  const { head, palette, alpha, data, orientation } = chunksOf(bytes);
  const view = new DataView(head.buffer, head.byteOffset, head.length);
  const [width, height] = [view.getUint32(0), view.getUint32(4)];
  const [depth, color, , , interlace] = head.subarray(8);
  if (!DEPTHS[color]?.includes(depth) || interlace > 1 || head[10] || head[11]) throw damaged();
  if (color === PALETTE && !palette) throw damaged();
  if (color === GREY && depth < 16 && alpha?.length >= 2 && 256 * alpha[0] + alpha[1] >= 2 ** depth) throw damaged();
  requireSize(width, height);
  const channels = CHANNELS[color];
  const bits = depth * channels;
  const passes = (interlace ? PASSES : [[0, 0, 1, 1]])
    .map(([left, top, stepX, stepY]) => ({
      left, top, stepX, stepY, columns: Math.ceil((width - left) / stepX), rows: Math.ceil((height - top) / stepY),
    }))
    .filter(({ columns, rows }) => columns > 0 && rows > 0);
  const total = passes.reduce((sum, { columns, rows }) => sum + rows * (1 + Math.ceil((columns * bits) / 8)), 0);
  const filtered = await inflated(data, total);
  const convert = converter({ depth, color, palette, alpha });
  const pixels = new Uint8Array(3 * width * height);
  let start = 0;
  for (const pass of passes) {
    const size = Math.ceil((pass.columns * bits) / 8);
    let previous = new Uint8Array(size);
    for (let row = 0; row < pass.rows; row++) {
      const line = filtered.subarray(start + 1, start + 1 + size);
      unfilter(filtered[start], line, previous, Math.max(1, bits >> 3));
      const to = 3 * ((pass.top + row * pass.stepY) * width + pass.left);
      convert(line, pass.columns, pixels, to, 3 * pass.stepX);
      previous = line;
      start += 1 + size;
    }
  }
  return { width, height, pixels, orientation };
}

function damaged() {
  return new ImageError("the PNG file is damaged or cut short");
}

function chunksOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const parts = { data: [] };
  let exif, xmp, unread; // null: there, without an orientation
  let isData = false; // whether the chunk before was of pixels
  let isAnimated = false; // whether what belongs to a frame has begun
  for (let start = 8; start + 12 <= bytes.length;) {
    const length = view.getUint32(start);
    const end = start + 8 + length;
    if (end + 4 > bytes.length || crc(bytes.subarray(start + 4, end)) !== view.getUint32(end)) throw damaged();
    const kind = ascii(bytes.subarray(start + 4, start + 8));
    const content = bytes.subarray(start + 8, end);
    if (kind === "IHDR" && length === 13) parts.head = content;
    else if (kind === "PLTE") parts.palette = content;
    else if (kind === "tRNS") parts.alpha = content;
    else if (kind === "IDAT") {
      if (parts.data.length && !isData) throw damaged(); // the pixels are in chunks that follow each other
      parts.data.push(content);
    } else if (kind === "fcTL") isAnimated = true;
    else if (kind === "eXIf") exif = single(exif, isAnimated ? NaN : exifOrientation(content) ?? null);
    else if (["tEXt", "zTXt", "iTXt"].includes(kind)) {
      const found = textOrientation(kind, content);
      if (found === UNREAD) unread = true;
      else if (found !== undefined) xmp = single(xmp, isAnimated ? NaN : found);
    } else if (kind === "IEND") break;
    isData = kind === "IDAT";
    start = end + 4;
  }
  if (!parts.head || !parts.data.length) throw damaged();
  if ((unread && exif == null) || Number.isNaN(exif) || Number.isNaN(xmp)) {
    throw new ImageError("a PNG file whose orientation may be in a text or behind a frame: save it again without metadata");
  }
  return { ...parts, orientation: exif ?? xmp ?? 1 };
}

/** What a text states: null for XMP without an orientation, UNREAD, or undefined for another text. */
function textOrientation(kind, content) {
  const text = ascii(content);
  const isXmp = text.startsWith("XML:com.adobe.xmp\0");
  if (isXmp && kind !== "zTXt" && text.charCodeAt(18) !== 1) return xmpOrientation(text) ?? null;
  return isXmp || text.startsWith("Raw profile type exif\0") ? UNREAD : undefined;
}

function crc(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

/** The first `total` bytes of a zlib stream. */
async function inflated(parts, total) {
  const result = new Uint8Array(total);
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  let place = 0;
  try {
    while (place < total) {
      const { done, value } = await reader.read();
      if (done) break;
      result.set(value.subarray(0, total - place), place);
      place += Math.min(value.length, total - place);
    }
    await reader.cancel();
  } catch {
    if (place < total) throw damaged();
  }
  if (place < total) throw damaged();
  return result;
}

/** Undoes a line's filter in place. */
function unfilter(kind, line, above, step) {
  const left = (place) => (place < step ? 0 : line[place - step]);
  const corner = (place) => (place < step ? 0 : above[place - step]);
  const length = line.length;
  if (kind > 4) throw damaged();
  if (kind === 1) for (let place = step; place < length; place++) line[place] += line[place - step];
  if (kind === 2) for (let place = 0; place < length; place++) line[place] += above[place];
  if (kind === 3) for (let place = 0; place < length; place++) line[place] += (left(place) + above[place]) >> 1;
  if (kind === 4) for (let place = 0; place < length; place++) line[place] += paeth(left(place), above[place], corner(place));
}

function paeth(a, b, c) {
  const [toA, toB, toC] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  return toA <= toB && toA <= toC ? a : toB <= toC ? b : c;
}

/** A function that writes a line of samples as RGB pixels on white, as Pillow computes them. */
function converter({ depth, color, palette, alpha }) {
  const channels = CHANNELS[color];
  const scale = color === GREY ? ({ 1: 255, 2: 85, 4: 17 }[depth] ?? 1) : 1;
  const key = alpha && color !== PALETTE ? transparentColor(alpha, color, depth) : null;
  if (key) key[0] *= scale;
  const sample = (line, index) => {
    if (depth === 8) return line[index];
    if (depth === 16) return line[2 * index]; // the upper 8 bits
    const place = index * depth;
    return (line[place >> 3] >> (8 - depth - (place & 7))) & ((1 << depth) - 1);
  };
  // of 16 bits the lower 8 tell the transparent colour, too
  const isLower = (line, first) =>
    depth !== 16 || [0, 1, 2].every((channel) => line[2 * (first + channel) + 1] === alpha[2 * channel + 1]);
  return (line, count, pixels, to, step) => {
    for (let index = 0; index < count; index++, to += step) {
      const first = index * channels;
      let r = sample(line, first) * scale;
      let [g, b, opacity] = [r, r, 255];
      if (color === RGB || color === RGB_ALPHA) {
        g = sample(line, first + 1);
        b = sample(line, first + 2);
        if (color === RGB_ALPHA) opacity = sample(line, first + 3);
        else if (key && r === key[0] && g === key[1] && b === key[2] && isLower(line, first)) opacity = 0;
      } else if (color === GREY_ALPHA) {
        opacity = sample(line, first + 1);
      } else if (color === PALETTE) {
        const entry = 3 * r;
        if (entry + 3 > palette.length) throw damaged();
        opacity = alpha?.[r] ?? 255;
        [r, g, b] = [palette[entry], palette[entry + 1], palette[entry + 2]];
      } else {
        const value = depth === 16 ? 256 * r + line[2 * index + 1] : r;
        if (depth === 16) r = g = b = Math.floor(value / 257);
        if (key && value === key[0]) opacity = 0;
      }
      pixels[to] = onWhite(r, opacity);
      pixels[to + 1] = onWhite(g, opacity);
      pixels[to + 2] = onWhite(b, opacity);
    }
  };
}

/** Per channel, the value that stands for a transparent pixel; of RGB with 16 bits its upper 8. */
function transparentColor(content, color, depth) {
  if (content.length < (color === GREY ? 2 : 6)) throw damaged();
  const values = [0, 2, 4].slice(0, color === GREY ? 1 : 3).map((place) => 256 * content[place] + content[place + 1]);
  return color === RGB ? values.map((value) => (depth === 16 ? value >> 8 : value & 255)) : values;
}

/** Pillow's alpha_composite, for one channel on white. */
function onWhite(value, alpha) {
  if (alpha === 0) return 255;
  const sum = (value * alpha + 255 * (255 - alpha)) * 128 + 0x4000;
  return (((sum >> 8) + sum) >> 8) >> 7;
}

/**
 * A PNG file of class indices, in the colours of a palette.
 * @param {Uint8Array} labels row by row
 * @param {number[][]} palette one RGB colour per class
 * @returns {Promise<Blob>}
 */
export async function writeLabels(labels, width, height, palette) {
  const lines = new Uint8Array((width + 1) * height); // without filters
  for (let row = 0; row < height; row++) lines.set(labels.subarray(row * width, (row + 1) * width), row * (width + 1) + 1);
  const stream = new Blob([lines]).stream().pipeThrough(new CompressionStream("deflate"));
  const head = new Uint8Array(13);
  const view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([8, PALETTE], 8);
  const colors = Uint8Array.from({ length: 768 }, (_, place) => palette[Math.floor(place / 3)]?.[place % 3] ?? 0);
  const data = new Uint8Array(await new Response(stream).arrayBuffer());
  const chunks = [chunk("IHDR", head), chunk("PLTE", colors), chunk("IDAT", data), chunk("IEND", new Uint8Array())];
  return new Blob([new Uint8Array(SIGNATURE), ...chunks], { type: "image/png" });
}

function chunk(kind, content) {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(Array.from(kind, (letter) => letter.charCodeAt(0)), 4);
  bytes.set(content, 8);
  view.setUint32(8 + content.length, crc(bytes.subarray(4, 8 + content.length)));
  return bytes;
}
