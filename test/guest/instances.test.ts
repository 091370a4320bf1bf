// What becomes of instances when daemons and monitors die, and what each leaves on the host: real guests, real signals.
import { afterAll, beforeAll, beforeEach, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { localName } from "../support/converted.ts";
import { taps, type Daemon } from "../support/daemon.ts";
import { Site, type Seen } from "../support/site.ts";
import { served, until } from "../support/until.ts";

const CGROUPS = "/sys/fs/cgroup/dormouse";
let site: Site;
let daemon: Daemon;
beforeAll(async () => {
  site = await Site.start(["busybox"]);
  daemon = site.daemon;
}, 300_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
}, 300_000);
beforeEach(async () => {
  if (daemon.pid === null) await daemon.start(); // a test that failed may have left it dead
  for (const { id } of await daemon.api<Seen[]>("GET", "/instances")) await daemon.remove(id);
  await until("no TAP to be left", () => taps().length === 0);
});

const running = (shell?: string) => ({ size: "128MB", ...(shell === undefined ? {} : { cmd: ["sh", "-c", shell] }) });
const started = (ref: string, shell?: string) => site.boot(ref, "busybox", running(shell));
const page = (one: Seen) => served(`http://${one.network!.ip}/`);
const shell = (ref: string, script: string) => site.exec(ref, "/bin/busybox", "sh", "-c", script);
const reaches = (host: string, port: number): Promise<true> => new Promise((done, failed) => {
  const socket = connect({ host, port }, () => done(true)).on("error", failed);
  socket.end();
});
/** Process ids in an instance's control group: its monitor's, but for threads that the kernel's KVM adds (they have no command line). */
const processes = (id: string) =>
  readFileSync(join(CGROUPS, id, "cgroup.procs"), "utf8").split("\n").filter(Boolean).map(Number).filter((pid) => readFileSync(`/proc/${pid}/cmdline`).length > 0);
/** What of an instance is on the host. A record may be Stopped a moment before the last of it is gone. */
const leftovers = (id: string) => ({ group: existsSync(join(CGROUPS, id)), socket: existsSync(join(daemon.dataDir, "instances", id, "vmm.sock")), taps: taps() });
const nothingLeft = (id: string) => until(`nothing to be left of ${id}`, () => {
  const left = leftovers(id);
  if (left.group || left.socket || left.taps.length > 0) throw new Error(`there is ${JSON.stringify(left)}`);
  return true;
});

test("a running instance has a control group, a socket and a TAP; a stopped one has none of them", async () => {
  const { id } = await started("web");
  const [pid] = processes(id);
  expect(processes(id)).toEqual([pid!]);
  expect(readFileSync(`/proc/${pid}/cmdline`, "latin1").split("\0").slice(-2, -1)).toEqual(["vmm"]);
  expect(Number(readFileSync(join(CGROUPS, id, "memory.current"), "utf8"))).toBeGreaterThan(2 ** 20);
  expect(leftovers(id)).toEqual({ group: true, socket: true, taps: [expect.any(String)] });
  await site.stop("web");
  await nothingLeft(id);
  await until("the monitor's end", () => !existsSync(`/proc/${pid}`));
}, 300_000);

test("a guest serves on while its daemon is dead, and the next one takes it over with logs, exec and stop", async () => {
  const before = await started("web");
  const [pid] = processes(before.id);
  await daemon.stop("SIGKILL");
  expect(await page(before)).toContain("busybox");
  await daemon.start();
  expect(await site.get("web")).toMatchObject({ id: before.id, state: "Running", network: { ip: before.network!.ip! } });
  expect(processes(before.id)).toEqual([pid!]);
  expect(taps()).toHaveLength(1);
  expect(await page(before)).toContain("busybox");
  expect(await shell("web", "echo from the guest")).toBe("from the guest\n");
  await until("the request in the log", async () => (await daemon.logs("web")).some((line) => line.includes("response:200")));
  await site.stop("web");
  expect(await site.get("web")).toMatchObject({ state: "Stopped" });
  await nothingLeft(before.id);
}, 300_000);

test("a program that ends while no daemon runs is on record with its code", async () => {
  const { id, network } = await started("job", "nc -l -p 7000 </dev/null; echo last words; exit 7");
  await daemon.stop("SIGKILL");
  await until("the program to hear that it may end", () => reaches(network!.ip!, 7000));
  await until("the guest's end", () => JSON.parse(readFileSync(join(daemon.dataDir, "instances", id, "status.json"), "utf8").split("\n")[0]!).state === "ended");
  await daemon.start();
  expect(await site.reached("job", "Stopped")).toMatchObject({ exit_code: 7 });
  expect(await daemon.logs("job")).toEqual(["last words"]);
  await nothingLeft(id);
}, 300_000);

test("a monitor that is killed leaves Stopped with the reason, and what the guest had synced", async () => {
  const { id } = await started("web");
  await shell("web", "echo kept > /kept; sync");
  process.kill(processes(id)[0]!, "SIGKILL");
  expect(await site.reached("web", "Stopped")).toMatchObject({ exit_code: null, exit_message: expect.stringContaining("killed") });
  await nothingLeft(id);
  await site.start("web");
  expect(await shell("web", "cat /kept")).toBe("kept\n");
}, 300_000);

test("a reboot inside starts the guest again, on the same disk and address", async () => {
  const again = "if [ -e /again ]; then echo second; exec sleep 1000; fi; echo first; touch /again; /bin/busybox reboot -f";
  const { id } = await daemon.api<Seen>("POST", "/instances", { name: "cycle", image: localName("busybox"), vcpus: 1, overlay_size: "1GB", ...running(again) });
  await until("the second start", async () => (await daemon.logs("cycle")).join("\n") === "first\nsecond");
  expect(await site.reached("cycle", "Running")).toMatchObject({ id });
  expect(taps()).toHaveLength(1);
}, 300_000);

test("an exec ends when its instance is deleted under it, and the deletion leaves nothing", async () => {
  const { id } = await started("web");
  const exec = daemon.try(["exec", "web", "/bin/busybox", "sleep", "1000"]);
  await until("the command in the guest", async () => (await shell("web", "ps")).includes("sleep 1000"));
  await daemon.run(["rm", "-f", "web"]);
  expect((await exec).status).not.toBe(0);
  await nothingLeft(id);
  expect(existsSync(join(daemon.dataDir, "instances", id))).toBe(false);
}, 300_000);
