// COPY_IN, COPY_OUT and STAT of the agent (src/guest/transfer*.c), over a Unix socket.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { $ } from "bun";
import { encodeChunks } from "../../src/host/agent/frames.ts";
import { decodePairs, encodePairs, type Pair } from "../../src/pairs.ts";
import { Frame } from "../../src/vmm/protocol.ts";
import { buildHarness, Guest, makeRoot, type Session } from "./harness.ts";
import { removeFolder, tempFolder } from "./machine.ts";

const folder = tempFolder();
const root = join(folder, "g/rootfs");
let guest: Guest;

beforeAll(async () => {
  const harness = await buildHarness(folder);
  mkdirSync(join(folder, "g"));
  await makeRoot(join(folder, "g"));
  guest = await Guest.start(harness, join(folder, "g"), [["arg", "sleep"], ["arg", "1000000"], ["env", "PATH=/bin"]]);
}, 120_000);
afterAll(() => {
  guest?.kill();
  removeFolder(folder);
});

/** One word a frame: `path kind…`, `data N`, `end`, `done`. */
function words(session: Session): string[] {
  return session.frames.map(({ type, payload }) => {
    if (type === Frame.DATA) return payload.length === 0 ? "end" : `data ${payload.length}`;
    const pairs = new Map(decodePairs(payload));
    if (type === Frame.DONE) return ["done", ...pairs.values()].join(" ");
    if (type === Frame.SKIPPED) return `${pairs.get("path")}: ${pairs.get("message")}`;
    const more = pairs.get("target") ?? (pairs.has("mode") ? Number(pairs.get("mode")).toString(8) : "");
    return [pairs.get("path") || ".", pairs.get("kind"), more].filter(Boolean).join(" ");
  });
}

async function over(session: Session): Promise<string[]> {
  await session.until(() => session.closed || session.error !== null || session.frames.at(-1)?.type === Frame.DONE);
  session.hangUp();
  return session.error === null ? words(session) : [...words(session), `error ${session.error.get("message")}`];
}

async function begin(type: typeof Frame.COPY_IN | typeof Frame.COPY_OUT | typeof Frame.STAT, ...pairs: Pair[]): Promise<Session> {
  const session = await guest.session();
  session.send(type, encodePairs(pairs));
  return session;
}
const out = async (path: string, ...more: Pair[]) => over(await begin(Frame.COPY_OUT, ["path", path], ...more));
const entry = (session: Session, ...pairs: Pair[]) => session.send(Frame.ENTRY, encodePairs(pairs));
const data = (session: Session, bytes: string | Uint8Array) => encodeChunks(Frame.DATA, Buffer.from(bytes)).forEach((frame) => session.raw(frame));

async function put(path: string, bytes: string | Uint8Array, entryPairs: Pair[] = [["mode", "420"]], more: Pair[] = []): Promise<string[]> {
  const session = await begin(Frame.COPY_IN, ["path", path], ...more);
  entry(session, ["path", ""], ["kind", "file"], ...entryPairs);
  data(session, bytes);
  session.send(Frame.DATA);
  session.send(Frame.DONE);
  return over(session);
}
async function stat(path: string, ...more: Pair[]): Promise<string> {
  const session = await begin(Frame.STAT, ["path", path], ...more);
  await session.until(() => session.error !== null || session.frames.length > 0);
  session.hangUp();
  return session.error?.get("message") ?? words(session)[0]!;
}
const left = (path: string) => readdirSync(join(root, path)).filter((name) => name.startsWith(".dormouse-cp-"));

test("COPY_IN writes a file with its mode, owner and time, and says how much", async () => {
  const bytes = crypto.getRandomValues(new Uint8Array(300_000));
  expect(await put("/tmp/in.bin", bytes, [["mode", String(0o4751)], ["uid", "1000"], ["gid", "50"], ["mtime", "1234567890"]])).toEqual(["done 300000"]);
  const made = statSync(join(root, "tmp/in.bin"));
  expect(readFileSync(join(root, "tmp/in.bin")).equals(Buffer.from(bytes))).toBe(true);
  expect([made.mode & 0o7777, made.uid, made.gid, made.mtimeMs]).toEqual([0o4751, 1000, 50, 1_234_567_890_000]);
  expect(await put("/tmp/empty", "")).toEqual(["done 0"]);
  expect(statSync(join(root, "tmp/empty")).size).toBe(0);
  expect(await put("tmp/relative", "x")).toEqual(["done 1"]);
  expect(left("tmp")).toEqual([]);
});

