// What JPEG and PNG files have in common beside their pixels.

const SHORT = 3; // EXIF's type of 16 bits

/** What is wrong with an image file, in words for its owner. */
export class ImageError extends Error {}

/** Bytes as text: letters beyond ASCII may come out as others. */
export function ascii(bytes) {
  return new TextDecoder("windows-1252").decode(bytes);
}

/**
 * The orientation that EXIF data state; undefined where they state none.
 * @throws {ImageError} where decoders may read another, or none
 */
export function exifOrientation(bytes) {
  const content = ascii(bytes.subarray(0, 6)) === "Exif\0\0" ? bytes.subarray(6) : bytes;
  const order = ascii(content.subarray(0, 4));
  if (order !== "II*\0" && order !== "MM\0*") throw unusual();
  const isLittle = order === "II*\0";
  const view = new DataView(content.buffer, content.byteOffset, content.length);
  try {
    const place = view.getUint32(4, isLittle);
    for (let index = 0; index < view.getUint16(place, isLittle); index++) {
      const entry = place + 2 + 12 * index;
      if (view.getUint16(entry, isLittle) !== 0x0112) continue;
      if (view.getUint16(entry + 2, isLittle) !== SHORT || view.getUint32(entry + 4, isLittle) !== 1) throw unusual();
      return view.getUint16(entry + 8, isLittle);
    }
  } catch (error) {
    throw error instanceof RangeError ? unusual() : error; // cut short
  }
  return undefined;
}

/** Keeps the only value of its kind. */
export function single(before, value) {
  if (before !== undefined) throw unusual();
  return value;
}

/** What is thrown at metadata from which decoders may read different orientations. */
function unusual() {
  return new ImageError("metadata of an unusual form, in which its orientation may be: save it again without metadata");
}

/** The orientation that XMP metadata state; undefined where they state none. */
export function xmpOrientation(text) {
  const match = /tiff:Orientation(?:="|>)([0-9])/.exec(text);
  return match ? Number(match[1]) : undefined;
}
