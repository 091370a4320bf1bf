// cp on the command line: a process against the real HTTP layer and the real agent, run as an ordinary process.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, statSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { $ } from "bun";
import { guestPath, nameOf } from "../../src/cli/cp.ts";
import { buildHarness, Guest, makeRoot } from "../guest-agent/harness.ts";
import { removeFolder, tempFolder } from "../guest-agent/machine.ts";
import { type Api, startApi, until } from "../routes/harness.ts";
import { agentFiles } from "../support/agent-files.ts";
import { runCli, startCli } from "./support.ts";

const folder = tempFolder();
const root = join(folder, "g/rootfs");
let guest: Guest;
let api: Api;
let here: string;
let count = 0;
/** A folder of the guest's for this test, and the path of it here. */
let there: string, inside: string;

beforeAll(async () => {
  const harness = await buildHarness(folder);
  mkdirSync(join(folder, "g"));
  await makeRoot(join(folder, "g"));
  guest = await Guest.start(harness, join(folder, "g"), [["arg", "sleep"], ["arg", "1000000"]]);
  api = startApi();
  Object.assign(api.instances, agentFiles(join(folder, "g")));
  const { id } = await api.client.instances.create({ name: "box", image: "busybox" });
  api.instances.change(id, { state: "Running" });
}, 120_000);
afterAll(async () => {
  await api?.stop();
  guest?.kill();
  removeFolder(folder);
});
beforeEach(() => {
  here = mkdtempSync(join(folder, "here-"));
  there = `/tmp/t${count++}`;
  inside = join(root, there);
  mkdirSync(inside);
});

const cli = (...args: string[]) => runCli(["cp", ...args], { env: { DORMOUSE_HOST: api.url }, cwd: here });
async function copied(...args: string[]): Promise<void> {
  expect(await cli(...args)).toEqual({ status: 0, out: "", err: "" });
}
const refused = async (...args: string[]) => {
  const { status, out, err } = await cli(...args);
  return `${status} ${out}${err.replace(/^dormouse: /, "").split("\n")[0]}`;
};
const list = async (path: string) => (await $`find . -printf '%P %y %m %l\n' | sort`.cwd(path).quiet().text()).trim().split("\n").map((line) => line.trim());
const names = async (path: string) => (await list(path)).slice(1).map((line) => line.split(" ")[0]);
const text = (path: string) => readFileSync(path, "utf8");

async function makeTree(path: string): Promise<void> {
  mkdirSync(join(path, "bin"), { recursive: true });
  mkdirSync(join(path, "empty-folder"));
  writeFileSync(join(path, "package.json"), '{"type":"end","final":true}');
  writeFileSync(join(path, "empty"), "");
  writeFileSync(join(path, "bin/run"), "x".repeat(300_000));
  for (const [one, mode] of [["bin/run", 0o755], ["package.json", 0o640], ["empty", 0o400], ["bin", 0o750], ["empty-folder", 0o755], ["", 0o755]] as const) chmodSync(join(path, one), mode);
  symlinkSync("../package.json", join(path, "bin/relative"));
  symlinkSync("/etc/passwd", join(path, "absolute"));
  utimesSync(join(path, "bin/run"), 1_234_567_890, 1_234_567_890);
}

