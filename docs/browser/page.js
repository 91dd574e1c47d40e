// The page browser.html: files in, answers out. worker.js computes.

import { chosen, toJson } from "./answers.js";
import { writeLabels } from "./png.js";

const root = document.getElementById("browser-page");
const data = JSON.parse(document.getElementById("browser-page-data").textContent);
const find = (selector) => root.querySelector(selector);
const address = (file) => new URL(file, import.meta.url).href;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
const css = (color) => `rgb(${color.join(" ")})`;

class Page {
  constructor() {
    root.dataset.runs = "yes";
    this.number = 0; // of the latest request: answers to earlier ones are dropped
    this.isBusy = false;
    this.loaded = new Set(); // models in the worker
    this.addModels();
    this.addInputs();
    for (const slider of root.querySelectorAll("input[type=range]")) slider.addEventListener("input", () => this.showSoon());
    this.choose(data.models[0]);
    find(".controls").hidden = false;
  }

  addModels() {
    for (const model of data.models) {
      const input = make("input", { type: "radio", name: "browser-page-model", autocomplete: "off" });
      input.checked = model === data.models[0];
      input.addEventListener("change", () => this.choose(model));
      const note = make("small", { textContent: `${model.name}, ${megabytes(model.bytes)}` });
      find(".models").append(make("label", {}, input, make("span", {}, make("b", { textContent: model.title }), note)));
    }
  }

  addInputs() {
    const drop = find(".drop");
    const input = drop.querySelector("input");
    input.addEventListener("change", () => {
      if (input.files.length) this.ask(input.files[0]);
      input.value = ""; // the same file may be chosen again
    });
    root.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
    root.addEventListener("dragleave", () => drop.classList.remove("over"));
    root.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (event.dataTransfer.files.length) this.ask(event.dataTransfer.files[0]);
      else this.tell("What was dropped is a link or text, not a file: save the image, and drop its file.", { isProblem: true });
    });
    find(".sample").addEventListener("click", () => this.askSample());
  }

  choose(model) {
    this.model = model;
    this.number++;
    this.forget();
    find(".answer").hidden = true;
    find(".sample img").src = address(model.sample);
    find(".score input").value = model.score;
    find(".score").hidden = model.task !== "detection";
    find(".opacity").hidden = model.task !== "segmentation";
    const size = model.bytes + (this.loaded.size ? 0 : data.runtime.bytes);
    const parts = this.loaded.size ? "the model" : "the model and ONNX Runtime Web";
    this.tell(this.loaded.has(model) ? "" : `The first answer loads ${parts}, ${megabytes(size)}.`);
  }

  /** The last answer; large canvases are emptied, as browsers have little memory for them. */
  forget() {
    for (const layer of this.found?.layers ?? []) if (layer) layer.width = layer.height = 0;
    this.found = null;
  }

  /** @param {number | null} progress share that is done, NaN where it is unknown; null where nothing goes on */
  tell(text, { isProblem = false, progress = null } = {}) {
    const status = find(".status");
    if (status.textContent !== text) status.textContent = text; // read aloud once
    status.classList.toggle("problem", isProblem);
    const bar = find("progress");
    bar.hidden = progress === null;
    if (progress >= 0) bar.value = progress;
    else bar.removeAttribute("value");
  }

  async askSample() {
    const { sample } = this.model;
    const { number } = this; // what goes on meanwhile is left alone
    try {
      const response = await fetch(address(sample));
      if (!response.ok) throw new Error(response.statusText);
      const file = new File([await response.blob()], sample.split("/").at(-1));
      if (number === this.number) this.ask(file);
    } catch (error) {
      if (number === this.number) this.tell(`The sample cannot be loaded: ${error.message}`, { isProblem: true });
    }
  }

  /** Answers a file, once the one before is through. */
  ask(file) {
    this.request = { number: ++this.number, file, model: this.model, runtime: data.runtime };
    find(".answer").hidden = true;
    this.forget();
    this.tell(`${file.name}: waiting`);
    if (!this.isBusy) this.send();
  }

  send() {
    this.isBusy = true;
    this.sent = this.request;
    if (!this.worker) {
      this.worker = new Worker(address("worker.js"), { type: "module" });
      this.worker.onmessage = ({ data: message }) => this.receive(message);
      this.worker.onerror = (event) => {
        event.preventDefault();
        this.receive({ number: this.sent.number, error: "the page's program could not be loaded or does not run in this browser: reload the page", isFatal: true });
      };
    }
    this.worker.postMessage(this.sent);
  }

  receive(message) {
    const { file, model } = this.sent;
    const isLatest = message.number === this.number;
    if (isLatest && message.total) this.tell("Loading the model", { progress: message.loaded / message.total });
    if (isLatest && message.stage) this.tell(`${file.name}: ${message.stage}`, { progress: NaN });
    if (!message.error && !message.answer) return;
    this.isBusy = false;
    if (message.isFatal) {
      this.worker.terminate();
      this.worker = null;
      this.loaded.clear();
    }
    if (message.answer) this.loaded.add(model);
    if (isLatest && message.error) this.tell(`${file.name}: ${message.error}`, { isProblem: true });
    if (isLatest && message.answer) {
      this.tell(`${file.name}: ${message.image.width}×${message.image.height} pixels, ${message.seconds.toFixed(2)} s`);
      this.found = { ...message, file, model };
      this.show();
    }
    if (this.request !== this.sent && this.request.number === this.number) this.send();
  }

  /** A slider may move more often than the screen is drawn. */
  showSoon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      if (!find(".answer").hidden) this.show(); // not of a file that is no longer asked for
    });
  }

  show() {
    for (const label of root.querySelectorAll(".answer label")) {
      label.querySelector("output").textContent = Number(label.querySelector("input").value).toFixed(2);
    }
    if (!this.found) return;
    const { image, model } = this.found;
    const answer = chosen(this.found.answer, Number(find(".score input").value));
    this.draw(image, model, answer);
    this.list(model, answer);
    this.offer(model, image, answer);
    find(".answer").hidden = false;
  }

  draw({ width, height }, model, answer) {
    const canvas = find("canvas");
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    this.found.layers ??= layersOf(this.found.image, model, answer.mask);
    const [picture, mask] = this.found.layers;
    context.drawImage(picture, 0, 0);
    if (mask) {
      context.globalAlpha = Number(find(".opacity input").value);
      context.drawImage(mask, 0, 0);
      context.globalAlpha = 1;
    }
    if (answer.boxes) drawBoxes(context, model, answer);
    canvas.setAttribute("aria-label", `The image with the answer drawn on it: ${summary(model, answer)}`);
  }

  list(model, answer) {
    const heads = answer.boxes ? ["class", "score", "x1, y1, x2, y2"] : ["class", "share of the image"];
    const cell = (tag) => (value, index) => make(tag, { className: index ? "number" : "" }, value);
    const rows = answer.labels.map((label, index) => {
      const chip = make("i", { className: "chip" });
      chip.style.background = css(model.palette[label]);
      const values = [make("span", {}, chip, model.classes[label]), `${(100 * answer.scores[index]).toFixed(1)} %`];
      if (answer.boxes) values.push(answer.boxes[index].map(Math.round).join(", "));
      return make("tr", {}, ...values.map(cell("td")));
    });
    find("caption").textContent = answer.boxes ? summary(model, answer) : "";
    find("thead").replaceChildren(make("tr", {}, ...heads.map(cell("th"))));
    find("tbody").replaceChildren(...rows);
  }

  /** Files to download, made when they are asked for. */
  offer(model, image, answer) {
    const { name } = this.found.file;
    const stem = name.replace(/\.[^.]*$/, "") || "image";
    const files = {
      [`${stem}.json`]: () => new Blob([toJson(model, name, image, answer)], { type: "application/json" }),
      [`${stem}_drawing.png`]: () => new Promise((resolve) => { find("canvas").toBlob(resolve); }),
    };
    if (answer.mask) files[`${stem}_mask.png`] = () => writeLabels(answer.mask, image.width, image.height, model.palette);
    const buttons = Object.entries(files).map(([file, content]) => {
      const button = make("button", { type: "button", textContent: file });
      button.addEventListener("click", async () => {
        const link = make("a", { href: URL.createObjectURL(await content()), download: file });
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      });
      return button;
    });
    find(".downloads").replaceChildren("Download ", ...buttons);
  }
}

