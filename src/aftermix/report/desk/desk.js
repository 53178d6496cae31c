"use strict";
// The mixing desk of a report. What it knows stands in the page's block of data; it reads and sends nothing else.
//
// The first half computes what `aftermix predict` prints, with the same formulas: a Gaussian process over the measured
// merges gives each item's outputs, these the item's expected metric, and those the scores with their intervals. The
// second half shows it. A position is an array of numbers, one for each axis: a weight, a setting, or the number of a
// choice.

const SMALLEST_SUM = 1e-3; // of absolute weights, from which on its logarithm counts
const INTEGERS = { 1: Int8Array, 2: Int16Array, 4: Int32Array }; // by their bytes
const SPOKEN_AFTER = 500; // milliseconds of rest, so that a moving slider is not commented on

// ---- Data ----

function openDesk(data) {
  const points = data.numbers.map((numbers, place) => ({ numbers, choices: data.choices[place] }));
  const processes = data.processes.map((process) => openProcess(process, points));
  const tasks = data.tasks.map((task) => openTask(task, points.length));
  return { data, points, processes, tasks };
}

function openProcess({ variances, lengths }, points) {
  const [constant, linear, quadratic, radial, noise, unlike] = variances;
  const process = { constant, linear, quadratic, radial, noise, unlike, lengths, points };
  process.lower = factorise(process);
  return process;
}

function openTask(task, merges) {
  const { outputs, items } = task;
  const counts = Array.isArray(task.columns) ? task.columns : new Array(items).fill(task.columns);
  const columns = counts.reduce((sum, count) => sum + count, 0);
  return {
    ...task,
    counts,
    columns,
    mixing: new Float32Array(decodeBytes(outputs.mixing).buffer, 0, merges * outputs.directions),
    basis: decodeBasis(outputs, columns),
    shares: task.shares === null ? new Float64Array(items).fill(1 / items) : new Float64Array(decodeBytes(task.shares).buffer),
  };
}

function decodeBytes(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < bytes.length; place++) bytes[place] = letters.charCodeAt(place);
  return bytes;
}

// Directions one after the other, each in integers of its own width; they are little-endian, as browsers are.
function decodeBasis({ basis, widths, directions, step }, columns) {
  const bytes = decodeBytes(basis);
  const decoded = new Float32Array(directions * columns);
  let begin = 0;
  widths.forEach((width, direction) => {
    const end = begin + width * columns;
    const part = bytes.slice(begin, end).buffer;
    const integers = new INTEGERS[width](part);
    for (let column = 0; column < columns; column++) decoded[direction * columns + column] = integers[column] * step;
    begin = end;
  });
  return decoded;
}

// ---- The process over merges ----

function computeKernel(process, ours, theirs) {
  let product = 0;
  let square = 0;
  process.lengths.forEach((length, place) => {
    const [left, right] = [ours.numbers[place] / length, theirs.numbers[place] / length];
    product += left * right;
    square += (left - right) ** 2;
  });
  const bent = process.linear * product + process.quadratic * product ** 2 + process.radial * Math.exp(-0.5 * square);
  const differ = ours.choices.filter((choice, place) => choice !== theirs.choices[place]).length;
  return process.constant + bent * Math.exp(-process.unlike * differ);
}

// Cholesky factor of the covariance of the measurements.
function factorise(process) {
  const { points, noise } = process;
  return points.reduce((lower, point, row) => {
    const line = new Float64Array(row + 1);
    for (let column = 0; column <= row; column++) {
      let left = computeKernel(process, point, points[column]) + (row === column ? noise : 0);
      const other = row === column ? line : lower[column];
      for (let place = 0; place < column; place++) left -= line[place] * other[place];
      line[column] = row === column ? Math.sqrt(left) : left / other[column];
    }
    return [...lower, line];
  }, []);
}

// The row `k(c)' L^-T`, by which whitened outputs are multiplied.
function computeRow(process, candidate) {
  const row = new Float64Array(process.points.length);
  process.points.forEach((point, place) => {
    let left = computeKernel(process, point, candidate);
    const line = process.lower[place];
    for (let before = 0; before < place; before++) left -= line[before] * row[before];
    row[place] = left / line[place];
  });
  return row;
}

function computeDeviation(process, candidate, row) {
  const known = row.reduce((sum, value) => sum + value * value, 0);
  return Math.sqrt(Math.max(computeKernel(process, candidate, candidate) - known, 0));
}

// Coordinates in which items answer smoothly: where the method divides by the sum of the weights, shares and logarithm.
function locatePosition({ data }, position) {
  const take = (kind) => position.filter((_, axis) => data.sliders[axis].kind === kind);
  let weights = take("weight");
  if (data.normalised) {
    const sum = Math.max(weights.reduce((total, weight) => total + Math.abs(weight), 0), SMALLEST_SUM);
    weights = [...weights.map((weight) => weight / sum), Math.log(sum)];
  }
  return { numbers: [...weights, ...take("number")], choices: take("choice") };
}

