// A daemon of its own process for the tests that kill one: opens the domain over the folder given and does one thing.
// Usage: daemon.ts ROOT create NAME CMD… | start NAME | remove NAME | idle. Says `ready` once it is done.
import { open, request, never } from "./fixture.ts";

const [root, verb, name = "", ...cmd] = process.argv.slice(2);
const { instances } = await open(root!);
if (verb === "create") {
  (await instances.create(request(name, cmd)))._unsafeUnwrap();
  await instances.wait(name, "Running", 20_000, never());
}
if (verb === "start") (await instances.start(name, {}))._unsafeUnwrap();
if (verb === "remove") (await instances.remove(name, { graceful: true }))._unsafeUnwrap();
console.log("ready");
setInterval(() => {}, 60_000);
