// The page: loads the model, takes a photo, and lets one ask for objects.

import { Answers } from "./answers.mjs";
import { BrowserEngine, ServedEngine } from "./engine.mjs";
import { findEverything } from "./everything.mjs";
import { Fault, hasSimd, sentence } from "./faults.mjs";
import { hovering } from "./hover.mjs";
import { listen } from "./input.mjs";
import { chipText, find, showExamples, showFacts, showMasks, showObjects } from "./panel.mjs";
import { openPhoto, pictureIn } from "./photo.mjs";
import { saveCoco, saveCutOut, saveMask, savePrompts } from "./save.mjs";
import { isAsked, Session } from "./state.mjs";
import { View } from "./view.mjs";

const view = new View(find("canvas"));
let manifest, engines = [], session = new Session(), answers = null, search = null, mode = "add", zoom = true;
let opened = 0, turn = 0, waiting = 0;
let ready = new Promise(() => {});

const say = (text) => { find("status").textContent = text; };

function complain(error) {
  find("fault").textContent = sentence(error);
  find("fault").hidden = false;
  find("progress").hidden = true;
  say("");
}

const STAGES = {
  download: ({ done, total }) => `Loading the model … ${(done / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`,
  create: () => "Preparing the model …",
  queue: ({ done }) => `Waiting for the server: ${done} before this photo …`,
  encode: () => "Looking at the photo …",
  crop: () => "Looking closer at what is around the box …",
};

function tell(progress) {
  const bar = find("progress");
  bar.hidden = false;
  if (progress.stage === "download") bar.value = progress.done / progress.total;
  else bar.removeAttribute("value");
  say(STAGES[progress.stage](progress));
}

const token = new URLSearchParams(location.search).get("token");

/** Ask the server that offers this page. */
async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers }).catch(() => { throw new Fault("gone"); });
  if (response.status === 401) throw new Fault("token");
  if (!response.ok) {
    const told = await response.json().catch(() => ({}));
    throw Object.assign(new Fault("server", told.error ?? `status ${response.status}`), { status: response.status });
  }
  return response;
}

async function begin() {
  try {
    manifest = await (await ask("manifest.json", { cache: "no-cache" })).json();
  } catch (error) {
    throw error instanceof Fault && error.kind === "token" ? error : new Fault("manifest");
  }
  const served = manifest.engine.kind === "server";
  if (!served && !hasSimd()) throw new Fault("simd");
  engines = manifest.models.map((model) => (served
    ? new ServedEngine(model, manifest.engine.most_bytes, ask) : new BrowserEngine(model, manifest.engine.name)));
  find("model").textContent = manifest.models.map(chipText).join("  |  ");
  find("model").hidden = false;
  if (served) {
    const here = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
    find("private").textContent = here ? "Nothing leaves this computer." : `Photos go to ${location.host} and no further.`;
    find("privacy").textContent = here ? "The model runs on this computer. Your photo stays here."
      : `The model runs on ${location.host}. Your photo is sent there and kept in its memory only.`;
  }
  find("zoom-part").hidden = !manifest.models.some((model) => model.zoom);
  showExamples(manifest.examples, example);
  facts();
  for (const engine of engines) await engine.start(tell);
  find("progress").hidden = true;
  document.documentElement.dataset.state = "ready";
  if (!view.photo) say("Ready for a photo.");
  facts();
}

const facts = () => showFacts(manifest.models, engines, manifest.saqsam);

async function example(path, title) {
  const response = await ask(path).catch(complain);
  if (response) take(await response.blob(), path.split("/").pop(), title);
}