// ---- Scores ----

function predictOutputs({ outputs, columns, mixing, basis }, row) {
  const sums = new Float64Array(columns);
  for (let direction = 0; direction < outputs.directions; direction++) {
    let size = 0;
    for (let merge = 0; merge < row.length; merge++) size += row[merge] * mixing[merge * outputs.directions + direction];
    addMultiple(sums, basis, direction * columns, size);
  }
  return sums;
}

// The one loop that takes time: each direction's part of every output.
function addMultiple(sums, basis, begin, size) {
  for (let column = 0; column < sums.length; column++) sums[column] += size * basis[begin + column];
}

// Expected metric of each item: how surely its right answer is ahead of the best other one.
function predictItems(task, row) {
  const outputs = predictOutputs(task, row);
  if (!task.is_soft) return outputs;
  const items = new Float64Array(task.items);
  let column = 0;
  for (let item = 0; item < task.items; item++) {
    let gap = Infinity;
    for (const end = column + task.counts[item]; column < end; column++) gap = Math.min(gap, outputs[column]);
    items[item] = task.intercept + task.slope / (1 + Math.exp(-gap));
  }
  return items;
}

// The task's score, and its variance over other documents of the same kind.
function predictTask(task, row) {
  const items = predictItems(task, row);
  let mean = 0;
  for (let item = 0; item < task.items; item++) mean += task.shares[item] * items[item];

  const sums = new Float64Array(task.items);
  for (let item = 0; item < task.items; item++) {
    sums[task.documents === null ? item : task.documents[item]] += task.shares[item] * (items[item] - mean);
  }
  return { mean, variance: sums.reduce((total, sum) => total + sum * sum, 0) };
}

function predictScores(desk, position) {
  const { data } = desk;
  const candidate = locatePosition(desk, position);
  const rows = desk.processes.map((process) => computeRow(process, candidate));
  const deviation = computeDeviation(desk.processes[0], candidate, rows[0]);
  const tasks = desk.tasks.map((task) => predictTask(task, rows[task.process]));

  const scores = data.scores.map((score) => {
    let mean = 0;
    let variance = score.scatter ** 2;
    score.weights.forEach(([task, weight]) => {
      mean += weight * tasks[task].mean;
      variance += weight ** 2 * tasks[task].variance;
    });
    const half = Math.sqrt((score.half_width * deviation) ** 2 + data.quantile ** 2 * variance);
    return { mean, low: mean - half, high: mean + half };
  });
  return { scores, deviation };
}

// Reasons not to rely on a prediction; none where it is within the ranges and near the measured merges.
function listDoubts({ data }, position, deviation) {
  const doubts = [];
  data.sliders.forEach((slider, axis) => {
    if (slider.kind === "choice" || (position[axis] >= slider.low && position[axis] <= slider.high)) return;
    doubts.push(`${slider.name} ${formatShort(position[axis])} is outside its range (${formatShort(slider.low)} to ${formatShort(slider.high)})`);
  });
  const sum = data.shares.reduce((total, axis) => total + position[axis], 0);
  if (sum > 1 + 1e-9) doubts.push(`the ratios sum to ${formatShort(sum)}, above 1`);
  if (deviation > data.limit) {
    const times = (deviation / data.median).toFixed(1);
    doubts.push(`no measured merge is near: the deviation is ${times} times the median at the measured ones, above ${data.limit / data.median}`);
  }
  return doubts;
}

// ---- Text ----

function formatScore(data, score) {
  const text = (score * data.factor).toFixed(data.decimals);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "\u2212");
}

function formatInterval(data, { low, high }) {
  const [first, last] = [formatScore(data, low), formatScore(data, high)];
  return (first + last).includes("\u2212") ? `${first} to ${last}` : `${first}\u2013${last}`;
}

function formatShort(number) {
  return number.toFixed(2).replace("-", "\u2212");
}

// A number as YAML and a command line read it: all its digits, and no exponent.
function formatExact(number) {
  const text = String(number);
  return text.includes("e") ? number.toFixed(12).replace(/\.?0+$/, "") : text;
}

function writePosition(data, pieces, position) {
  return pieces.map(({ text, axis }) => (axis === null ? text : text + formatAxis(data.sliders[axis], position[axis]))).join("");
}

function formatAxis(slider, value) {
  return slider.kind === "choice" ? slider.texts[value] : formatExact(value);
}

// ---- The page ----

