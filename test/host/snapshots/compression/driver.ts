// A daemon's part that only compresses, for tests that kill it: driver.ts FOLDER ALGORITHM LEVEL compress|decompress STEP
// Says each step, `chunk` with its number; at STEP it stops for ever; what is to stop at a chunk works on, and comes to no other step. Says `idle` and ends where nobody stops it.
import { Compressor } from "../../../../src/host/snapshots/compression/compressor.ts";
import { sqliteRecords } from "../../../../src/host/snapshots/compression/records.ts";
import type { Algorithm } from "../../../../src/host/snapshots/compression/codec.ts";
import { openTables } from "./harness.ts";
import { trashIn } from "../../../support/trash.ts";

const [folder = "", algorithm = "", level = "", work = "", stopAt = ""] = process.argv.slice(2);
const store = openTables(`${folder}/db`);
let chunks = 0, stopped = false;
const compressor = new Compressor({
  records: sqliteRecords(store.db), trash: trashIn(folder),
  onStep(of, step) {
    if (of !== work) return;
    const said = step === "chunk" ? `chunk ${++chunks}` : step;
    console.log(said);
    if (stopped ||= said === stopAt) return new Promise(() => {});
  },
});
const dir = `${folder}/g`;
if (work === "compress") compressor.schedule("g", dir, { enabled: true, algorithm: algorithm as Algorithm, level: Number(level) }, 0);
else console.log((await compressor.ensureRaw("g", dir)).match(() => "raw", (error) => `${error.code} ${error.message}`));
await compressor.settled();
console.log("idle", JSON.stringify(compressor.state("g")));
await compressor.close();
store.close();