/** Open a photo and encode it. */
async function take(blob, name) {
  const asked = ++opened;
  let mine = turn;
  find("fault").hidden = true;
  try {
    const photo = await openPhoto(blob, name);
    if (asked !== opened) return;
    mine = ++turn;
    document.documentElement.dataset.state = "encoding";
    find("welcome").hidden = true;
    find("work").hidden = find("side").hidden = false;
    document.body.classList.add("working");
    session = new Session();
    answers = null;
    view.show(photo);
    find("compare").hidden = manifest?.models.length !== 2;
    render();
    if (document.documentElement.dataset.state !== "ready") say("Waiting for the model …");
    await ready;
    for (const engine of engines) {
      await engine.encode(photo, tell);
      if (mine !== turn) return;
    }
    answers = new Answers(engines, photo, zoom);
    find("progress").hidden = true;
    compared();
    document.documentElement.dataset.state = "photo";
    facts();
    say("Click on something, or drag a box around it.");
    find("canvas").focus({ preventScroll: true });
    await refresh();
  } catch (error) {
    if (mine === turn && asked === opened) complain(error);
  }
}

/** Ask for what has no answer yet, then show everything. */
async function refresh() {
  render();
  if (!answers) return;
  const mine = answers;
  let told = false;
  const heard = (progress) => { if (mine === answers) { tell(progress); told = true; } };
  waiting++;
  try {
    for (const object of session.asked) await mine.ask(object, heard);
  } catch (error) {
    if (mine === answers) complain(error);
    return;
  } finally {
    waiting--;
    if (mine === answers && !waiting && !search) find("progress").hidden = true;
  }
  if (mine !== answers) return;
  render();
  // Another click may have come meanwhile; its own answer will tell.
  if (isAsked(session.object) && mine.known(session.object)) say(`${session.object.name}: ${mine.figures(session.object)}.`);
  else if (told) hint();
  facts();
}

function render() {
  const { object } = session;
  const found = answers && isAsked(object) ? answers.known(object) : undefined;
  view.ghost = null;
  view.layers = session.objects.map((one) => ({
    object: one, faint: one !== object,
    pictures: answers && isAsked(one) && answers.known(one) ? answers.pictures(one, view.size) : [],
  }));
  view.draw();
  showObjects(session, act);
  showMasks(found?.[0], found && answers.slot(object), object, act.choose);
  find("figures").textContent = found ? answers.figures(object) : "Nothing is marked for this object yet.";
  find("everything").disabled = !answers;
  find("undo").disabled = !session.past.length;
  find("redo").disabled = !session.future.length;
  find("clear").disabled = !isAsked(object);
  for (const id of ["save-mask", "save-cutout"]) find(id).disabled = !found;
  for (const id of ["save-coco", "save-prompts"]) find(id).disabled = !answers?.found(session).length;
}

/** Look for everything on the photo; while that goes on, stop it. */
async function everything() {
  if (search) { search.stopped = true; return; }
  if (!answers) return;
  const mine = (search = { stopped: false }), asked = answers, bar = find("progress");
  const ended = () => mine.stopped || asked !== answers;
  const button = find("everything").querySelector("span");
  button.textContent = "Stop";
  bar.hidden = false;
  const tell = (done, total) => { bar.value = done / total; say(`Finding everything … ${done} of ${total} clicks`); };
  try {
    const found = await findEverything(engines[0], view.photo, tell, ended);
    if (asked !== answers) return;
    if (found?.kept.length) session.found(found.kept);
    bar.hidden = true;
    await refresh();
    if (!found) say("Stopped; nothing was added.");
    else if (!found.kept.length) say("Nothing was found. Click on what you want.");
    else say(`${found.kept.length} objects with a predicted IoU above ${found.least.toFixed(2)}. Undo takes them away.`);
  } catch (error) {
    complain(error);
  } finally {
    search = null;
    button.textContent = "Everything";
  }
}

/** What to do for an object for which nothing was asked yet. */
const hint = () => {
  if (!isAsked(session.object)) say(`${session.object.name}: click on it, or drag a box around it.`);
};

const changed = (act) => (...given) => {
  if (!view.photo) return;
  find("fault").hidden = true;
  act(...given);
  refresh();
};

