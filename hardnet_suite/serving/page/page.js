"use strict";

const TASKS = { classification: "Classify", detection: "Detect", segmentation: "Segment", match: "Match" };
const DELAY = 250; // milliseconds after the last move of a slider

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function download(name, type, content) {
  return make("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name, textContent: name });
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

/** A file that is dropped beside its box would be opened by the browser, some in the place of this page. */
function keepDroppedFilesOut() {
  for (const kind of ["dragover", "drop"]) {
    window.addEventListener(kind, (event) => {
      if (event.defaultPrevented || !event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "none";
    });
  }
}

class Panel {
  constructor(task, server) {
    this.task = task;
    this.server = server;
    this.files = {};
    this.asked = 0;
    this.chosen = 0;
    this.section = document.getElementById("panel").content.cloneNode(true).firstElementChild;
    this.section.id = `panel-${task}`;
    this.section.setAttribute("aria-labelledby", `tab-${task}`);
    this.names = task === "match" ? ["a", "b"] : ["image"];
    for (const name of this.names) this.addDrop(name);
    this.select = this.section.querySelector("select");
    this.score = this.section.querySelector(".score input");
    this.top = this.section.querySelector(".top input");
    this.status = this.section.querySelector(".status");
    this.answer = this.section.querySelector(".answer");
    this.addControls();
    this.addSamples();
  }

  addDrop(name) {
    const drop = document.getElementById("drop").content.cloneNode(true).firstElementChild;
    const input = drop.querySelector("input");
    drop.querySelector("span").textContent =
      this.names.length > 1 ? `Image ${name}: drop it here, or choose` : "Drop an image here, or choose";
    input.name = name;
    input.addEventListener("click", () => { input.value = ""; }); // the same file again is a change, too
    input.addEventListener("change", () => input.files.length && this.take(name, input.files[0]));
    drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (event.dataTransfer.files.length) this.take(name, event.dataTransfer.files[0]);
      else this.tell("What was dropped is a link or text, not a file: save the image, and drop its file.", true);
    });
    this.section.querySelector(".drops").append(drop);
  }

  addControls() {
    const models = this.server.models.filter((model) => model.task === this.task);
    for (const model of models) this.select.append(make("option", { value: model.name, textContent: model.name }));
    this.section.querySelector(".model").hidden = models.length < 2;
    this.section.querySelector(".score").hidden = this.task === "match";
    this.section.querySelector(".top").hidden = this.task !== "classification";
    this.score.value = models.length ? models[0].score : 0;
    let timer = 0;
    for (const slider of [this.score, this.top]) {
      const shown = slider.parentElement.querySelector("output");
      const show = () => { shown.textContent = slider.value; };
      show();
      slider.addEventListener("input", () => {
        show();
        clearTimeout(timer);
        timer = setTimeout(() => this.ask(), DELAY);
      });
    }
    this.select.addEventListener("change", () => this.ask());
  }

  addSamples() {
    const place = this.section.querySelector(".samples");
    for (const name of this.server.samples[this.task] || []) {
      const image = make("img", { src: `samples/${this.task}/${encodeURIComponent(name)}`, alt: `Example ${name}` });
      const button = make("button", { type: "button", title: name }, image);
      button.addEventListener("click", async () => {
        const number = ++this.chosen; // a later choice counts, also where this picture comes after it
        let file;
        try {
          const response = await fetch(image.src);
          if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
          file = new File([await response.blob()], name, { type: "image/jpeg" });
        } catch (error) {
          if (number !== this.chosen) return;
          this.answer.hidden = true;
          this.tell(`${name}: the server does not answer: ${error.message}`, true);
          return;
        }
        if (number !== this.chosen) return;
        const free = this.names.find((each) => !this.files[each]) || this.names[0];
        this.take(this.names.length > 1 ? free : "image", file);
      });
      place.append(button);
    }
  }

  take(name, file) {
    ++this.chosen;
    this.files[name] = file;
    const input = this.section.querySelector(`input[name="${name}"]`);
    input.parentElement.querySelector("span").textContent = file.name;
    this.ask();
  }

  tell(text, isBad = false) {
    this.status.textContent = text;
    this.status.classList.toggle("bad", isBad);
  }

  async ask() {
    const missing = this.names.filter((name) => !this.files[name]);
    if (missing.length) {
      if (missing.length < this.names.length) this.tell(`Now image ${missing[0]}.`);
      return;
    }
    const number = ++this.asked; // an answer that is overtaken by a later one is dropped
    for (const name of this.names) {
      if (this.files[name].size > this.server.most_bytes) {
        this.answer.hidden = true;
        this.tell(`${this.files[name].name}: larger than ${this.server.most_bytes} bytes, the limit of this server`, true);
        return;
      }
    }
    this.tell("…");
    const contents = {};
    for (const name of this.names) {
      const file = this.files[name];
      try {
        contents[name] = new Blob([await file.arrayBuffer()]);
      } catch {
        if (number !== this.asked) return;
        this.answer.hidden = true;
        this.tell(`${file.name} cannot be read: it is a folder, or has changed since it was chosen`, true);
        return;
      }
    }
    if (number !== this.asked) return;
    const begin = performance.now();
    let answer;
    try {
      const response = await this.send(contents);
      answer = await response.json();
    } catch (error) {
      answer = { error: `the server does not answer: ${error.message}` };
    }
    if (number !== this.asked) return;
    if (answer.error) {
      this.answer.hidden = true;
      this.tell(answer.error, true);
      return;
    }
    this.tell(`${Math.round(performance.now() - begin)} ms, with the way there and back`);
    this.show(answer);
  }

  send(contents) {
    if (this.task === "match") {
      const form = new FormData();
      for (const name of this.names) form.append(name, contents[name], name);
      return fetch("v1/match", { method: "POST", body: form });
    }
    const include = this.task === "segmentation" ? "drawing,mask" : "drawing";
    const options = new URLSearchParams({ model: this.select.value, score: this.score.value, include });
    if (this.task === "classification") options.set("top", this.top.value);
    return fetch(`v1/predict?${options}`, { method: "POST", body: contents.image });
  }

  show(answer) {
    const { drawing, mask_png: mask, ...plain } = answer;
    this.answer.hidden = false;
    this.answer.querySelector("img").src = `data:image/png;base64,${drawing}`;
    const stem = (this.files[this.names[0]].name.replace(/\.[^.]*$/, "") || "image");
    const links = this.answer.querySelector(".downloads");
    for (const link of links.children) URL.revokeObjectURL(link.href);
    links.replaceChildren(
      download(`${stem}.json`, "application/json", JSON.stringify(plain, null, 1)),
      download(`${stem}_drawing.png`, "image/png", bytes(drawing)),
    );
    if (mask) links.append(download(`${stem}_mask.png`, "image/png", bytes(mask)));
    const [head, rows] = this.table(answer);
    const cell = (tag) => (value, index) =>
      make(tag, { textContent: value, className: index && tag !== "th" ? "number" : index ? "number" : "" });
    this.answer.querySelector("thead").replaceChildren(make("tr", {}, ...head.map(cell("th"))));
    this.answer.querySelector("tbody").replaceChildren(
      ...rows.map((row) => make("tr", {}, ...row.map(cell("td")))),
    );
  }

  table(answer) {
    if (this.task === "match") {
      return [["", "number"], [
        ["keypoints", answer.keypoints.join(", ")], ["matches", answer.matches],
        ["inliers of a homography", answer.inliers ?? "no homography"],
      ]];
    }
    const share = (score) => `${(100 * score).toFixed(1)} %`;
    const rows = answer.names.map((name, index) => [name, share(answer.scores[index])]);
    if (this.task === "detection") {
      rows.forEach((row, index) => row.push(answer.boxes[index].map(Math.round).join(", ")));
      return [["class", "score", "x1, y1, x2, y2"], rows];
    }
    return [["class", this.task === "segmentation" ? "share of the image" : "probability"], rows];
  }
}

async function main() {
  const tabs = document.getElementById("tabs");
  const panels = document.getElementById("panels");
  keepDroppedFilesOut();
  let server;
  try {
    server = await (await fetch("v1/models")).json();
  } catch (error) {
    panels.append(make("p", { className: "status bad", textContent: `the server does not answer: ${error.message}` }));
    return;
  }
  const tasks = Object.keys(TASKS).filter(
    (task) => (task === "match" ? server.match : server.models.some((model) => model.task === task)),
  );
  const choose = (chosen) => {
    for (const task of tasks) {
      const tab = document.getElementById(`tab-${task}`);
      tab.setAttribute("aria-selected", task === chosen);
      tab.tabIndex = task === chosen ? 0 : -1;
      document.getElementById(`panel-${task}`).hidden = task !== chosen;
    }
  };
  for (const task of tasks) {
    const tab = make("button", { type: "button", id: `tab-${task}`, textContent: TASKS[task] });
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", `panel-${task}`);
    tab.addEventListener("click", () => choose(task));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tasks[(tasks.indexOf(task) + step + tasks.length) % tasks.length];
      choose(next);
      document.getElementById(`tab-${next}`).focus();
    });
    tabs.append(tab);
    panels.append(new Panel(task, server).section);
  }
  choose(tasks[0]);
}

main();
