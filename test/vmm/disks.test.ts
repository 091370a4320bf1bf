// As many disks as a machine has places for, over the control socket: through a save and a restore, what each costs, and what is refused.
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { appendFileSync, copyFileSync, mkdtempSync, openSync, readFileSync, rmSync, truncateSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openPoller, type Poller } from "../../src/host/poller.ts";
import type { DiskConfig } from "../../src/vmm/protocol.ts";
import { makeDisk, Monitor, runs } from "./monitor.ts";

/** vda to vdz: with the six other devices (host bridge, console, network, vsock, random numbers, balloon) they are the 32 of the bus. */
const MOST = 26;
/** 21 were measured. */
const KIB_A_DISK = 100;

let poller: Poller, dir: string, count = 0;
const monitors: Monitor[] = [];
beforeAll(() => {
  poller = openPoller();
  dir = mkdtempSync(join(tmpdir(), "dormouse-disks-"));
});
afterEach(async () => {
  for (const one of monitors.splice(0)) await one.end();
});
afterAll(async () => {
  await poller.close();
  rmSync(dir, { recursive: true, force: true });
});

function monitor(paths: readonly string[] = []): Monitor {
  const one = Monitor.start(join(dir, `monitor-${++count}`), poller);
  one.disks = Object.fromEntries(paths.map((path, i) => [`disk${i + 1}`, path]));
  monitors.push(one);
  return one;
}

/** Files of `n` more disks. */
function files(n: number): string[] {
  return Array.from({ length: n }, () => {
    const path = join(dir, `disk-${++count}`);
    makeDisk(path);
    return path;
  });
}

/** The first is `disk0`; every second one of the others is read alone. */
const shape = (n: number): DiskConfig[] => Array.from({ length: n + 1 }, (_, i) => ({ readonly: i > 0 && i % 2 === 0, serial: `disk-${i}`, ...(i === 0 ? {} : { remembered: true as const }) }));
const generation = () => join(dir, `generation-${++count}`);

/** Private_Dirty of /proc/PID/smaps_rollup, proc(5). */
const privateKib = ({ pid }: Monitor): number => Number(/^Private_Dirty: +(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))![1]);

async function saved(paths: readonly string[]): Promise<string> {
  const first = monitor(paths), folder = generation();
  await first.boot("ticker", { disks: shape(paths.length) });
  await runs(first);
  (await first.save(folder, { id: "g1", base: null }))._unsafeUnwrap();
  await first.end();
  return folder;
}

const restored = (paths: readonly string[], folder: string) => monitor(paths).restore([folder], ["g1"], { disks: shape(paths.length) });

test(`a machine has ${MOST} disks, goes through a save and a restore with them, and one more is refused by name`, async () => {
  const paths = files(MOST - 1), folder = await saved(paths), second = monitor(paths);
  (await second.restore([folder], ["g1"], { disks: shape(MOST - 1) }))._unsafeUnwrap();
  (await second.client.request("release", null))._unsafeUnwrap();
  await runs(second);
  expect((await second.client.request("stats", null))._unsafeUnwrap().disks).toHaveLength(MOST);
  const more = [...paths, ...files(1)];
  const refused = await monitor(more).boot("ticker", { disks: shape(MOST) }).then(() => "", (thrown: { data: { value: Error } }) => thrown.data.value.message);
  expect(refused).toContain(`more than ${MOST} disks`);
}, 120_000);

test("a disk that nobody uses costs little", async () => {
  const few = monitor(files(1)), many = monitor(files(MOST - 1));
  await few.boot("ticker", { disks: shape(1) });
  await many.boot("ticker", { disks: shape(MOST - 1) });
  for (const one of [few, many]) await runs(one);
  const each = (privateKib(many) - privateKib(few)) / (MOST - 2);
  expect(each).toBeLessThan(KIB_A_DISK);
}, 120_000);

for (const [what, spoil, said] of [
  ["longer", (path: string) => appendFileSync(path, new Uint8Array(4096)), "disk 2 of bytes 1048576, and here is 1052672"],
  ["shorter", (path: string) => truncateSync(path, 4096), "disk 2 of bytes 1048576, and here is 4096"],
  ["another one", (path: string) => void writeSync(openSync(path, "r+"), "of somebody else", 1024), "disk 2 (disk-2) is not as its guest has left it"],
] as const)
  test(`a machine whose disk is ${what} by now is not restored, and is once the disk is back`, async () => {
    const paths = files(3), folder = await saved(paths), kept = join(dir, `kept-${++count}`);
    copyFileSync(paths[1]!, kept);
    spoil(paths[1]!);
    const error = (await restored(paths, folder))._unsafeUnwrapErr();
    expect(error.message).toStartWith("snapshot.incompatible: ");
    expect(error.message).toContain(said);
    copyFileSync(kept, paths[1]!);
    expect((await restored(paths, folder)).isOk()).toBe(true);
  }, 120_000);
