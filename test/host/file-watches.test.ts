import { afterAll, expect, test } from "bun:test";
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FileWatches } from "../../src/host/file-watches.ts";
import { openPoller } from "../../src/host/poller.ts";
import { until } from "../support/until.ts";

const poller = openPoller();
const files = new FileWatches(poller);
const dir = mkdtempSync(join(tmpdir(), "dormouse-watches-"));
afterAll(async () => {
  files.close();
  await poller.close();
  rmSync(dir, { recursive: true, force: true });
});

const [a, b] = ["a", "b"].map((name) => join(dir, name)) as [string, string];
writeFileSync(a, "");
writeFileSync(b, "");

test("watch() tells each reader of its own file, until it ends", async () => {
  const heard = { one: 0, two: 0, other: 0 };
  const endOne = files.watch(a, () => heard.one++);
  const endTwo = files.watch(a, () => heard.two++);
  const endOther = files.watch(b, () => heard.other++);
  appendFileSync(a, "x");
  await until("both readers", () => heard.one === 1 && heard.two === 1);
  endOne();
  endOne();
  appendFileSync(a, "y");
  await until("the other reader", () => heard.two === 2);
  expect(heard).toEqual({ one: 1, two: 2, other: 0 });
  endTwo();
  // Watched anew after its last reader has left.
  const endAgain = files.watch(a, () => heard.one++);
  appendFileSync(a, "z");
  await until("the new reader", () => heard.one === 2);
  endAgain();
  endOther();
});

test("watch() tells of a deletion, may end after it, and refuses a file that is not there", async () => {
  let gone = 0;
  const end = files.watch(b, () => gone++);
  rmSync(b);
  await until("the deletion", () => gone > 0);
  end();
  expect(() => files.watch(b, () => {})).toThrow("ENOENT");
});

test("hundreds of readers need one inotify instance", () => {
  const ends = Array.from({ length: 500 }, () => files.watch(a, () => {}));
  ends.forEach((end) => end());
});