describe("a tree", () => {
  test("goes in and comes out as it was: modes, symlinks, times, bytes", async () => {
    await makeTree(join(here, "tree"));
    const before = await list(join(here, "tree"));
    await copied("tree", `box:${there}`);
    expect(await list(join(inside, "tree"))).toEqual(before);
    await copied(`box:${there}/tree`, "back");
    expect(await list(join(here, "back"))).toEqual(before);
    for (const path of ["package.json", "bin/run"]) expect(text(join(here, "back", path))).toBe(text(join(here, "tree", path)));
    expect([join(inside, "tree"), join(here, "back")].map((path) => statSync(join(path, "bin/run")).mtimeMs)).toEqual([1_234_567_890_000, 1_234_567_890_000]);
    expect([statSync(join(inside, "tree/empty")).uid, readdirSync(inside)]).toEqual([0, ["tree"]]);
  });
  test("docker cp's rules, into the guest", async () => {
    mkdirSync(join(here, "d"));
    writeFileSync(join(here, "d/f"), "f");
    await copied("d/f", `box:${there}/new`);
    await copied("d/f", `box:${there}`);
    await copied("d", `box:${there}/as`);
    await copied("d", `box:${there}/as/`);
    await copied("d/.", `box:${there}/as`);
    expect(await names(inside)).toEqual(["as", "as/d", "as/d/f", "as/f", "f", "new"]);
  });
  test("docker cp's rules, out of the guest", async () => {
    mkdirSync(join(inside, "d"));
    writeFileSync(join(inside, "d/f"), "f");
    mkdirSync(join(here, "into"));
    await copied(`box:${there}/d/f`, "new");
    await copied(`box:${there}/d/f`, "into");
    await copied(`box:${there}/d`, "into/");
    await copied(`box:${there}/d`, "as/");
    await copied(`box:${there}/d/.`, "as");
    await copied(`box:${there.slice(1)}/d/f`, "new");
    expect(await names(here)).toEqual(["as", "as/f", "into", "into/d", "into/d/f", "into/f", "new"]);
  });
});

test("a symlink is copied as one, and what it leads to with -L", async () => {
  writeFileSync(join(here, "f"), "f");
  symlinkSync("f", join(here, "l"));
  await copied("l", `box:${there}`);
  await copied("-L", "l", `box:${there}/followed`);
  expect([readlinkSync(join(inside, "l")), text(join(inside, "followed"))]).toEqual(["f", "f"]);
  symlinkSync("followed", join(inside, "m"));
  await copied(`box:${there}/m`, ".");
  await copied("-L", `box:${there}/m`, "n");
  expect([readlinkSync(join(here, "m")), text(join(here, "n"))]).toEqual(["followed", "f"]);
});

test("what is there is replaced, a symlink in a tree and not what it leads to", async () => {
  writeFileSync(join(inside, "f"), "new");
  writeFileSync(join(here, "f"), "old");
  writeFileSync(join(here, "precious"), "precious");
  mkdirSync(join(here, "d"));
  symlinkSync("../precious", join(here, "d/f"));
  await copied(`box:${there}/f`, "f");
  await copied(`box:${there}/.`, "d");
  expect([text(join(here, "f")), text(join(here, "d/f")), lstatSync(join(here, "d/f")).isFile(), text(join(here, "precious"))]).toEqual(["new", "new", true, "precious"]);
  // The destination itself may be a symlink: it was named here.
  symlinkSync("precious", join(here, "l"));
  await copied(`box:${there}/f`, "l");
  expect([text(join(here, "precious")), readlinkSync(join(here, "l"))]).toEqual(["new", "precious"]);
});

