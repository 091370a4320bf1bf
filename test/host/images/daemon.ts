// A process that has the image domain open, for tests that kill it: `bun daemon.ts FOLDER REFERENCE [FILE]`. It tells each state on its output.
// Once there is that file it tells one more, and does nothing after that: its Workers may go on, and nothing of theirs counts.
import { existsSync, writeSync } from "node:fs";
import { imageMigrations, openImages } from "../../../src/host/images/images.ts";
import { listFiles } from "./harness.ts";
import { openStore } from "../../../src/host/store/store.ts";
import { trashIn } from "../../support/trash.ts";

const [folder = "", name = "", stopAt] = process.argv.slice(2);
const store = openStore(`${folder}/db`, imageMigrations)._unsafeUnwrap();
const images = openImages({ db: store.db, dir: `${folder}/images`, trash: trashIn(folder), userOf: () => null, dockerConfigPath: `${folder}/none.json` })._unsafeUnwrap();
const say = (state: string): void => void writeSync(1, `${state}\n`);
(await images.pull({ name }))._unsafeUnwrap();
const settled = await images.settled(name, (record) => {
  const stops = stopAt !== undefined && existsSync(stopAt);
  say(`${record.status} ${record.progress?.doneBytes ?? 0}`);
  if (stops) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
});
const { status, error } = settled._unsafeUnwrap();
say(`settled ${JSON.stringify({ status, error, files: listFiles(`${folder}/images`) })}`);
await images.close();
store.close();
