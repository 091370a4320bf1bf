// The trash of a data folder, whose failures are the test's.
import { join } from "node:path";
import { Trash } from "../../src/host/trash.ts";

export const trashIn = (dataDir: string): Trash => new Trash(join(dataDir, "trash"), (what, cause) => { throw new Error(`Cannot ${what}`, { cause }); });
