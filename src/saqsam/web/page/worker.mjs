// One model in ONNX Runtime for WebAssembly. It lives in a worker, because encoding takes seconds.
// Messages in: {id, kind: "load" | "encode" | "holds" | "decode", ...}; out: {id, result | fault} and {id, progress}.

import * as ort from "./ort/ort.wasm.min.mjs";
import { frameFor, preprocess } from "./pixels.mjs";
import { sha256 } from "./sha256.mjs";
import { SINGLE, SLOTS } from "./state.mjs";

const FIRST_SAM = { pixels: "images", masks: "low_res_masks", scores: "iou_predictions" };
/** What the tensors of a model's graphs are called that does not say it itself. */

let sessions = null;
let model = null;
let tensors = FIRST_SAM;
let latest = null;
const MOST_CROPS = 4;
/** What the decoder needs of the whole photo, which is the first, and of the latest crops, by part. */
const imageSides = new Map();

function fault(kind, detail) {
  return Object.assign(new Error(detail), { kind });
}

async function download(file, tell) {
  const response = await fetch(new URL(file.path, import.meta.url)).catch(() => null);
  if (!response?.ok) throw fault("missing", file.path);
  const reader = response.body.getReader();
  let bytes = new Uint8Array(file.bytes);
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (length + value.length > bytes.length) throw fault("hash", file.path);
    bytes.set(value, length);
    length += value.length;
    tell(value.length);
  }
  if (length !== file.bytes || await sha256(bytes) !== file.sha256) throw fault("hash", file.path);
  return bytes;
}

async function load({ model: given, threads }, progress) {
  model = given;
  tensors = model.tensors ?? FIRST_SAM;
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  const files = Object.values(model.files);
  const total = files.reduce((sum, file) => sum + file.bytes, 0);
  let loaded = 0;
  const tell = (count) => { loaded += count; progress({ stage: "download", done: loaded, total }); };
  const began = performance.now();
  sessions = {};
  // The large one first: what is temporary while it is created is free again for the others.
  for (const name of ["encoder", "image", "prompts"]) {
    const bytes = await download(model.files[name], tell);
    if (loaded === total) progress({ stage: "create", done: 0, total: 1 });
    sessions[name] = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  }
  return { seconds: (performance.now() - began) / 1000 };
}

function keep(part, imageSide) {
  imageSides.set(part, imageSide);
  const [, ...crops] = imageSides.keys();
  for (const old of crops.slice(0, -MOST_CROPS)) imageSides.delete(old);
}

async function holds({ part }) { return imageSides.has(part); }

async function encode({ part, first, pixels, width, height }) {
  const began = performance.now();
  const { side, pads } = model;
  const input = preprocess(pixels, frameFor(width, height, side, pads), model);
  if (first) imageSides.clear();
  latest = await sessions.encoder.run({ [tensors.pixels]: new ort.Tensor("float32", input, [1, 3, side, side]) });
  const wanted = Object.entries(latest).filter(([name]) => sessions.image.inputNames.includes(name));
  keep(part, await sessions.image.run(Object.fromEntries(wanted)));
  return { seconds: (performance.now() - began) / 1000 };
}

async function decode({ part, coords, labels, slots }) {
  const began = performance.now();
  const imageSide = imageSides.get(part);
  if (!imageSide) throw fault("order", "no photo was encoded");
  const count = labels.length;
  const { masks, scores, objects, single } = tensors;
  // Which mask is the single answer the model tells of all of them only.
  const asked = single && slots.includes(SINGLE) ? SLOTS : slots;
  const found = await sessions.prompts.run({
    ...imageSide,
    point_coords: new ort.Tensor("float32", Float32Array.from(coords), [1, count, 2]),
    point_labels: new ort.Tensor("float32", Float32Array.from(labels), [1, count]),
    mask_slots: new ort.Tensor("int64", BigInt64Array.from(asked, BigInt), [asked.length]),
  });
  const logits = found[masks].data;
  const each = logits.length / asked.length;
  const chosen = slots.map((slot) => (single && slot === SINGLE ? Number(found[single].data[0]) : slot));
  const places = chosen.map((slot) => asked.indexOf(slot));
  return {
    masks: places.map((i) => logits.slice(i * each, (i + 1) * each)),
    scores: chosen.map((slot) => found[scores].data[slot]),
    object: objects ? 1 / (1 + Math.exp(-found[objects].data[0])) : null,
    seconds: (performance.now() - began) / 1000,
  };
}

/** What the encoder made of the latest picture, to be compared with saqsam's. */
async function embedding() {
  return Object.entries(latest).map(([name, { data, dims }]) => ({ name, values: data.slice(), shape: dims }));
}

const KINDS = { load, encode, holds, decode, embedding };
let last = Promise.resolve();

onmessage = ({ data }) => {
  const { id, kind } = data;
  last = last.then(async () => {
    try {
      postMessage({ id, result: await KINDS[kind](data, (progress) => postMessage({ id, progress })) });
    } catch (error) {
      const text = String(error?.message ?? error);
      const memory = error instanceof RangeError || /out of memory|bad_alloc|OOM|allocat/i.test(text);
      postMessage({ id, fault: { kind: error?.kind ?? (memory ? "memory" : "engine"), detail: text } });
    }
  });
};