const act = {
  mode: () => mode,
  say,
  click: changed((x, y, label) => session.click(x, y, label)),
  drag: changed((box) => session.drag(box)),
  undo: changed(() => { if (session.undo()) hint(); else say("There is nothing to undo."); }),
  redo: changed(() => { if (session.redo()) hint(); else say("There is nothing to redo."); }),
  cancel: changed(() => { if (search) search.stopped = true; else { session.clear(); hint(); } }),
  everything,
  next: changed(() => { session.add(); hint(); }),
  pick: changed((index) => { session.current = index; hint(); }),
  rename: changed((index, name) => session.rename(index, name)),
  remove: changed((index) => { session.remove(index); hint(); }),
  choose: changed((slot) => { if (isAsked(session.object)) session.choose(slot); }),
  hover: hovering(view, () => ({ engines, session, answers, mode })),
};

/** Answer boxes on crops from now on, or on the whole photo; models that were not made for crops do so anyway. */
function look(closer) {
  zoom = closer;
  if (answers) answers.zoom = zoom;
  refresh();
}

function compared() {
  view.split = engines.length === 2 ? find("split").value / 1000 : null;
  if (engines.length === 2) {
    const [left, right] = manifest.models.map(({ name, bits }) => `${name} ${bits}`);
    find("left-name").textContent = left;
    find("right-name").textContent = right;
  }
  view.draw();
}

function setMode(name) {
  mode = name;
  for (const button of document.querySelectorAll("[data-mode]")) {
    const on = button.dataset.mode === name;
    button.setAttribute("aria-checked", String(on));
    button.tabIndex = on ? 0 : -1;
  }
  find("canvas").classList.toggle("move", name === "move");
}

/** A button or a box to tick; after a click by hand the keys mean the photo again, not the button. */
const press = (id, act) => find(id).addEventListener("click", (event) => {
  act(event.target);
  if (event.detail) find("canvas").focus({ preventScroll: true });
});

function wire() {
  listen(find("canvas"), view, act);
  const modes = [...document.querySelectorAll("[data-mode]")];
  modes.forEach((button, i) => {
    button.addEventListener("click", () => setMode(button.dataset.mode));
    button.addEventListener("keydown", ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (!step) return;
      const other = modes[(i + step + modes.length) % modes.length];
      setMode(other.dataset.mode);
      other.focus();
    });
  });
  setMode("add");
  for (const [id, does] of Object.entries({
    everything, undo: act.undo, redo: act.redo, clear: act.cancel, next: act.next,
    fit: () => view.fit(), larger: () => view.enlarge(1.25), smaller: () => view.enlarge(0.8),
    choose: () => find("file").click(), another: () => find("file").click(),
    zoom: (box) => look(box.checked),
    "save-mask": () => saveMask(view.photo, answers.mask(session.object), session.object),
    "save-cutout": () => saveCutOut(view.photo, answers.mask(session.object), session.object),
    "save-coco": () => saveCoco(view.photo, answers.found(session)),
    "save-prompts": () => savePrompts(manifest.models[0], view.photo, answers.found(session)),
  })) press(id, does);
  find("split").addEventListener("input", compared);
  find("file").addEventListener("change", ({ target }) => {
    if (target.files[0]) take(target.files[0], target.files[0].name);
    target.value = "";
  });
  const over = (on) => (event) => { event.preventDefault(); document.body.classList.toggle("dropping", on); };
  addEventListener("dragover", over(true));
  addEventListener("dragleave", over(false));
  addEventListener("drop", (event) => {
    over(false)(event);
    const file = pictureIn(event.dataTransfer);
    if (file) take(file, file.name);
  });
  addEventListener("paste", (event) => {
    const file = pictureIn(event.clipboardData);
    if (file) take(file, file.name || "pasted.png");
  });
}

/** What the page holds just now, for whoever looks into it, such as its tests. */
export const inside = () => ({ manifest, engines, session, answers, view });

wire();
ready = begin();
ready.catch(complain);