test("COPY_IN replaces a file, keeps its owner, and writes through a symlink inside the root", async () => {
  writeFileSync(join(root, "tmp/owned"), "old");
  await $`chown 1000:50 ${root}/tmp/owned`.quiet();
  expect(await put("/tmp/owned", "new", [["mode", "384"]])).toEqual(["done 3"]);
  const made = statSync(join(root, "tmp/owned"));
  expect([readFileSync(join(root, "tmp/owned"), "utf8"), made.uid, made.gid, made.mode & 0o777]).toEqual(["new", 1000, 50, 0o600]);
  symlinkSync("/etc/linked", join(root, "tmp/link"));
  writeFileSync(join(root, "etc/linked"), "old");
  expect(await put("/tmp/link", "through")).toEqual(["done 7"]);
  expect([readFileSync(join(root, "etc/linked"), "utf8"), readlinkSync(join(root, "tmp/link"))]).toEqual(["through", "/etc/linked"]);
});

test("COPY_IN makes a tree of folders, files and symlinks", async () => {
  const session = await begin(Frame.COPY_IN, ["path", "/tmp/tree"]);
  entry(session, ["path", ""], ["kind", "dir"], ["mode", String(0o750)]);
  entry(session, ["path", "a"], ["kind", "dir"], ["mode", String(0o500)]);
  entry(session, ["path", "a/f"], ["kind", "file"], ["mode", String(0o640)]);
  data(session, "text");
  session.send(Frame.DATA);
  entry(session, ["path", "a/l"], ["kind", "link"], ["target", "/absolute/../target"]);
  entry(session, ["path", "b"], ["kind", "link"], ["target", "a/f"]);
  session.send(Frame.DONE);
  expect(await over(session)).toEqual(["done 4"]);
  const modes = ["", "a", "a/f"].map((path) => statSync(join(root, "tmp/tree", path)).mode & 0o777);
  expect([modes, readlinkSync(join(root, "tmp/tree/a/l")), readFileSync(join(root, "tmp/tree/b"), "utf8")]).toEqual([[0o750, 0o500, 0o640], "/absolute/../target", "text"]);
  expect(left("tmp/tree")).toEqual([]);
});

test("COPY_IN says what is in its way", async () => {
  writeFileSync(join(root, "tmp/file"), "");
  mkdirSync(join(root, "tmp/folder"), { mode: 0o700 });
  await $`mkfifo ${root}/tmp/fifo`.quiet();
  symlinkSync("nowhere/at/all", join(root, "tmp/dangling"));
  expect(await put("/tmp/no/such/x", "x")).toEqual(["error Cannot write /tmp/no/such/x: the folder /tmp/no/such does not exist"]);
  expect(await put("/tmp/file/x", "x")).toEqual(["error Cannot write /tmp/file/x: /tmp/file is not a folder"]);
  expect(await put("/tmp/folder", "x")).toEqual(["error Cannot write the file /tmp/folder: a folder of that name is there"]);
  expect(await put("/", "x")).toEqual(["error Cannot write the file /: a folder of that name is there"]);
  expect(await put("/tmp/fifo", "x")).toEqual(["error Cannot write /tmp/fifo: it is a FIFO"]);
  expect(await put("/dev/null", "x")).toEqual(["error Cannot write /dev/null: it is a device"]);
  expect((await put("/tmp/dangling", "x"))[0]).toContain("following its symlink: No such file");
  for (const path of ["../x", "a/../../x", "/etc/x", ".."]) {
    const session = await begin(Frame.COPY_IN, ["path", "/tmp/folder"]);
    entry(session, ["path", path], ["kind", "file"]);
    expect(await over(session)).toEqual([`error Cannot write ${path}: it is not below its destination`]);
  }
  const folderOverFile = await begin(Frame.COPY_IN, ["path", "/tmp/file"]);
  entry(folderOverFile, ["path", ""], ["kind", "dir"]);
  expect(await over(folderOverFile)).toEqual(["error Cannot create the folder /tmp/file: a file of that name is there"]);
  expect(statSync(join(root, "tmp/folder")).mode & 0o777).toBe(0o700);
});

