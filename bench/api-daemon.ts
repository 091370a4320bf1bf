// The daemon that bench/api.ts measures: the whole of `dormouse serve` in a process of its own, without the host's checks.
// Arguments: data folder. Prints its URL; ends on SIGTERM.
import { createLogger } from "../src/log.ts";
import { startDaemon } from "../src/serve.ts";
import { SERVE_DEFAULTS } from "../src/serve-options.ts";

const daemon = await startDaemon({ ...SERVE_DEFAULTS, listen: "127.0.0.1:0", dataDir: process.argv[2] ?? "" }, createLogger("error"));
if (daemon.isErr()) throw daemon.error;
process.on("SIGTERM", async () => {
  await daemon.value.stop();
  process.exit(0);
});
console.log(daemon.value.url);
