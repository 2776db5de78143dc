// What stands beside the photo: objects, the masks to choose from, figures, facts.

import { SLOTS } from "./state.mjs";
import { placed } from "./masks.mjs";
import { tinted } from "./view.mjs";

export const find = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Fill a list and leave the focus where it was. */
function refill(place, children) {
  const held = place.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  place.replaceChildren(...children);
  if (held) place.querySelector(`[data-focus="${CSS.escape(held)}"]`)?.focus();
}

/** One row for each object. Rows stay while their objects do, so that a name can be typed while answers come in. */
export function showObjects(session, act) {
  const list = find("objects"), held = list.contains(document.activeElement);
  const there = new Map([...list.children].map((row) => [row.dataset.key, row]));
  const rows = session.objects.map(({ key }) => there.get(String(key)) ?? objectRow(session, key, act));
  for (const row of there.values()) if (!rows.includes(row)) row.remove();
  rows.forEach((row, index) => {
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
    tellRow(row, session.objects[index], index === session.current);
  });
  if (held && !list.contains(document.activeElement)) rows[session.current].querySelector(".dot").focus();
}

function objectRow(session, key, act) {
  const at = () => session.objects.findIndex((object) => object.key === key);
  const rename = ({ target }) => {
    const before = session.objects[at()].name;
    target.value = target.value.trim() || before;
    if (target.value !== before) act.rename(at(), target.value);
  };
  return element("li", { "data-key": key },
    element("button", { type: "button", onclick: () => act.pick(at()) }),
    element("input", {
      "aria-label": "Name of the object", maxlength: 80,
      onchange: rename,
      onfocus: () => { if (at() !== session.current) act.pick(at()); },
      onkeydown: (event) => {
        if (event.key !== "Enter") return;
        event.preventDefault();
        event.target.previousSibling.focus();
      },
    }),
    element("button", { type: "button", class: "remove", title: "Remove", onclick: () => act.remove(at()) }, "✕"));
}

function tellRow(row, { name, colour }, current) {
  const [dot, input, remove] = row.children;
  dot.className = current ? "dot current" : "dot";
  dot.setAttribute("aria-pressed", String(current));
  dot.title = `Work on ${name}`;
  dot.setAttribute("aria-label", dot.title);
  dot.style.setProperty("--dot", colour);
  if (input !== document.activeElement) input.value = name;
  remove.setAttribute("aria-label", `Remove ${name}`);
}

const THUMB = [96, 72];

/** The single answer and the three, each as a small picture with its predicted IoU. */
export function showMasks(found, chosen, object, choose) {
  refill(find("masks"), SLOTS.map((slot) => {
    const picture = element("canvas", { width: THUMB[0], height: THUMB[1], "aria-hidden": "true" });
    const label = slot ? `${slot}` : "Single";
    const score = found ? found.scores[slot].toFixed(2) : "–";
    if (found) {
      const { width, height } = found.place;
      const scale = Math.min(THUMB[0] / width, THUMB[1] / height);
      const size = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
      const mask = tinted(placed(found.masks[slot], found.place, ...size), ...size, object.colour, 1);
      picture.getContext("2d").drawImage(mask, (THUMB[0] - size[0]) / 2, (THUMB[1] - size[1]) / 2);
    }
    return element("button", {
      type: "button", role: "radio", "aria-checked": String(Boolean(found) && slot === chosen), disabled: !found,
      "aria-label": slot ? `Mask ${slot} of three, predicted IoU ${score}` : `Single answer, predicted IoU ${score}`,
      title: slot ? `One of three answers (${slot})` : "The single answer (0)",
      "data-slot": slot, "data-focus": `slot-${slot}`, onclick: () => choose(slot),
    }, picture, element("span", {}, label), element("small", {}, score));
  }));
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 1)} MB`;
const seconds = (value) => (value === undefined ? "not yet" : value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`);

export const sizeOf = (model) => model.packed_bytes ?? model.float_bytes;

/** One line about a model. */
export function chipText(model) {
  return `${model.name} · ${model.bits === "float" ? "float" : model.bits.toUpperCase()} · ${megabytes(sizeOf(model))}`;
}

export function showFacts(models, engines, saqsam) {
  const open = models.map((model, i) => {
    const about = engines[i].about;
    const rows = [["Model", model.name], ["Recipe", model.recipe ?? "none: float"], ["Bits", model.bits]];
    const packed = model.packed_bytes;
    rows.push(["Size", packed
      ? `${megabytes(packed)} packed; float ${megabytes(model.float_bytes)}, ${(model.float_bytes / packed).toFixed(1)} times as much`
      : `${megabytes(model.float_bytes)} float`]);
    const files = Object.values(model.files ?? {});
    if (files.length) rows.push(["Loaded here", megabytes(files.reduce((sum, file) => sum + file.bytes, 0))]);
    rows.push(["Computed by", about.engine], ["Threads", about.why ? `${about.threads} (${about.why})` : `${about.threads}`]);
    if (about.load) rows.push(["Load", seconds(about.load)]);
    rows.push(["Encode a photo", seconds(about.encode)], ["Answer a click", seconds(about.click)]);
    if (model.zoom) {
      rows.push(["Encode a crop", seconds(about.crop)], ["Boxes", "each is answered on a square crop around it, "
        + "which is encoded on its own, unless that is switched off; clicks alone are answered on the whole photo"]);
    }
    if (model.parity) {
      const { decoder_mask_iou: same, mask_iou: whole, repeatability, prompts } = model.parity;
      rows.push(["Same as the model?", `mask IoU ${same.toFixed(4)} given one embedding, ${whole.toFixed(4)} from pixels `
        + `(the model with itself under rounding errors: ${repeatability.toFixed(4)}); ${prompts} prompts, `
        + "measured on these very files"]);
    } else if (files.length) rows.push(["Same as the model?", "not verified when it was exported"]);
    for (const file of files) rows.push([`SHA-256 of ${file.path.split("/").pop()}`, element("code", {}, file.sha256)]);
    if (model.sha256) rows.push(["SHA-256 of the file", element("code", {}, model.sha256)]);
    rows.push(["Made by", `saqsam ${saqsam}`]);
    if (/^nano(-sam2)?(-outliers)?$/.test(model.model)) {
      rows.push(["Good for", "generated scenes, which it was trained on; it is too small for photographs"]);
    }
    return element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  });
  find("facts").replaceChildren(...open);
}

export function showExamples(list, act) {
  find("examples-part").hidden = !list.length;
  find("examples").replaceChildren(...list.map(({ path, title }) => element("li", {},
    element("button", { type: "button", onclick: () => act(path, title) },
      element("img", { src: path, alt: "", loading: "lazy" }), element("span", {}, title)))));
}
