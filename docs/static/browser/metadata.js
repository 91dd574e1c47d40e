// What JPEG and PNG files have in common beside their pixels.

/** What is wrong with an image file, in words for its owner. */
export class ImageError extends Error {}

/** Bytes as text: letters beyond ASCII may come out as others. */
export function ascii(bytes) {
  return new TextDecoder("windows-1252").decode(bytes);
}

/** The orientation that EXIF data state, 1 to 8 if they are sound; undefined where they state none. */
export function exifOrientation(bytes) {
  const content = ascii(bytes.subarray(0, 6)) === "Exif\0\0" ? bytes.subarray(6) : bytes;
  const order = ascii(content.subarray(0, 4));
  if (order !== "II*\0" && order !== "MM\0*") return undefined;
  const isLittle = order === "II*\0";
  const view = new DataView(content.buffer, content.byteOffset, content.length);
  try {
    const place = view.getUint32(4, isLittle);
    for (let index = 0; index < view.getUint16(place, isLittle); index++) {
      const entry = place + 2 + 12 * index;
      if (view.getUint16(entry, isLittle) === 0x0112) return view.getUint16(entry + 8, isLittle);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // cut short
  }
  return undefined;
}

/** The orientation that XMP metadata state; undefined where they state none. */
export function xmpOrientation(text) {
  const match = /tiff:Orientation(?:="|>)([0-9])/.exec(text);
  return match ? Number(match[1]) : undefined;
}