/** Canvases of the image and of the mask's colours: made once, where a slider draws many times. */
function layersOf({ width, height, pixels }, model, mask) {
  const layer = (values, placeOf) => {
    const canvas = make("canvas", { width, height });
    const context = canvas.getContext("2d");
    const drawn = context.createImageData(width, height);
    for (let place = 0; place < width * height; place++) {
      const from = placeOf(place);
      for (let channel = 0; channel < 3; channel++) drawn.data[4 * place + channel] = values[from + channel];
      drawn.data[4 * place + 3] = from < values.length ? 255 : 0; // no colour: transparent
    }
    context.putImageData(drawn, 0, 0);
    return canvas;
  };
  const picture = layer(pixels, (place) => 3 * place);
  return [picture, mask && layer(model.palette.flat(), (place) => 3 * mask[place])];
}

/** The classes, of boxes with their numbers. */
function summary(model, { labels, boxes }) {
  const classes = [...new Set(labels)].map((label) => {
    const count = labels.filter((each) => each === label).length;
    return boxes ? `${count} ${model.classes[label]}` : model.classes[label];
  });
  return classes.join(", ") || "nothing";
}

function drawBoxes(context, model, answer) {
  const { width, height } = context.canvas;
  const size = Math.max(11, Math.round(Math.sqrt(width * height) / 34));
  context.font = `${size}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (let index = answer.labels.length - 1; index >= 0; index--) { // the best one on top
    const [x1, y1, x2, y2] = answer.boxes[index];
    const label = answer.labels[index];
    const text = `${model.classes[label]} ${answer.scores[index].toFixed(2)}`;
    const room = context.measureText(text).width + size / 2;
    const left = Math.max(0, Math.min(x1, width - room));
    const top = y1 >= 1.3 * size ? y1 - 1.3 * size : y1;
    context.strokeStyle = context.fillStyle = css(model.palette[label]);
    context.lineWidth = Math.max(1.5, size / 8);
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    context.fillRect(left, top, room, 1.3 * size);
    context.fillStyle = isLight(model.palette[label]) ? "#111" : "#fff";
    context.fillText(text, left + size / 4, top + 0.2 * size);
  }
}

function isLight([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
}

if (location.protocol !== "file:") new Page();
