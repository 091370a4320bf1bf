// A process that has the image domain open, for tests that kill it: `bun daemon.ts FOLDER REFERENCE`. It tells each state on its output.
import { imageMigrations, openImages } from "../../../src/host/images/images.ts";
import { listFiles } from "./harness.ts";
import { openStore } from "../../../src/host/store/store.ts";
import { trashIn } from "../../support/trash.ts";

const [folder = "", name = ""] = process.argv.slice(2);
const store = openStore(`${folder}/db`, imageMigrations)._unsafeUnwrap();
const images = openImages({ db: store.db, dir: `${folder}/images`, trash: trashIn(folder), userOf: () => null, dockerConfigPath: `${folder}/none.json` })._unsafeUnwrap();
const say = (state: string): void => void process.stdout.write(`${state}\n`);
(await images.pull({ name }))._unsafeUnwrap();
const settled = await images.settled(name, (record) => say(`${record.status} ${record.progress?.doneBytes ?? 0}`));
const { status, error } = settled._unsafeUnwrap();
say(`settled ${JSON.stringify({ status, error, files: listFiles(`${folder}/images`) })}`);
await images.close();
store.close();
