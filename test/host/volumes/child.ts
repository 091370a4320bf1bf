// Makes or deletes a volume, and is killed after the step that it is told: `child.ts <data folder> <step> <create|archive|remove> [mkfs]`.
import { gzipSync } from "node:zlib";
import { join } from "node:path";
import { openStore } from "../../../src/host/store/store.ts";
import { openVolumes, volumeMigrations } from "../../../src/host/volumes/volumes.ts";
import { trashIn } from "../../support/trash.ts";
import { dir, file, tar } from "../images/tar-builder.ts";
import { wanted } from "./world.ts";

const [root, step, verb, mkfs] = process.argv.slice(2) as [string, string, "create" | "archive" | "remove", string | undefined];
const at = (done: string) => {
  if (done === step) process.kill(process.pid, "SIGKILL");
};
const store = openStore(join(root, "dormouse.db"), volumeMigrations)._unsafeUnwrap();
const volumes = openVolumes({ db: store.db, dir: join(root, "volumes"), trash: trashIn(root), nameOf: ({ id }) => id, onStep: at, ...(mkfs === undefined ? {} : { mkfs }) })._unsafeUnwrap();

/** Two halves, with a step between them: the archive is half there. */
async function* body(): AsyncGenerator<Uint8Array> {
  const bytes = gzipSync(tar([dir("d"), file("d/a", "hello"), file("d/b", Buffer.alloc(100_000, 1))]), { level: 0 });
  yield bytes.subarray(0, 50_000);
  at("half sent");
  yield bytes.subarray(50_000);
}

if (verb === "remove") volumes.remove("data")._unsafeUnwrap();
else if (verb === "create") (await volumes.create(wanted("data")))._unsafeUnwrap();
else (await volumes.createFromArchive(wanted("data"), body()))._unsafeUnwrap();
console.log("finished"); // never, unless there is no such step