test("COPY_IN makes the folders above where it is asked to, and no others", async () => {
  expect(await put("/tmp/made/for/it", "x", [], [["parents", "1"]])).toEqual(["done 1"]);
  expect([statSync(join(root, "tmp/made/for")).mode & 0o777, statSync(join(root, "tmp/made/for/it")).mode & 0o777]).toEqual([0o755, 0o644]);
});

test("a full disk is an error, and leaves nothing", async () => {
  const session = await guest.sh("mkdir -p /tmp/small && mount -t tmpfs -o size=256k none /tmp/small && echo old > /tmp/small/x");
  expect(await session.code()).toBe(0);
  expect(await put("/tmp/small/x", new Uint8Array(4_000_000))).toEqual(["error Cannot write /tmp/small/x: No space left on device"]);
  const after = await guest.sh("cat /tmp/small/x; ls -A /tmp/small");
  await after.code();
  expect(after.stdout).toBe("old\nx\n");
});

test("a hang-up in the middle leaves what was there, and no process", async () => {
  writeFileSync(join(root, "tmp/kept"), "whole");
  const session = await begin(Frame.COPY_IN, ["path", "/tmp/kept"]);
  entry(session, ["path", ""], ["kind", "file"]);
  data(session, new Uint8Array(200_000));
  await guest.until(() => left("tmp").length === 1);
  session.hangUp();
  await guest.until(() => left("tmp").length === 0);
  expect(readFileSync(join(root, "tmp/kept"), "utf8")).toBe("whole");
  await noChildren(1);
});

const children = async () => (await $`ps --ppid ${guest.process.pid} -o pid=`.nothrow().quiet().text()).trim().split("\n").filter(Boolean).length;
/** The workload alone. */
async function noChildren(wanted: number): Promise<void> {
  while ((await children()) > wanted) await Bun.sleep(20);
}

test("COPY_OUT sends a tree, folders first, and says what it leaves out", async () => {
  const tree = join(root, "tmp/out");
  mkdirSync(join(tree, "d"), { recursive: true });
  writeFileSync(join(tree, "d/f"), "x".repeat(70_000));
  chmodSync(join(tree, "d/f"), 0o4755);
  symlinkSync("/etc/passwd", join(tree, "d/l"));
  await $`mkfifo ${tree}/d/pipe && chmod 755 ${tree} ${tree}/d`.quiet();
  const all = await out("/tmp/out");
  expect(all.slice(0, 2)).toEqual([". dir 755", "d dir 755"]);
  expect(all.at(-1)).toBe("done");
  expect(all.slice(2, -1).toSorted()).toEqual(["d/f file 4755", "d/l link /etc/passwd", "d/pipe: it is a FIFO", "data 4464", "data 65536", "end"]);
  expect(await out("/tmp/out/d/f")).toEqual([". file 4755", "data 65536", "data 4464", "end", "done"]);
  expect(await out("/tmp/out/d/l")).toEqual([". link /etc/passwd", "done"]);
  expect(await out("/tmp/out/d/.")).toContain("f file 4755");
});

test("COPY_OUT follows symlinks as it is told, inside the root, and not round in circles", async () => {
  const tree = join(root, "tmp/follow");
  mkdirSync(join(tree, "d"), { recursive: true });
  symlinkSync("/etc/passwd", join(tree, "d/l"));
  symlinkSync("..", join(tree, "d/up"));
  symlinkSync("/nowhere", join(tree, "d/gone"));
  symlinkSync("follow", join(root, "tmp/to-follow"));
  expect(await out("/tmp/to-follow")).toEqual([". link follow", "done"]);
  expect((await out("/tmp/to-follow", ["follow", "source"])).slice(2, -1).toSorted()).toEqual(["d/gone link /nowhere", "d/l link /etc/passwd", "d/up link .."]);
  const passwd = lstatSync(join(root, "etc/passwd")).size;
  expect((await out("/tmp/follow", ["follow", "all"])).slice(2, -1).toSorted()).toEqual(["d/gone: its symlink leads nowhere", "d/l file 755", "d/up: its symlink leads back to a folder that it is in", `data ${passwd}`, "end"].toSorted());
  symlinkSync("../../../../../../etc/passwd", join(root, "tmp/climb"));
  expect(await out("/tmp/climb", ["follow", "all"])).toEqual([". file 755", `data ${passwd}`, "end", "done"]);
});

