// A daemon of its own process for the tests that kill one: opens the domain over the folder given and does one thing.
// Usage: daemon.ts ROOT create NAME CMD… | start NAME | remove NAME | standby NAME STEP VICTIM | restore NAME STEP VICTIM | idle
// Says `ready` once it is done. At STEP (src/host/instances/context.ts) VICTIM dies by SIGKILL: this `daemon`, or its `monitor`.
import { open, monitorsIn, request, never } from "./fixture.ts";

const [root, verb, name = "", ...cmd] = process.argv.slice(2);
const [dieAt, victim] = cmd;
const onStep = (step: string): void => {
  if (step !== dieAt) return;
  for (const pid of victim === "daemon" ? [process.pid] : monitorsIn(root!)) process.kill(pid, "SIGKILL");
};
const { instances } = await open(root!, verb === "standby" || verb === "restore" ? { onStep } : {});
if (verb === "create") {
  (await instances.create(request(name, cmd)))._unsafeUnwrap();
  await instances.wait(name, "Running", 20_000, never());
}
if (verb === "start") (await instances.start(name, {}))._unsafeUnwrap();
if (verb === "remove") (await instances.remove(name, { graceful: true }))._unsafeUnwrap();
// How it ends, where only its monitor dies, the test finds on record.
if (verb === "standby") await instances.standby(name);
if (verb === "restore") await instances.restore(name);
console.log("ready");
setInterval(() => {}, 60_000);
