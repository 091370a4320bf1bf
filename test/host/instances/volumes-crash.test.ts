// Creates, attaches, detaches and deletions with the daemon killed before every statement that changes the database: there is an attachment
// where there is an instance that has it, and nowhere else; and what was written over a volume is there as long as that.
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { until } from "../../support/until.ts";
import { freshRoot, open, removeRoots, type Fixture } from "./fixture.ts";
import { entries, remove, running, stateOf } from "./sleeping.ts";

afterAll(removeRoots);

const LAYERED = { volumeId: "data", mountPath: "/data", readonly: true, overlayBytes: 64 * 2 ** 20 };

/** `one` is stopped; with the volume where that is to be taken from it. */
async function prepare(fixture: Fixture, verb: string): Promise<void> {
  (await fixture.volumes.create({ name: "data", sizeBytes: 64 * 2 ** 20, id: "data", tags: {} }))._unsafeUnwrap();
  await running(fixture, "one", ["serve"], { volumes: verb === "detach" || verb === "remove" ? [LAYERED] : [] });
  (await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap();
}

async function dieAt(root: string, nth: number, verb: string): Promise<boolean> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "daemon.ts"), root, "write", String(nth), verb], { stdout: "pipe", stderr: "inherit" });
  const said = await child.stdout.getReader().read();
  child.kill("SIGKILL");
  await child.exited;
  return said.done;
}

const overlays = (fixture: Fixture, id: string) => entries(fixture, `instances/${id}`).filter((name) => name.startsWith("overlay"));

for (const [verb, outcomes] of [["create", ["one", "one, two data"]], ["attach", ["one", "one data"]], ["detach", ["one", "one data"]], ["remove", ["", "one data"]]] as const)
  test(`${verb}: the daemon is killed before each write`, async () => {
    const seen = new Set<string>();
    for (let nth = 1, died = true; died; nth++) {
      const first = await open(freshRoot());
      await prepare(first, verb);
      await first.close();
      died = await dieAt(first.root, nth, verb);
      const next = await open(first.root), { instances, volumes } = next;
      if (verb === "remove" && nth > 1) await until("the deletion to be finished", () => instances.list().length === 0);
      const all = instances.list();
      seen.add(all.map((one) => [one.name, ...one.volumes.map(({ volumeId }) => volumeId)].join(" ")).join(", "));
      expect({ nth, holders: volumes.get("data")._unsafeUnwrap().attachments.map(({ instanceId }) => instanceId) }).toEqual({ nth, holders: all.filter((one) => one.volumes.length > 0).map(({ id }) => id) });
      for (const { id, name, state, volumes: mounts } of all) {
        if (state === "Stopped") (await instances.start(name, {}))._unsafeUnwrap(); // with all that it has
        await until(`${name} to run`, () => stateOf(next, name) === "Running");
        expect(overlays(next, id)).toEqual(mounts.some(({ overlayBytes }) => overlayBytes !== null) ? ["overlay.data.ext4"] : overlays(next, id));
        await remove(next, name);
      }
      volumes.remove("data")._unsafeUnwrap();
      await next.close();
    }
    expect([...seen].sort()).toEqual([...outcomes]);
  }, 300_000);
