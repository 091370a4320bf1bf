import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { CASE_CONFIG, CASE_FILES, execCases } from "./exec-cases.ts";
import { buildHarness, Guest, makeRoot } from "./harness.ts";
import { removeFolder, tempFolder } from "./machine.ts";

const folder = tempFolder();
let guest: Guest;

beforeAll(async () => {
  const harness = await buildHarness(folder);
  mkdirSync(join(folder, "g"));
  await makeRoot(join(folder, "g"), CASE_FILES);
  guest = await Guest.start(harness, join(folder, "g"), CASE_CONFIG);
}, 120_000);
afterAll(() => {
  guest?.kill();
  removeFolder(folder);
});

execCases(() => guest, 60_000);

test("no process and no descriptor of an exec is left", async () => {
  const descriptors = () => readdirSync(`/proc/${guest.process.pid}/fd`).length;
  const zombies = async () => Number((await Bun.$`ps --ppid ${guest.process.pid} -o stat= | grep -c Z || true`.text()).trim());
  const before = descriptors();
  const sessions = await Promise.all(Array.from({ length: 10 }, (_, i) => guest.exec(["true"], ...(i % 2 ? [["tty", "1"] as const] : []))));
  await Promise.all(sessions.map((session) => session.code()));
  sessions.forEach((session) => session.hangUp());
  await guest.until(() => descriptors() <= before);
  expect(await zombies()).toBe(0);
});
