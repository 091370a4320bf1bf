// What is on record only because it can't be forgotten yet is nobody's to use: it is deleted once the database takes it.
import { afterAll, expect, test } from "bun:test";
import { until } from "../../support/until.ts";
import { never, open, removeRoots, request, type Fixture } from "./fixture.ts";
import { codeOf, remove, running, stateOf } from "./sleeping.ts";

afterAll(removeRoots);

/** Forgets no instance, until the answer is called. */
function unforgetting({ store }: Fixture): () => void {
  store.db.run("CREATE TRIGGER keeping BEFORE DELETE ON instances BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END");
  return () => void store.db.run("DROP TRIGGER keeping");
}

test("a fork that came to nothing, and can't be forgotten yet, is not started, forked or kept in a snapshot", async () => {
  const fixture = await open(), { instances } = fixture;
  await running(fixture, "one");
  (await instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap();
  fixture.store.db.run("CREATE TRIGGER nobody BEFORE UPDATE OF removing ON instances WHEN NEW.removing = 0 BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END");
  const forget = unforgetting(fixture);
  expect(await codeOf(instances.fork("one", { name: "two", fromRunning: false, targetState: null }))).toBe("host.storage");
  for (const verb of [
    () => instances.start("two", {}), () => instances.restore("two"), () => instances.standby("two"), () => instances.stop("two"),
    () => instances.fork("two", { name: "three", fromRunning: true, targetState: null }), () => instances.createSnapshot("two", { kind: "Stopped", name: null, tags: {} }),
  ])
    expect((await verb())._unsafeUnwrapErr()).toMatchObject({ code: "instance.invalid_state", message: expect.stringContaining(": it is being deleted") });
  forget();
  await until("it to be forgotten", () => instances.get("two").isErr(), 10_000);
  expect(stateOf(fixture, "one")).toBe("Stopped");
  await remove(fixture, "one");
  await fixture.close();
});

test("one whose deletion failed in its middle can only be deleted", async () => {
  const fixture = await open(), { instances } = fixture;
  await running(fixture, "one");
  (await instances.createSnapshot("one", { kind: "Standby", name: "kept", tags: {} }))._unsafeUnwrap();
  const forget = unforgetting(fixture);
  expect(await codeOf(instances.remove("one", { graceful: false }))).toBe("host.storage");
  expect(await codeOf(instances.start("one", {}))).toBe("instance.invalid_state");
  expect(await codeOf(instances.restoreSnapshot("one", "kept", null))).toBe("instance.invalid_state");
  forget();
  await remove(fixture, "one");
  expect(instances.list()).toEqual([]);
  (await instances.removeSnapshot("kept"))._unsafeUnwrap();
  await fixture.close();
});

test("a deletion that can't be finished at start is tried again, and the daemon lives until then", async () => {
  const first = await open();
  await first.instances.create(request("one", ["serve"]));
  await first.instances.wait("one", "Running", 20_000, never());
  first.store.db.run("UPDATE instances SET removing = 1");
  await first.close();
  let full = true;
  const f = await open(first.root, (db) => {
    const query = db.query.bind(db) as (sql: string) => never;
    return Object.assign(db, { query: (sql: string) => {
      if (full && sql.startsWith("DELETE FROM instances")) throw new Error("database or disk is full");
      return query(sql);
    } }) && {};
  });
  await until("the deletion to fail", () => f.logged.some((line) => line.includes("instance.left")));
  expect(f.instances.list().length).toBe(1);
  full = false;
  await until("it to be deleted", () => f.instances.list().length === 0);
  await f.close();
});