test("COPY_OUT says why not", async () => {
  expect(await out("/no/such")).toEqual(["error Cannot read /no/such: No such file or directory"]);
  expect(await out("/etc/passwd/x")).toEqual(["error Cannot read /etc/passwd/x: Not a directory"]);
  expect(await out("/dev/null")).toEqual(["error Cannot copy /dev/null: it is a device"]);
  expect(await out("/tmp/fifo")).toEqual(["error Cannot copy /tmp/fifo: it is a FIFO"]);
  expect(await out("/proc")).toEqual(["error Cannot copy /proc: it is of the kernel's own file systems"]);
  expect((await out("/proc/version"))[0]).toBe(". file 444");
  expect(await out("/")).toContain("proc: it is of the kernel's own file systems");
});

test("a slow reader stops COPY_OUT, and gets all; a hang-up ends it", async () => {
  const size = 20_000_000;
  writeFileSync(join(root, "tmp/large"), Buffer.alloc(size, "0123456789abcdef"));
  const session = await begin(Frame.COPY_OUT, ["path", "/tmp/large"]);
  session.pause();
  const stopped = await begin(Frame.COPY_OUT, ["path", "/tmp/large"]);
  stopped.pause();
  expect(await stat("/tmp/large")).toBe(". file 644"); // others go on meanwhile
  stopped.hangUp();
  session.resume();
  await session.until(() => session.frames.at(-1)?.type === Frame.DONE);
  expect(session.frames.filter(({ type }) => type === Frame.DATA).reduce((sum, { payload }) => sum + payload.length, 0)).toBe(size);
  session.hangUp();
  await noChildren(1);
});

test("STAT tells what is there, and that nothing is", async () => {
  symlinkSync("passwd", join(root, "etc/link"));
  expect(await stat("/etc/passwd")).toBe(". file 755");
  expect(await stat("/tmp")).toBe(". dir 1777");
  expect(await stat("/etc/link")).toBe(". link passwd");
  expect(await stat("/etc/link", ["follow", "source"])).toBe(". file 755");
  expect(await stat("/dev/null")).toBe(". other 666");
  expect([await stat("/no/such"), await stat("/etc/passwd/x")]).toEqual([". none", ". none"]);
  expect(await stat(`/${"x".repeat(300)}`)).toContain("name too long");
  expect(await stat("")).toBe("Cannot read files: no path was given");
});

test("frames out of turn end the copy with a word", async () => {
  const early = await begin(Frame.COPY_IN, ["path", "/tmp/x"]);
  data(early, "x");
  expect(await over(early)).toEqual([`error Cannot use frame ${Frame.DATA} between files`]);
  const nested = await begin(Frame.COPY_IN, ["path", "/tmp/x"]);
  entry(nested, ["path", ""], ["kind", "file"]);
  nested.send(Frame.DONE);
  expect(await over(nested)).toEqual([`error Cannot use frame ${Frame.DONE} in the middle of a file`]);
  const unknown = await begin(Frame.COPY_IN, ["path", "/tmp/x"]);
  entry(unknown, ["path", ""], ["kind", "socket"]);
  expect((await over(unknown))[0]).toContain('no kind "socket"');
  expect(existsSync(join(root, "tmp/x"))).toBe(false);
});

test("no descriptor of init is left in a copy's process but the connection's", async () => {
  await noChildren(1); // those of earlier copies are still ending
  const session = await begin(Frame.COPY_IN, ["path", "/tmp/fds"]);
  entry(session, ["path", ""], ["kind", "file"]);
  data(session, "x");
  await guest.until(() => left("tmp").length === 1);
  const [name] = left("tmp");
  const pids = (await $`ps --ppid ${guest.process.pid} -o pid=`.quiet().text()).trim().split(/\s+/).map(Number);
  const open = (pid: number) => readdirSync(`/proc/${pid}/fd`).filter((fd) => Number(fd) > 2).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/:.*/, ""));
  const copying = pids.map(open).find((fds) => fds.some((target) => target.endsWith(name!)))!;
  expect(copying.length).toBe(3); // the connection, the file, its folder
  session.hangUp();
});
