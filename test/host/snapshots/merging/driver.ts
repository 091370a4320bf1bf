// A daemon's part that only merges, for tests that kill it: driver.ts FOLDER STEP. Says each step, `piece` with its number; at STEP it
// stops for ever; what is to stop at a piece copies on, and comes to no other step. Says `idle` where nobody stops it.
import { World } from "./world.ts";

const [folder = "", stopAt = ""] = process.argv.slice(2);
let pieces = 0, stopped = false;
const world = new World(folder, (step) => {
  const said = step === "piece" ? `piece ${++pieces}` : step;
  console.log(said);
  if (stopped ||= said === stopAt) return new Promise<void>(() => {});
});
world.generations.recover();
world.merger.look();
await world.merger.idle();
console.log("idle");
await world.close();
