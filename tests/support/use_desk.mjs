// Runs the whole script of a mixing desk on the elements that its page has, and uses it as a person does.
// Usage: node use_desk.mjs desk.html < actions.json; an action moves an axis, presses a preset, or copies a box.
import { readFileSync } from "node:fs";

const page = readFileSync(process.argv[2], "utf8");
const actions = JSON.parse(readFileSync(0, "utf8"));
const find = (pattern) => [...page.matchAll(pattern)].map((match) => match.slice(1));

class PageElement {
  constructor(id, text = "") {
    Object.assign(this, { id, textContent: text, hidden: false, style: {}, dataset: {}, attributes: {}, children: [], listeners: {}, classes: new Set() });
    this.classList = { toggle: (name, isOn) => (isOn ? this.classes.add(name) : this.classes.delete(name)) };
  }
  setAttribute(name, value) { this.attributes[name] = value; }
  appendChild(child) { this.children.push(child); return child; }
  addEventListener(kind, listener) { this.listeners[kind] = listener; }
}

const elements = Object.fromEntries(find(/ id="([^"]+)"/g).map(([id]) => [id, new PageElement(id)]));
elements["desk-data"].textContent = page.match(/id="desk-data">(.*?)<\/script>/s)[1];
for (const [id] of find(/<[^>]* id="([^"]+)"[^>]* hidden>/g)) elements[id].hidden = true;
const presets = find(/data-preset="\d+">([^<]+)</g).map(([name]) => new PageElement("", name));
const copies = find(/data-copy="([^"]+)">([^<]+)</g).map(([box, name]) => Object.assign(new PageElement("", name), { dataset: { copy: box } }));

let [copied, selected, mayWrite] = ["", "", true];
const globals = {
  document: {
    getElementById: (id) => elements[id] ?? null,
    querySelectorAll: (name) => (name.includes("preset") ? presets : copies),
    createElementNS: (space) => Object.assign(new PageElement(""), { namespaceURI: space }),
  },
  navigator: { clipboard: { writeText: async (text) => { if (!mayWrite) throw new Error("no leave"); copied = text; } } },
  getSelection: () => ({ selectAllChildren: (box) => { selected = box.textContent; } }),
  setTimeout: (work, wait) => (wait === 500 ? work() : 0), // what is spoken is spoken at once, a button keeps its word
  clearTimeout: () => {},
};

function read() {
  const take = (name) => elements[`desk-${name}`]?.textContent ?? null;
  const all = (name) => Object.keys(elements).filter((id) => id.startsWith(`desk-${name}-`)).map((id) => elements[id].textContent);
  return {
    means: all("mean"), intervals: all("interval"), values: all("value"), state: take("state"), spoken: take("spoken"),
    isUnsure: elements["desk-scores"].classes.has("unsure"), isHidden: elements["desk-panel"].hidden,
    recipe: take("recipe"), command: take("command"), copied, selected,
    pressed: presets.filter((button) => button.attributes["aria-pressed"] === "true").map((button) => button.textContent),
    words: copies.map((button) => button.textContent),
    controls: Object.keys(elements).filter((id) => id.startsWith("desk-axis-")).map((id) => Number(elements[id].value)),
  };
}

const before = read();
new Function(...Object.keys(globals), page.match(/<script>(.*?)<\/script>/s)[1])(...Object.values(globals));
const seen = [before, read()];
for (const action of actions) {
  if ("axis" in action) {
    const control = elements[`desk-axis-${action.axis}`];
    control.value = String(action.value);
    control.listeners.input();
  } else if ("preset" in action) {
    presets[action.preset].listeners.click();
  } else {
    mayWrite = action.mayWrite;
    await copies[action.copy].listeners.click();
    await new Promise((resolve) => setImmediate(resolve));
  }
  seen.push(read());
}
console.log(JSON.stringify(seen));
