// One model in ONNX Runtime for WebAssembly. It lives in a worker, because encoding takes seconds.
// Messages in: {id, kind: "load" | "encode" | "decode", ...}; out: {id, result | fault} and {id, progress}.

import * as ort from "./ort/ort.wasm.min.mjs";
import { frameFor, preprocess } from "./pixels.mjs";
import { sha256 } from "./sha256.mjs";

let sessions = null;
let side = 0;
let imageSide = null;
let latest = null;

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

async function load({ model, threads }, progress) {
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
  side = model.side;
  return { seconds: (performance.now() - began) / 1000 };
}

async function encode({ pixels, width, height }) {
  const began = performance.now();
  const input = preprocess(pixels, frameFor(width, height, side));
  const images = new ort.Tensor("float32", input, [1, 3, side, side]);
  imageSide = null;
  const { image_embeddings } = await sessions.encoder.run({ images });
  latest = image_embeddings;
  imageSide = await sessions.image.run({ image_embeddings });
  return { seconds: (performance.now() - began) / 1000 };
}

async function decode({ coords, labels, slots }) {
  const began = performance.now();
  if (imageSide === null) throw fault("order", "no photo was encoded");
  const count = labels.length;
  const found = await sessions.prompts.run({
    ...imageSide,
    point_coords: new ort.Tensor("float32", Float32Array.from(coords), [1, count, 2]),
    point_labels: new ort.Tensor("float32", Float32Array.from(labels), [1, count]),
    mask_slots: new ort.Tensor("int64", BigInt64Array.from(slots, BigInt), [slots.length]),
  });
  const logits = found.low_res_masks.data;
  const each = logits.length / slots.length;
  return {
    masks: slots.map((_, i) => logits.slice(i * each, (i + 1) * each)),
    scores: slots.map((slot) => found.iou_predictions.data[slot]),
    seconds: (performance.now() - began) / 1000,
  };
}

/** What the decoder was given for the latest photo, to be compared with saqsam's. */
async function embedding() {
  return { values: latest.data.slice(), shape: latest.dims };
}

const KINDS = { load, encode, decode, embedding };
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