test("each mistake has its words", async () => {
  writeFileSync(join(here, "f"), "f");
  mkdirSync(join(here, "d"));
  writeFileSync(join(inside, "f"), "f");
  await $`mkfifo ${here}/pipe ${inside}/pipe`.quiet();
  expect(await refused("f", "g")).toBe("2 Cannot copy: neither side is INSTANCE:PATH");
  expect(await refused("box:/a", "box:/b")).toBe("2 Cannot copy from one instance to another: copy to here first");
  expect(await refused(":/a", "b")).toStartWith('2 Cannot use ":/a": it is not INSTANCE:PATH');
  expect(await refused("none:/a", "b")).toContain("1 Cannot find instance none");
  expect(await refused("missing", `box:${there}`)).toStartWith("1 Cannot read missing: no such file or directory");
  expect(await refused("pipe", `box:${there}`)).toBe("1 Cannot copy pipe: it is a FIFO");
  expect(await refused("f", `box:${there}/no/such`)).toBe(`1 Cannot write ${there}/no/such: the folder ${there}/no does not exist`);
  expect(await refused("f", `box:${there}/f/x`)).toBe(`1 Cannot write ${there}/f/x: ${there}/f is not a folder`);
  expect(await refused("d", `box:${there}/f`)).toBe(`1 Cannot create the folder ${there}/f: a file of that name is there`);
  expect(await refused(`box:${there}/missing`, ".")).toBe(`1 Cannot read ${there}/missing: No such file or directory`);
  expect(await refused(`box:${there}/pipe`, ".")).toBe(`1 Cannot copy ${there}/pipe: it is a FIFO`);
  expect(await refused(`box:${there}/f`, "no/such")).toBe("1 Cannot copy to no/such: there is no folder no");
  expect(await refused(`box:${there}/f`, "nosuch/")).toBe("1 Cannot copy to nosuch/: there is no such folder");
  expect(await refused(`box:${there}`, "f")).toBe("1 Cannot copy a folder to f: it is a file");
  expect(await refused(`box:${there}/f`, "pipe")).toBe("1 Cannot write pipe: it is a FIFO");
  expect(await refused(`box:${there}/f`, "/dev/null")).toBe("1 Cannot write /dev/null: it is a device");
  const { id } = await api.client.instances.get("box");
  api.instances.change(id, { state: "Stopped" });
  expect(await refused(`box:${there}/f`, "g")).toBe("1 Cannot copy files of instance box: it is Stopped, not Running; start it");
  api.instances.change(id, { state: "Running" });
  expect(readdirSync(here).toSorted()).toEqual(["d", "f", "pipe"]);
});

test("what can't be copied is left out, and named; --json says how much was copied", async () => {
  mkdirSync(join(here, "d"));
  writeFileSync(join(here, "d/f"), "12345");
  await $`mkfifo ${here}/d/pipe`.quiet();
  const into = await cli("--json", "d", `box:${there}/`);
  expect([JSON.parse(into.out), into.err]).toEqual([{ bytes: 5, skipped: ["pipe"] }, "dormouse: left out pipe: it is a FIFO\n"]);
  await $`mkfifo ${inside}/d/pipe`.quiet();
  const out = await cli("--json", `box:${there}/d`, "back");
  expect([JSON.parse(out.out), out.err, readdirSync(join(here, "back"))]).toEqual([{ bytes: 5, skipped: ["pipe"] }, "dormouse: left out pipe: it is a FIFO\n", ["f"]]);
});

test("a name that is not UTF-8 is an error, and not another name", async () => {
  await $`sh -c ${"touch \"$1/$(printf 'a\\377')\""} sh ${inside}`.quiet();
  const { status, err } = await cli(`box:${there}`, "back");
  expect(status).toBe(1);
  expect(err).toContain("is not UTF-8");
});

test("many files, and one that is larger than all buffers", async () => {
  mkdirSync(join(here, "many"));
  for (let i = 0; i < 500; i++) writeFileSync(join(here, "many", `f${i}`), String(i));
  await $`head -c 128M /dev/zero > ${here}/many/large`.quiet();
  await copied("many", `box:${there}`);
  expect([readdirSync(join(inside, "many")).length, statSync(join(inside, "many/large")).size]).toEqual([501, 128 * 2 ** 20]);
  await copied(`box:${there}/many`, "back");
  expect(await $`diff -r ${here}/many ${here}/back`.quiet().text()).toBe("");
});

test("ctrl-c leaves nothing half-made, on either side", async () => {
  await $`head -c 256M /dev/zero > ${inside}/large`.quiet();
  const half = (path: string) => readdirSync(path).filter((name) => name.startsWith(".dormouse-cp-"));
  const interrupted = async (args: string[], at: string): Promise<number> => {
    const { child, ended } = startCli(["cp", ...args], { env: { DORMOUSE_HOST: api.url }, cwd: here });
    await until(() => half(at).length > 0);
    child.kill("SIGINT");
    const { status } = await ended;
    await until(() => half(at).length === 0);
    return status;
  };
  expect(await interrupted([`box:${there}/large`, "back"], here)).toBe(130);
  expect(readdirSync(here)).toEqual([]);
  expect(await interrupted([join(inside, "large"), `box:${there}/copy`], inside)).not.toBe(0);
  expect(readdirSync(inside)).toEqual(["large"]);
});

