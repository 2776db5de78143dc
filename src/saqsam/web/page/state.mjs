// The objects one has asked for, and how to go back.

export const COLOURS = ["#ff9f1c", "#2ec4b6", "#e71d74", "#5c7cfa", "#8ac926", "#b197fc", "#ff6b6b", "#ffd43b"];
export const SINGLE = 0;
/** Slot of the single answer; 1 to 3 are those to an ambiguous prompt. */
export const SLOTS = [0, 1, 2, 3];

const rounded = (value) => Math.round(value * 100) / 100;

let count = 0;
const fresh = (number) => ({
  key: ++count, name: `Object ${number}`, colour: COLOURS[(number - 1) % COLOURS.length],
  points: [], box: null, chosen: null,
});

export class Session {
  constructor() {
    this.objects = [fresh(1)];
    this.current = 0;
    this.past = [];
    this.future = [];
    this.number = 1;
  }

  get object() { return this.objects[this.current]; }

  get asked() { return this.objects.filter(isAsked); }

  /** Change something that can be undone. */
  change(act) {
    this.past.push(this.#copy());
    this.future = [];
    act(this);
  }

  undo() { return this.#step(this.past, this.future); }

  redo() { return this.#step(this.future, this.past); }

  /** Coordinates keep two decimals, so that what is saved is what was asked. */
  click(x, y, label) {
    this.change(() => {
      this.object.points.push({ x: rounded(x), y: rounded(y), label });
      this.object.chosen = null;
    });
  }

  drag(box) { this.change(() => Object.assign(this.object, { box: box.map(rounded), chosen: null })); }

  clear() { if (isAsked(this.object)) this.change(() => Object.assign(this.object, { points: [], box: null, chosen: null })); }

  choose(slot) { this.change(() => { this.object.chosen = slot; }); }

  rename(index, name) { this.change(() => { this.objects[index].name = name; }); }

  /** Begin the next object; the current one, if nothing was asked for it yet, is the next one. */
  add() {
    const empty = this.objects.findIndex((object) => !isAsked(object));
    if (empty >= 0) { this.current = empty; return; }
    this.change(() => {
      this.objects.push(fresh(++this.number));
      this.current = this.objects.length - 1;
    });
  }

  /** An object for each click {x, y, slot}, beside those that were asked for; one step to undo. */
  found(clicks) {
    this.change(() => {
      this.objects = this.asked;
      this.current = this.objects.length;
      for (const { x, y, slot } of clicks) {
        this.objects.push({ ...fresh(++this.number), points: [{ x: rounded(x), y: rounded(y), label: 1 }], chosen: slot });
      }
    });
  }

  remove(index) {
    this.change(() => {
      this.objects.splice(index, 1);
      if (!this.objects.length) this.objects.push(fresh(++this.number));
      this.current = Math.min(this.current, this.objects.length - 1);
    });
  }

  #step(from, to) {
    if (!from.length) return false;
    to.push(this.#copy());
    Object.assign(this, from.pop());
    return true;
  }

  #copy() {
    return { objects: structuredClone(this.objects), current: this.current, number: this.number };
  }
}

export const isAsked = (object) => object.points.length > 0 || object.box !== null;

/** Which mask is shown: the one that was chosen; else the best of three for one click, the single one for more. */
export function shownSlot(object, scores) {
  if (object.chosen !== null) return object.chosen;
  if (object.box || object.points.length > 1) return SINGLE;
  return [1, 2, 3].reduce((best, slot) => (scores[slot] > scores[best] ? slot : best), 1);
}

/** What tells two questions apart, whatever the object is called; boxes may be answered on crops or not. */
export const question = ({ points, box }, zoom) => JSON.stringify([points, box, box && zoom]);
