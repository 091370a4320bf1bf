// The demo's main job, on a machine whose KVM runs kernels: real images from a real registry, each run in a virtual machine of its own;
// then one of them asleep, woken and forked. Ends with `demo: ok`, or `demo: failed: <why>` and status 1.
// Needs dist/dormouse and the images in the cache.
import { Daemon } from "../../../test/support/daemon.ts";
import { image } from "../../../test/support/images.ts";
import { Registry } from "../../../test/support/registry.ts";
import { acts, play } from "./acts.ts";
import { printTable, say, type Timings } from "./shared.ts";
import { sleepAndWake } from "./sleep.ts";

async function demo(): Promise<void> {
  await using registry = await Registry.start();
  say(`a registry listens on ${registry.host}`);
  await using daemon = await Daemon.start();
  say(`dormouse serve listens on ${daemon.url}`);
  try {
    const rows: [string, Timings][] = [];
    let nginx = "";
    for (const act of acts) {
      const reference = await (await image(act.image, say)).push(registry.host, act.image);
      if (act.image === "nginx") nginx = reference;
      say(`${act.image}: pull, create, talk, logs, exec, stop, delete`);
      rows.push([act.image, await play(daemon, reference, act)]);
    }
    printTable(rows);
    say("nginx: to sleep, awake by a request, three forks of it while it runs, delete");
    const timings = await sleepAndWake(daemon, nginx);
    console.log();
    printTable([["nginx", timings]]);
  } catch (error) {
    say(`the daemon's log ends with:\n${daemon.log.slice(-3000).trimEnd()}`);
    throw error;
  }
}

try {
  await demo();
  console.log("demo: ok");
} catch (error) {
  const why = error instanceof Error ? error.message : String(error);
  const [first = "", ...rest] = why.split("\n");
  if (rest.length > 0) console.log(rest.join("\n"));
  console.log(`demo: failed: ${first}`);
  process.exitCode = 1;
}
process.exit();
