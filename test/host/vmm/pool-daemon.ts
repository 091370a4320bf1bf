// The daemon that pool.test.ts kills: a process that holds a pool, says who is in it, and never ends by itself.
// Arguments: the pool's folder, and the command of a monitor.
import { openPoller } from "../../../src/host/poller.ts";
import { openPool } from "../../../src/host/vmm/pool.ts";
import { createLogger } from "../../../src/log.ts";

const [dir = "", ...command] = process.argv.slice(2);
const pool = openPool({ command, size: 2, dir, poller: openPoller(), logger: createLogger("warn") })._unsafeUnwrap();
console.log(`idle ${pool.idle}`);
setInterval(() => {}, 1 << 30);