test("- is a tar stream that tar reads", async () => {
  await makeTree(join(inside, "tree"));
  const deep = join(inside, "tree", "n".repeat(120), "m".repeat(100));
  mkdirSync(deep, { recursive: true });
  writeFileSync(join(deep, "ünïcode"), "text");
  symlinkSync("t".repeat(150), join(deep, "long"));
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "../../src/main.ts"), "cp", `box:${there}/tree`, "-"], { stdout: Bun.file(join(here, "x.tar")), env: { ...process.env, DORMOUSE_HOST: api.url } });
  expect(await child.exited).toBe(0);
  await $`tar -xpf x.tar`.cwd(here).quiet();
  expect(await list(join(here, "tree"))).toEqual(await list(join(inside, "tree")));
  expect(await $`diff -r --no-dereference ${here}/tree ${inside}/tree`.quiet().text()).toBe("");
});

test("a tar stream is unpacked into a folder that is there: owners, modes and times, folders that it leaves out, nothing that climbs", async () => {
  await makeTree(join(here, "tree"));
  await $`chown 1000:50 tree/bin/run && tar -cf x.tar tree/bin tree/package.json tree/absolute && tar -cf climbs.tar -P tree/../tree/empty`.cwd(here).quiet();
  const unpack = (tar: string | Uint8Array, to: string) => runCli(["cp", "-", `box:${to}`], { env: { DORMOUSE_HOST: api.url }, input: tar });
  const archive = readFileSync(join(here, "x.tar"));
  for (const bytes of [archive, gzipSync(archive), zstdCompressSync(archive)]) expect(await unpack(bytes, there)).toEqual({ status: 0, out: "", err: "" });
  expect(await names(inside)).toEqual(["tree", "tree/absolute", "tree/bin", "tree/bin/relative", "tree/bin/run", "tree/package.json"]);
  const made = statSync(join(inside, "tree/bin/run"));
  expect([made.uid, made.gid, made.mode & 0o777, made.mtimeMs, readlinkSync(join(inside, "tree/absolute")), text(join(inside, "tree/bin/run"))]).toEqual([1000, 50, 0o755, 1_234_567_890_000, "/etc/passwd", "x".repeat(300_000)]);
  expect(await unpack(archive, `${there}/missing`)).toMatchObject({ status: 1, err: `dormouse: Cannot unpack to box:${there}/missing: there is no such folder; make it first\n` });
  expect((await unpack(readFileSync(join(here, "climbs.tar")), there)).err).toContain("climbs out of its folder");
  expect((await unpack(archive.subarray(0, 200_000), there)).err).toContain("truncated");
  expect((await unpack(gzipSync(archive).subarray(0, 200), there)).err).toMatch(/Cannot read the tar stream: its gzip data is damaged or cut off/);
  expect((await unpack("BZh91AY&SY", there)).err).toContain("it is compressed with bzip2");
  for (const text of ["no tar at all", "no tar at all".repeat(100)]) expect((await unpack(text, there)).err).toContain("not a tar archive");
});

test("paths on either side", () => {
  expect([guestPath("box:/etc"), guestPath("box:etc:x"), guestPath("./a:b"), guestPath("/a:b"), guestPath("plain"), guestPath("-")]).toEqual([{ instance: "box", path: "/etc" }, { instance: "box", path: "etc:x" }, null, null, null, null]);
  expect(["/a/b", "/a/b/", "a", "/a/.", ".", "..", "/", "/a/..", "/a/.x", "..."].map(nameOf)).toEqual(["b", "b", "a", null, null, null, null, null, ".x", "..."]);
});
