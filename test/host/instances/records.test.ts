// What the record tells: nothing before it is committed, and nothing that fails after that.
import { Database } from "bun:sqlite";
import { afterAll, expect, test } from "bun:test";
import type { Context } from "../../../src/host/instances/context.ts";
import { Lanes } from "../../../src/host/instances/lanes.ts";
import type { Records } from "../../../src/host/instances/records.ts";
import type { Instance } from "../../../src/host/instances/service.ts";
import { wait } from "../../../src/host/instances/wait.ts";
import { DIGEST, migrations, never, open, recordsOf, removeRoots, request } from "./fixture.ts";
import { codeOf, running, stateOf } from "./sleeping.ts";

afterAll(removeRoots);

function memory(): { db: Database; records: Records; made: Instance } {
  const db = new Database(":memory:", { strict: true });
  for (const { sql } of migrations) db.run(sql);
  const records = recordsOf(db);
  return { db, records, made: records.insertForming("abc", request("web", null), DIGEST)._unsafeUnwrap() };
}

test("a change that is committed does not fail, though nothing can be read any more", () => {
  const { db, records, made } = memory(), query = db.query.bind(db);
  db.query = ((sql: string) => {
    if (!db.inTransaction) throw new Error("disk I/O error");
    return query(sql);
  }) as typeof db.query;
  expect(records.transition(made.id, "Standby", null).state).toBe("Standby");
  db.query = query;
  expect(records.stateOf(made.id)).toBe("Standby");
});

test("of an instance that comes and goes without end the last changes of state are kept", () => {
  const { records, made } = memory();
  const other = records.insert("def", request("two", null), DIGEST)._unsafeUnwrap();
  for (const state of Array.from({ length: 500 }, () => ["Initializing", "Running", "Stopped"] as const).flat()) records.transition(made.id, state, state);
  expect(records.transitions(made.id)).toHaveLength(200);
  expect(records.transitions(made.id).at(-1)).toMatchObject({ from: "Running", to: "Stopped" });
  expect(records.transitions(other.id)).toHaveLength(1);
});

test("who waits for one that is deleted is told, also where it never was anything", async () => {
  const { records, made } = memory(), lanes = new Lanes();
  const waited = wait({ records, lanes } as unknown as Context, made.id, "Running", 2 ** 31, never());
  await lanes.run(made.id, "remove-now", async () => records.delete(made.id));
  expect((await waited)._unsafeUnwrap()).toMatchObject({ timedOut: false, instance: { id: made.id, state: "Stopped" } });
});

test("a snapshot that could not be given back is news for nobody, and the instance runs on", async () => {
  const fixture = await open();
  await running(fixture, "one");
  (await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap();
  (await fixture.instances.createSnapshot("one", { kind: "Stopped", name: "kept", tags: {} }).andThen(() => fixture.instances.start("one", {})))._unsafeUnwrap();
  await fixture.instances.wait("one", "Running", 20_000, never());
  const told: string[] = [];
  fixture.instances.subscribe(({ state }) => void told.push(state));
  fixture.store.db.run("CREATE TEMP TRIGGER full BEFORE DELETE ON instance_processes BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END");
  expect(await codeOf(fixture.instances.restoreSnapshot("one", "kept", "Stopped"))).toBe("host.storage");
  expect({ told, state: stateOf(fixture, "one") }).toEqual({ told: [], state: "Running" });
  fixture.store.db.run("DROP TRIGGER full");
  (await fixture.instances.restoreSnapshot("one", "kept", "Stopped"))._unsafeUnwrap();
  expect(told).toContain("Stopped");
  await fixture.close();
});
