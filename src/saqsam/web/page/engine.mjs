// Who computes: a worker in this browser, or the saqsam server that offers the page.
// Both have start(tell), encode(photo, tell) and decode(prompt, slots, {zoom, tell}), and say what they are in `about`.
// An answer holds the place it was found on, see crops.mjs; `frame` is the whole photo's.

import { placeFor, placeOn, shifted } from "./crops.mjs";
import { Fault } from "./faults.mjs";
import { toInput } from "./pixels.mjs";

/** Clicks and a box as the points SAM's prompt encoder takes: a box is two, clicks alone get one of padding,
 *  unless the model's graph itself ends every prompt with one. */
export function asPoints({ points, box }, frame, ended = false) {
  const coords = [], labels = [];
  for (const { x, y, label } of points) {
    coords.push(...toInput(frame, x, y));
    labels.push(label);
  }
  if (box) {
    coords.push(...toInput(frame, box[0], box[1]), ...toInput(frame, box[2], box[3]));
    labels.push(2, 3);
  } else if (!ended) {
    coords.push(0, 0);
    labels.push(-1);
  }
  return { coords, labels };
}

export class BrowserEngine {
  constructor(model, name) {
    this.model = model;
    const cores = navigator.hardwareConcurrency || 1;
    const threads = globalThis.crossOriginIsolated ? Math.min(cores, 8) : 1;
    const why = threads > 1 || cores === 1 ? ""
      : "one thread only: the server does not send the two headers that isolate the page (COOP and COEP)";
    this.about = { engine: `${name}, in this browser`, threads, why };
    this.frame = null;
    this.calls = new Map();
  }

  async start(tell) {
    this.worker = new Worker(new URL("./worker.mjs", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.#answer(data);
    this.worker.onerror = () => {
      for (const call of this.calls.values()) call.reject(new Fault("worker"));
    };
    const { seconds } = await this.#call("load", { model: this.model, threads: this.about.threads }, tell);
    this.about.load = seconds;
  }

  async encode(photo, tell) {
    tell({ stage: "encode", done: 0, total: 1 });
    this.photo = photo;
    const place = placeOn([0, 0, photo.width, photo.height], this.model, null, photo);
    this.frame = place.frame;
    this.about.encode = await this.#look(place, true);
  }

  async decode(prompt, slots, { zoom = true, tell = () => {} } = {}) {
    const { model, photo } = this;
    const place = placeFor(model, prompt, photo, zoom), part = String(place.window);
    // The whole photo is there already, and so are the crops of the latest boxes.
    if (!await this.#call("holds", { part })) {
      tell({ stage: "crop", done: 0, total: 1 });
      this.about.crop = await this.#look(place, false);
    }
    const asked = asPoints(shifted(prompt, place), place.frame, model.ends_prompts);
    const found = await this.#call("decode", { part, ...asked, slots });
    this.about.click = found.seconds;
    return { ...found, place };
  }

  /** Encode a place; the first of a photo makes the worker forget the others. Seconds. */
  async #look({ window, frame }, first) {
    const { width, height } = frame;
    const given = { part: String(window), first, pixels: this.photo.pixels(window), width, height };
    return (await this.#call("encode", given)).seconds;
  }

  /** Embedding of what was encoded last, tensors by name, to be compared with saqsam's. */
  embedding() { return this.#call("embedding", {}); }

  #call(kind, message, tell = () => {}) {
    return new Promise((resolve, reject) => {
      const id = (this.count = (this.count ?? 0) + 1);
      this.calls.set(id, { resolve, reject, tell });
      this.worker.postMessage({ id, kind, ...message });
    });
  }

  #answer({ id, progress, result, fault }) {
    const call = this.calls.get(id);
    if (!call) return;
    if (progress) return call.tell(progress);
    this.calls.delete(id);
    if (fault) call.reject(new Fault(fault.kind, fault.detail));
    else call.resolve(result);
  }
}

const POLL = 250;

export class ServedEngine {
  constructor(model, mostBytes, ask) {
    this.model = model;
    this.mostBytes = mostBytes;
    this.ask = ask;
    this.about = { engine: model.engine, threads: model.threads, why: "", load: 0 };
  }

  async start() {}

  async encode(photo, tell) {
    // A server that refuses a body before it has read it looks to browsers as if it were gone.
    if (photo.blob.size > this.mostBytes) throw new Fault("heavy", photo.name);
    this.photo = photo;
    this.whole = [0, 0, photo.width, photo.height];
    this.frame = placeOn(this.whole, this.model, null, photo).frame;
    const path = `api/images?model=${this.model.index}`;
    let state = await (await this.ask(path, { method: "POST", body: photo.blob })).json();
    const going = () => this.photo === photo && (state.state === "waiting" || state.state === "encoding");
    while (going()) {
      tell({ stage: state.state === "waiting" ? "queue" : "encode", done: state.ahead, total: state.ahead + 1 });
      await new Promise((resolve) => setTimeout(resolve, state.state === "waiting" ? POLL : POLL / 3));
      state = await (await this.ask(`api/images/${state.image}?model=${this.model.index}`)).json();
    }
    if (this.photo !== photo) return; // another one was opened meanwhile
    if (state.state !== "ready") throw new Fault("server", state.error ?? state.state);
    if (state.width !== photo.width || state.height !== photo.height) throw new Fault("photo", photo.name);
    this.image = state.image;
    this.seen = new Set([String(this.whole)]);
    this.about.encode = state.seconds;
  }

  async decode(prompt, slots, { zoom = true, tell = () => {} } = {}) {
    try {
      return await this.#decode(prompt, slots, zoom, tell);
    } catch (error) {
      if (error.status !== 404) throw error;
      // The server keeps a few photos only, and none when it is started again.
      await this.encode(this.photo, tell);
      return this.#decode(prompt, slots, zoom, tell);
    }
  }

  async #decode({ points, box }, slots, zoom, tell) {
    const began = performance.now(), { model, photo, whole } = this;
    const part = String(placeFor(model, { points, box }, photo, zoom).window);
    if (!this.seen.has(part)) tell({ stage: "crop", done: 0, total: 1 });
    const asked = {
      image: this.image, model: model.index, boxes: box ? [box] : undefined, masks: slots, format: "logits",
      zoom: model.zoom && box ? zoom : undefined,
      points: points.length ? [points.map(({ x, y }) => [x, y])] : undefined,
      labels: points.length ? [points.map(({ label }) => label)] : undefined,
    };
    const response = await this.ask("api/decode", { method: "POST", body: JSON.stringify(asked) });
    const logits = new Float32Array(await response.arrayBuffer());
    const scores = JSON.parse(response.headers.get("X-Saqsam-Iou-Scores"))[0];
    const objects = response.headers.get("X-Saqsam-Object-Scores");
    const windows = response.headers.get("X-Saqsam-Windows");
    const encoding = Number(response.headers.get("X-Saqsam-Encode-Seconds"));
    const each = logits.length / slots.length;
    this.seen.add(part);
    if (encoding) this.about.crop = encoding;
    this.about.click = (performance.now() - began) / 1000 - encoding;
    return {
      place: placeOn(windows ? JSON.parse(windows)[0] : whole, model, box, photo),
      masks: slots.map((_, i) => logits.slice(i * each, (i + 1) * each)), scores,
      object: objects ? JSON.parse(objects)[0] : null, seconds: this.about.click,
    };
  }
}
