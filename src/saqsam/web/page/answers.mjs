// Answers of every model to what is asked of one photo, each computed once.

import { area, difference, placed } from "./masks.mjs";
import { question, shownSlot, SLOTS } from "./state.mjs";
import { tinted } from "./view.mjs";

export class Answers {
  /** @param zoom whether models that were made for it answer boxes on crops; may be changed. */
  constructor(engines, photo, zoom) {
    this.engines = engines;
    this.photo = photo;
    this.zoom = zoom;
    this.kept = new Map();
    this.busy = Promise.resolve();
  }

  /** What is known already; undefined where it has not been computed. */
  known(object) { return this.kept.get(question(object, this.zoom)); }

  /** Ask all models, one question after the other; `tell` hears when that takes longer than an answer does. */
  ask(object, tell) {
    const { zoom } = this, asked = question(object, zoom);
    if (this.kept.has(asked)) return Promise.resolve(this.kept.get(asked));
    const { points, box } = object;
    const turn = this.busy.then(async () => {
      if (this.kept.has(asked)) return this.kept.get(asked);
      const found = [];
      for (const engine of this.engines) found.push(await engine.decode({ points, box }, SLOTS, { zoom, tell }));
      this.kept.set(asked, found);
      return found;
    });
    this.busy = turn.catch(() => {});
    return turn;
  }

  slot(object) { return shownSlot(object, this.known(object)[0].scores); }

  /** The shown mask of a model at the photo's own size. */
  mask(object, index = 0) {
    const found = this.known(object)[index], slot = this.slot(object);
    found.full ??= {};
    found.full[slot] ??= placed(found.masks[slot], found.place);
    return found.full[slot];
  }

  /** For the screen: one picture of the shown mask for each model. */
  pictures(object, [width, height], strength = 1) {
    const slot = this.slot(object);
    return this.known(object).map((found) => {
      const key = `${slot}${object.colour}${strength}`;
      found.pictures ??= {};
      found.pictures[key] ??= tinted(
        placed(found.masks[slot], found.place, width, height), width, height, object.colour, strength);
      return found.pictures[key];
    });
  }

  score(object, index = 0) { return this.known(object)[index].scores[this.slot(object)]; }

  /** How likely there is an object, 0 to 1, of models that say it; else null. */
  objectScore(object, index = 0) { return this.known(object)[index].object; }

  /** Area, predicted IoU, object score where there is one and, of two models, in how much they differ, in words. */
  figures(object) {
    const [found] = this.known(object), slot = this.slot(object);
    found.figures ??= {};
    found.figures[slot] ??= this.#figures(object);
    return found.figures[slot];
  }

  #figures(object) {
    const mask = this.mask(object), pixels = area(mask);
    const share = (100 * pixels / mask.length).toFixed(1);
    const sure = this.objectScore(object);
    const text = `${pixels.toLocaleString("en")} ${pixels === 1 ? "pixel" : "pixels"} (${share} %), predicted IoU ${this.score(object).toFixed(2)}`
      + (sure === null ? "" : `, object score ${sure.toFixed(2)}`);
    if (this.engines.length < 2) return text;
    const { differ, iou } = difference(mask, this.mask(object, 1));
    return `${text}. The two models differ in ${differ.toLocaleString("en")} pixels, IoU ${iou.toFixed(3)}`;
  }

  /** Everything that can be saved, for each object with an answer. */
  found(session) {
    return session.asked.filter((object) => this.known(object)).map((object) => ({
      object, mask: this.mask(object), slot: this.slot(object), score: this.score(object),
      objectScore: this.objectScore(object), zoom: this.zoom,
    }));
  }
}
