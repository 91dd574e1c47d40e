// Decodes, prepares and computes, beside the page. Messages in: { number, file, model }. Messages out, all with the number:
// { loaded, total } in bytes, { stage } in words, { image, answer, seconds }, or { error, isFatal }.

import * as ort from "./ort.wasm.bundle.min.js";
import { answerOf } from "./answers.js";
import { readImage } from "./images.js";
import { ImageError } from "./metadata.js";
import { contentSize, prepare } from "./prepare.js";

const sessions = new Map(); // address of a model -> its session

self.onmessage = async ({ data: { number, file, model, runtime } }) => {
  const say = (message, transfer = []) => self.postMessage({ number, ...message }, transfer);
  try {
    say({ stage: "reading" });
    const image = await readImage(file);
    requireSize(model, image);
    const session = await sessionOf(model, runtime, say);
    say({ stage: "computing" });
    const begin = performance.now();
    const input = prepare(image, model.preprocess);
    const tensor = new ort.Tensor("uint8", input.planes, [1, 3, input.height, input.width]);
    const outputs = await session.run({ [model.input]: tensor });
    const answer = answerOf(model, outputs, input, image);
    say({ image, answer, seconds: (performance.now() - begin) / 1000 }, [image.pixels.buffer]);
  } catch (error) {
    // out of memory, or a fault: what WebAssembly holds then is not to be trusted
    say({ error: String(error.message || error).split("\n")[0], isFatal: !(error instanceof ImageError) });
  }
};

/** Images so narrow that the model does not take them. */
function requireSize(model, image) {
  const [height, width] = contentSize(image, model.preprocess);
  const least = model.least_side;
  if (width >= least && height >= least) return;
  throw new ImageError(`${image.width}×${image.height} pixels, ${width}×${height} for this model, which takes at least ${least}×${least}`);
}

async function sessionOf(model, runtime, say) {
  if (!sessions.has(model.file)) {
    const files = ort.env.wasm.wasmBinary ? [model] : [model, runtime];
    const total = files.reduce((sum, { bytes }) => sum + bytes, 0);
    const loaded = new Map();
    const contents = await Promise.all(files.map((each) => download(each, (bytes) => {
      loaded.set(each, bytes);
      say({ loaded: [...loaded.values()].reduce((sum, part) => sum + part, 0), total });
    })));
    if (files.length > 1) ort.env.wasm.wasmBinary = contents[1];
    ort.env.wasm.numThreads = 1; // several need a page that its server isolates from others
    say({ stage: "preparing the model" });
    sessions.set(model.file, await ort.InferenceSession.create(contents[0], { executionProviders: ["wasm"] }));
  }
  return sessions.get(model.file);
}

async function download({ file, bytes, sha256 }, progress) {
  const response = await fetch(new URL(`${file}?${sha256.slice(0, 12)}`, import.meta.url));
  if (!response.ok) throw new Error(`cannot load ${file}: ${response.status} ${response.statusText}`);
  const content = new Uint8Array(bytes);
  const reader = response.body.getReader();
  let place = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (place + value.length > bytes) break;
    content.set(value, place);
    place += value.length;
    progress(place);
  }
  if (place !== bytes || !(await isOf(sha256, content))) {
    throw new Error(`${file} is another one than when the page was built: reload the page`);
  }
  return content;
}

/** Whether content has a digest; browsers compute it on https and localhost alone. */
async function isOf(sha256, content) {
  if (!self.crypto?.subtle) return true;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === sha256;
}
