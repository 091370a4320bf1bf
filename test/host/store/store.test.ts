import { afterAll, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openStore } from "../../../src/host/store/store.ts";
import type { Migration } from "../../../src/host/store/migration.ts";

const root = mkdtempSync(join(tmpdir(), "dormouse-store-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let files = 0;
const fresh = () => join(root, `${files++}`, "dormouse.db");

const one: Migration = { id: "t-1", sql: "CREATE TABLE a (id TEXT PRIMARY KEY) STRICT; CREATE TABLE b (a TEXT REFERENCES a) STRICT;" };
const two: Migration = { id: "t-2", sql: "ALTER TABLE a ADD COLUMN n INTEGER" };

test("openStore() applies each migration once, in order", () => {
  const path = fresh();
  const first = openStore(path, [one])._unsafeUnwrap();
  first.db.run("INSERT INTO a (id) VALUES ('x')");
  first.close();
  const second = openStore(path, [one, two])._unsafeUnwrap();
  expect(second.db.query<{ id: string; n: number | null }, []>("SELECT * FROM a").all()).toEqual([{ id: "x", n: null }]);
  second.close();
});

test("openStore() sets WAL, synchronous=FULL and foreign keys", () => {
  const store = openStore(fresh(), [one])._unsafeUnwrap();
  const pragma = (name: string) => Object.values(store.db.query(`PRAGMA ${name}`).get() as object)[0] as unknown;
  expect([pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys")]).toEqual(["wal", 2, 1]);
  expect(() => store.db.run("INSERT INTO b VALUES ('missing')")).toThrow(/FOREIGN KEY/);
  store.close();
});

test("openStore() leaves nothing of a migration that fails, and can be tried again", () => {
  const path = fresh();
  const broken: Migration = { id: "t-2", sql: "CREATE TABLE c (id TEXT); CREATE TABLE a (id TEXT)" };
  expect(openStore(path, [one, broken])._unsafeUnwrapErr()).toMatchObject({ code: "host.storage", message: expect.stringContaining("already exists") });
  const store = openStore(path, [one, two])._unsafeUnwrap();
  expect(store.db.query("SELECT name FROM sqlite_master WHERE name = 'c'").get()).toBeNull();
  store.close();
});

test("openStore() refuses a newer schema and leaves it unchanged", () => {
  const path = fresh();
  openStore(path, [one, two])._unsafeUnwrap().close();
  expect(openStore(path, [one])._unsafeUnwrapErr()).toMatchObject({ code: "conflict", message: expect.stringContaining("t-2") });
  openStore(path, [one, two])._unsafeUnwrap().close();
});

test("openStore() refuses a folder that another daemon has, by its process id, until that one is killed", async () => {
  const path = fresh();
  const script = `import { openStore } from ${JSON.stringify(join(import.meta.dir, "../../../src/host/store/store.ts"))};
    openStore(${JSON.stringify(path)}, [])._unsafeUnwrap(); console.log("open"); setInterval(() => {}, 1000);`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
  await child.stdout.getReader().read();
  expect(openStore(path, [])._unsafeUnwrapErr()).toMatchObject({ code: "conflict", message: expect.stringContaining(`process id ${child.pid}`) });
  child.kill("SIGKILL");
  await child.exited;
  openStore(path, [])._unsafeUnwrap().close();
});

test("openStore() names a file that is no database", () => {
  const path = fresh();
  openStore(path, [])._unsafeUnwrap().close();
  const damaged = join(root, "damaged.db");
  writeFileSync(damaged, "not a database ".repeat(1000));
  expect(openStore(damaged, [])._unsafeUnwrapErr()).toMatchObject({ code: "host.storage", message: expect.stringContaining(damaged) });
  // The lock is let go: the file can be moved away and the daemon started anew.
  rmSync(damaged);
  openStore(damaged, [])._unsafeUnwrap().close();
  expect(new Database(damaged, { readonly: true }).query("SELECT count(*) AS n FROM schema_migrations").get()).toEqual({ n: 0 });
});
