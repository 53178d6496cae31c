// Runs the mixing desk's own script, as it stands in a report, at positions from standard input; prints what it predicts.
// Usage: node run_desk.mjs report.html < positions.json
import { readFileSync } from "node:fs";

const page = readFileSync(process.argv[2], "utf8");
const data = JSON.parse(page.match(/<script type="application\/json" id="desk-data">(.*?)<\/script>/s)[1]);
const script = page.match(/<script>(.*?)<\/script>/s)[1];
const desk = new Function(`${script}; return { openDesk, predictScores, listDoubts, writePosition };`)();

const opened = desk.openDesk(data);
const positions = JSON.parse(readFileSync(0, "utf8"));
const begin = performance.now();
const predicted = positions.map((position) => desk.predictScores(opened, position));
const milliseconds = (performance.now() - begin) / positions.length;

console.log(
  JSON.stringify({
    milliseconds,
    names: data.scores.map((score) => score.name),
    positions: positions.map((position, place) => ({
      ...predicted[place],
      doubts: desk.listDoubts(opened, position, predicted[place].deviation),
      recipe: desk.writePosition(data, data.recipe, position),
      command: desk.writePosition(data, data.command, position),
    })),
  }),
);
