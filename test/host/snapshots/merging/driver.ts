// A daemon's part that only merges, for tests that kill it: driver.ts FOLDER STEP. Says each step, `piece` with its number; at STEP it
// stops for ever. Says `idle` where nobody stops it.
import { World } from "./world.ts";

const [folder = "", stopAt = ""] = process.argv.slice(2);
let pieces = 0;
const world = new World(folder, (step) => {
  const said = step === "piece" ? `piece ${++pieces}` : step;
  console.log(said);
  if (said === stopAt && step !== "piece") return new Promise<void>(() => {});
});
world.generations.recover();
world.merger.look();
await world.merger.idle();
console.log("idle");
await world.close();