function showDesk(desk) {
  const { data } = desk;
  const find = (name) => document.getElementById(`desk-${name}`);
  const controls = data.sliders.map((_, axis) => find(`axis-${axis}`));
  const strips = data.scores.map((score, place) => drawStrip(find(`strip-${place}`), data, score, place));
  const buttons = [...document.querySelectorAll("#desk [data-preset]")];
  let position = [...data.start];
  let timer = 0;

  function showPosition() {
    const { scores, deviation } = predictScores(desk, position);
    const doubts = listDoubts(desk, position, deviation);
    scores.forEach((score, place) => {
      find(`mean-${place}`).textContent = formatScore(data, score.mean);
      find(`interval-${place}`).textContent = formatInterval(data, score);
      strips[place](score);
    });

    find("scores").classList.toggle("unsure", doubts.length > 0);
    find("state").textContent = doubts.length ? `Not to be relied on: ${doubts.join("; ")}.` : "Within the ranges, and near measured merges.";
    if (find("recipe")) find("recipe").textContent = writePosition(data, data.recipe, position);
    if (find("command")) find("command").textContent = writePosition(data, data.command, position);
    buttons.forEach((button, place) => {
      button.setAttribute("aria-pressed", String(data.presets[place].every((value, axis) => value === position[axis])));
    });

    clearTimeout(timer);
    timer = setTimeout(() => speak(scores, doubts), SPOKEN_AFTER);
  }

  function speak(scores, doubts) {
    const texts = scores.map((score, place) => `${data.scores[place].name} ${formatScore(data, score.mean)}`);
    find("spoken").textContent = `Predicted: ${texts.join(", ")}.${doubts.length ? ` Not to be relied on: ${doubts.join("; ")}.` : ""}`;
  }

  function showControls() {
    controls.forEach((control, axis) => {
      control.value = position[axis];
      showValue(axis);
    });
  }

  function showValue(axis) {
    if (data.sliders[axis].kind === "choice") return;
    find(`value-${axis}`).textContent = formatShort(position[axis]);
    controls[axis].setAttribute("aria-valuetext", formatShort(position[axis]));
  }

  controls.forEach((control, axis) => {
    control.addEventListener("input", () => {
      position[axis] = readControl(data.sliders[axis], Number(control.value));
      showValue(axis);
      showPosition();
    });
  });
  buttons.forEach((button, place) => {
    button.addEventListener("click", () => {
      position = [...data.presets[place]];
      showControls();
      showPosition();
    });
  });
  document.querySelectorAll("#desk [data-copy]").forEach((button) => {
    button.addEventListener("click", () => copyText(button, document.getElementById(button.dataset.copy)));
  });

  showControls();
  showPosition();
  find("panel").hidden = false;
}

// A slider stands at any number; what is taken is a hundredth, or the nearest step of a setting that has steps.
function readControl(slider, value) {
  if (slider.kind === "choice") return value;
  const [start, step] = slider.step === null ? [0, 0.01] : [slider.low, slider.step];
  return Number((start + Math.round((value - start) / step) * step).toFixed(9));
}

// Draw the axis of a score with its marks, and return the function that moves the prediction on it.
function drawStrip(strip, data, score, place) {
  const locate = (value) => (100 * (value - score.low)) / (score.high - score.low);
  const known = data.merges.filter((merge) => merge.values[place] !== null);
  const drawTicks = (kind) => known.filter((merge) => merge.kind === kind).map((merge) => `M${locate(merge.values[place]).toFixed(2)} 3v14`).join("");
  const svg = addElement(strip, "svg", "", "http://www.w3.org/2000/svg");
  svg.setAttribute("viewBox", "0 0 100 20");
  svg.setAttribute("preserveAspectRatio", "none");
  for (const [kind, line] of [["axis", "M0 10h100"], ["trial", drawTicks("trial")], ["winner-trial", drawTicks("winner trial")]]) {
    addElement(svg, "path", kind, svg.namespaceURI).setAttribute("d", line);
  }

  for (const merge of known.filter((each) => each.kind === "baseline" || each.kind === "winner")) {
    const mark = addElement(strip, "i", `mark ${merge.kind}`);
    mark.style.left = `${locate(merge.values[place])}%`;
    mark.title = `${merge.name}: ${formatScore(data, merge.values[place])} on test items`;
  }
  const [bar, dot] = [addElement(strip, "i", "bar"), addElement(strip, "i", "mark predicted")];
  for (const end of [score.low, score.high]) addElement(strip, "small", "").textContent = formatScore(data, end);

  return ({ mean, low, high }) => {
    const [left, middle, right] = [low, mean, high].map((value) => Math.min(Math.max(locate(value), 0), 100));
    dot.style.left = `${middle}%`;
    bar.style.left = `${left}%`;
    bar.style.width = `${right - left}%`;
  };
}

function addElement(parent, name, kind, space = "http://www.w3.org/1999/xhtml") {
  const element = document.createElementNS(space, name);
  element.setAttribute("class", kind);
  return parent.appendChild(element);
}

// Without leave to write to the clipboard the text is selected, so that one key copies it.
async function copyText(button, box) {
  const words = button.textContent;
  try {
    await navigator.clipboard.writeText(box.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(box);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = words; }, 1500);
}

if (typeof document !== "undefined") showDesk(openDesk(JSON.parse(document.getElementById("desk-data").textContent)));
