// The daemon killed in the middle of clones and merges; on both kinds of file system (disks.test.ts runs it again).
import { afterEach, expect, test } from "bun:test";
import { join } from "node:path";
import { blocks, Writer } from "./disk-files.ts";
import { chain, cleanUp, Host, instance, reflinks, snapshot } from "./host.ts";

afterEach(cleanUp);

test.skipIf(reflinks !== undefined).each(["copied", "merged"])("after the step '%s' of a merge leaves every disk whole", async (step) => {
  let host = await Host.open();
  await chain(host);
  host.store.close();
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "clone-child.ts"), host.dir, step, "none"], { stdout: "inherit", stderr: "inherit" });
  await child.exited;
  expect(child.signalCode).toBe("SIGKILL");
  host = await Host.open(host.dir);
  await host.disks.idle();
  expect([host.files(instance("a")).length, host.content(instance("a")), host.content(snapshot("t"))]).toEqual([2, blocks({ 0: 2, 2: 3, 3: 3 }), blocks({ 0: 2, 2: 2 })]);
  host.store.close();
});

const steps = reflinks ? ["reflinked", "shared", "recorded", "finished"]
  : ["sealed", "linked file", "linked map", "new top of the source", "new top of the target", "recorded", "finished"];
// Whether the source's monitor had got the new top is known to nobody; it can have only where it was recorded.
test.each(steps)("after the step '%s' of a clone leaves the source whole", async (step) => {
  for (const kind of ["instance", "snapshot"] as const) {
    for (const given of [false, true]) {
      let host = await Host.open();
      await host.clone(instance("a"), snapshot("first")); // so that a's file has a map
      host.write(instance("a"), 1, 2);
      const before = new Writer(host.files(instance("a"))[0]!);
      host.store.close();
      const child = Bun.spawn([process.execPath, join(import.meta.dir, "clone-child.ts"), host.dir, step, kind], { stdout: "pipe", stderr: "inherit" });
      const said = await child.stdout.text();
      await child.exited;
      expect({ said, signal: child.signalCode }).toEqual({ said: "", signal: "SIGKILL" });
      host = await Host.open(host.dir);
      const taken = given && (step === "recorded" || step === "finished") ? new Writer(host.files(instance("a"))[0]!) : before;
      if (step !== "finished" || given || reflinks) taken.write(2, 3);
      const wanted = blocks(step !== "finished" || given || reflinks ? { 0: 1, 1: 2, 2: 3 } : { 0: 1, 1: 2 });
      expect(host.content(instance("a"))).toEqual(wanted);
      // The target has all of it or nothing, and nothing is left of what was not finished.
      expect(host.ownFiles({ kind, id: "b" }).length > 0 || step === "finished").toBe(step === "finished");
      if (step === "finished") expect(host.content({ kind, id: "b" })).toEqual(blocks({ 0: 1, 1: 2 }));
      host.remove(snapshot("first"));
      host.remove({ kind, id: "b" });
      expect(host.content(instance("a"))).toEqual(wanted);
      host.remove(instance("a"));
      expect(host.layerFiles()).toEqual([]);
      host.store.close();
    }
  }
});
