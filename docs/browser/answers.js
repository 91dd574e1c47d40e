// From the outputs of an exported model, of detectors with the postprocessing inside, to what `predict` of Python returns.

import { boxesToImage, classesOfImage } from "./prepare.js";

const NOT_FINITE = "the network's output holds NaN or infinity";

/**
 * @param {object} model record of the model, as the page has it
 * @param {Record<string, {data: any, dims: number[]}>} outputs by name
 * @param {{width: number, height: number}} input what the model saw
 * @param {{width: number, height: number}} image the image
 * @returns {{labels: number[], scores: number[], boxes?: number[][], mask?: Uint8Array}} best or largest first
 */
export function answerOf(model, outputs, input, image) {
  if (outputs.logits) return maskAnswer(outputs.logits, model.num_classes, image);
  return boxAnswer(model.postprocess, outputs, input, image);
}

function maskAnswer(logits, classes, image) {
  if (!logits.data.every(Number.isFinite)) throw new Error(NOT_FINITE);
  const mask = classesOfImage(logits, image);
  const counts = new Array(classes).fill(0);
  for (const label of mask) counts[label]++;
  const labels = [...counts.keys()].filter((label) => counts[label]);
  labels.sort((a, b) => counts[b] - counts[a] || a - b);
  return { labels, scores: labels.map((label) => counts[label] / mask.length), mask };
}

function boxAnswer(rule, { boxes, scores, labels }, input, image) {
  if (!scores.data.every(Number.isFinite) || !boxes.data.every(Number.isFinite)) throw new Error(NOT_FINITE);
  const used = [...labels.data.keys()].filter((row) => labels.data[row] >= 0 && scores.data[row] > rule.score_threshold);
  return {
    labels: used.map((row) => Number(labels.data[row])),
    scores: used.map((row) => scores.data[row]),
    boxes: boxesToImage(used.map((row) => [...boxes.data.subarray(4 * row, 4 * row + 4)]), input, image, rule),
  };
}

/** The boxes that score enough; all classes of a mask. */
export function chosen(answer, score) {
  if (!answer.boxes) return answer;
  const kept = answer.scores.map((each) => each >= score);
  const filter = (values) => values.filter((_, index) => kept[index]);
  return { labels: filter(answer.labels), scores: filter(answer.scores), boxes: filter(answer.boxes) };
}

/** The fields of `Prediction.to_dict()`. */
export function toJson(model, name, image, answer) {
  const row = {
    model: model.name,
    name,
    task: model.task,
    size: [image.width, image.height],
    labels: answer.labels,
    names: answer.labels.map((label) => model.classes[label]),
    scores: answer.scores.map((score) => Number(score.toFixed(6))),
  };
  if (answer.boxes) row.boxes = answer.boxes.map((box) => box.map((value) => Number(value.toFixed(2))));
  if (answer.mask) row.mask = { size: [image.height, image.width], runs: runsOf(answer.mask) };
  return JSON.stringify(row, null, 1);
}

function runsOf(mask) {
  const runs = [];
  for (const label of mask) {
    const last = runs.at(-1);
    if (last?.[0] === label) last[1]++;
    else runs.push([label, 1]);
  }
  return runs;
}
