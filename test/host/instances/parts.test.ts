// The parts without a process: argument rules, guest configuration, archive, states, lanes, writable disks.
import { afterAll, expect, test } from "bun:test";
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cloneFile } from "../../../src/ffi/sparse.ts";
import { argvOf, envOf, isSystemInit } from "../../../src/host/instances/argv.ts";
import { cpio } from "../../../src/host/instances/cpio.ts";
import { configPairs } from "../../../src/host/instances/guest-config.ts";
import { Lanes } from "../../../src/host/instances/lanes.ts";
import { INSTANCE_STATES, type Instance } from "../../../src/host/instances/service.ts";
import { canHop, mayReach } from "../../../src/host/instances/states.ts";
import { UpperDisks } from "../../../src/host/instances/upper.ts";
import { imageConfig, request } from "./fixture.ts";

const root = mkdtempSync(join(tmpdir(), "dormouse-parts-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

test("argvOf() merges entrypoint and cmd as Docker does", () => {
  const image = { entrypoint: ["e"], cmd: ["c"] };
  const cases: [string[] | null, string[] | null, string[]][] = [
    [null, null, ["e", "c"]], [null, ["x"], ["e", "x"]], [null, [], ["e"]], [["y"], null, ["y"]], [["y"], ["x"], ["y", "x"]], [[], ["x"], ["x"]], [[], null, []],
  ];
  for (const [entrypoint, cmd, argv] of cases) expect(argvOf({ entrypoint, cmd }, image)).toEqual(argv);
  expect(argvOf({ entrypoint: null, cmd: null }, { entrypoint: null, cmd: null })).toEqual([]);
});

test("isSystemInit() knows the programs that want to be PID 1 of a system", () => {
  expect([["/sbin/init"], ["/lib/systemd/systemd", "--unit=x"], ["systemd"], ["init"], ["/usr/bin/tini"], []].map(isSystemInit)).toEqual([true, true, true, false, false, false]);
});

test("envOf() lets the instance's variables replace the image's", () => {
  expect(envOf({ ...imageConfig, env: ["A=1", "B=x=y", "A=2", "=bad", "C"] }, { B: "z", D: "" })).toEqual(["A=2", "B=z", "D="]);
});

const instance = (change: Partial<Instance>): Instance => ({ ...request("web", null), ...change }) as Instance;

test("configPairs() says all that the guest's init asks for, and nothing else", () => {
  const lease = { instanceId: "i", ip: "10.88.0.2", mac: "02:00:00:00:00:02", gateway: "10.88.0.1", tap: "t" };
  expect(configPairs(instance({ cmd: ["nginx", ""], env: { A: "b" }, tty: true, openStdin: true }), imageConfig, { lease, resolvers: ["192.0.2.1", "192.0.2.2"] })).toEqual([
    ["mode", "workload"], ["arg", "nginx"], ["arg", ""], ["env", "PATH=/bin"], ["env", "MODE=image"], ["env", "A=b"], ["cwd", "/srv"], ["user", "www"], ["tty", "1"], ["stdin", "1"],
    ["stop_signal", "SIGQUIT"], ["hostname", "web"], ["ip", "10.88.0.2"], ["gateway", "10.88.0.1"], ["dns", "192.0.2.1"], ["dns", "192.0.2.2"], ["disk.root", "vda"], ["disk.upper", "vdb"], ["volume", "/data"],
  ]);
  const bare = configPairs(instance({ entrypoint: ["/sbin/init"] }), { ...imageConfig, workingDir: null, user: null, stopSignal: null, volumes: [], env: [] }, null);
  expect(bare).toEqual([["mode", "systemd"], ["arg", "/sbin/init"], ["hostname", "web"], ["disk.root", "vda"], ["disk.upper", "vdb"]]);
});

test("every key of configPairs() is one of src/guest/README.md", () => {
  const documented = [...readFileSync(join(import.meta.dir, "../../../src/guest/README.md"), "utf8").matchAll(/^\| (.*?) \|/gm)].flatMap(([, cell]) => [...cell!.matchAll(/`([^`]+)`/g)].map(([, key]) => key));
  const used = configPairs(instance({ tty: true, openStdin: true, env: { A: "b" } }), imageConfig, { lease: { instanceId: "", ip: "", mac: "", gateway: "", tap: "" }, resolvers: ["x"] }).map(([key]) => key);
  expect(used.filter((key) => !documented.includes(key))).toEqual([]);
});

test("cpio() is read by cpio(1)", async () => {
  const archive = cpio([{ name: "dormouse", mode: 0o040700 }, { name: "dormouse/config", mode: 0o100600, data: Buffer.from("key\0value\0") }]);
  expect(archive.length % 4).toBe(0);
  const dir = mkdtempSync(join(root, "cpio-"));
  const child = Bun.spawn(["cpio", "-i", "--quiet"], { cwd: dir, stdin: archive, stderr: "inherit" });
  expect(await child.exited).toBe(0);
  expect(readFileSync(join(dir, "dormouse/config"), "latin1")).toBe("key\0value\0");
  expect([statSync(join(dir, "dormouse")).mode, statSync(join(dir, "dormouse/config")).mode]).toEqual([0o040700, 0o100600]);
});

test("states: nothing leaves Stopped but a start and a snapshot that is given back, and only Unknown is reached from everywhere", () => {
  expect(INSTANCE_STATES.filter((state) => canHop("Stopped", state))).toEqual(["Initializing", "Standby", "Unknown"]);
  for (const state of INSTANCE_STATES) expect(canHop(state, "Unknown")).toBe(true);
  expect([mayReach("Created", "Running"), mayReach("Stopped", "Running"), mayReach("Running", "Created"), mayReach("Running", "Stopped"), mayReach("Running", "Initializing")]).toEqual([true, false, false, true, false]);
});

test("Lanes runs one verb after another, joins the last one, and goes on after a failure", async () => {
  const lanes = new Lanes();
  const log: string[] = [];
  const verb = (name: string) => async () => {
    log.push(`${name} begins`);
    await Promise.resolve();
    log.push(`${name} ends`);
    if (name === "bad") throw new Error(name);
    return name;
  };
  const bad = lanes.run("a", "bad", verb("bad"));
  const answers = [lanes.run("a", "start", verb("start")), lanes.run("a", "start", verb("never")), lanes.run("a", "stop", verb("stop")), lanes.run("a", "start", verb("again"))];
  expect(lanes.verbs("a")).toEqual(["bad", "start", "stop", "start"]);
  await expect(bad).rejects.toThrow("bad");
  expect(await Promise.all(answers)).toEqual(["start", "start", "stop", "again"]);
  expect(log).toEqual(["bad", "start", "stop", "again"].flatMap((name) => [`${name} begins`, `${name} ends`]));
  await lanes.allIdle();
  expect(lanes.verbs("a")).toEqual([]);
});

const MIB = 2 ** 20;
const allocated = (path: string) => statSync(path).blocks * 512;

test("UpperDisks makes sound, sparse ext4 images, one run of mkfs a size", async () => {
  const templates = join(root, "templates");
  const uppers = new UpperDisks(templates);
  const paths = ["a", "b", "c"].map((name) => join(root, "uppers", name, "upper.ext4"));
  const made = await Promise.all([uppers.ensure(paths[0]!, 10 * 1024 * MIB), uppers.ensure(paths[1]!, 10 * 1024 * MIB), uppers.ensure(paths[2]!, 64 * MIB)]);
  made.forEach((result) => result._unsafeUnwrap());
  expect(readdirSync(templates)).toHaveLength(2);
  expect(paths.map((path) => statSync(path).size)).toEqual([10 * 1024 * MIB, 10 * 1024 * MIB, 64 * MIB]);
  for (const path of paths) {
    expect(allocated(path)).toBeLessThan(8 * MIB);
    expect(await Bun.spawn(["e2fsck", "-fn", path], { stdout: "ignore", stderr: "ignore" }).exited).toBe(0);
  }
  writeFileSync(paths[2]!, "used");
  (await uppers.ensure(paths[2]!, 64 * MIB))._unsafeUnwrap();
  expect(readFileSync(paths[2]!, "utf8")).toBe("used");
});

test("UpperDisks says what failed, and leaves nothing half-made", async () => {
  const folder = join(root, "failing");
  const missing = await new UpperDisks(join(folder, "t"), "mkfs.nonesuch").ensure(join(folder, "upper.ext4"), 64 * MIB);
  expect(missing._unsafeUnwrapErr()).toMatchObject({ code: "host.storage", message: expect.stringContaining("install e2fsprogs") });
  const refused = await new UpperDisks(join(folder, "t")).ensure(join(folder, "upper.ext4"), 4096);
  expect(refused._unsafeUnwrapErr()).toMatchObject({ code: "host.storage", message: expect.stringContaining("mkfs.ext4") });
  expect(readdirSync(join(folder, "t"))).toEqual([]);
  expect(existsSync(join(folder, "upper.ext4"))).toBe(false);
});

test("UpperDisks starts over where a killed daemon left half a copy", async () => {
  const path = join(root, "half", "upper.ext4");
  const uppers = new UpperDisks(join(root, "templates"));
  (await uppers.ensure(path, 64 * MIB))._unsafeUnwrap();
  rmSync(path);
  writeFileSync(`${path}.part`, "half");
  (await uppers.ensure(path, 64 * MIB))._unsafeUnwrap();
  expect(existsSync(`${path}.part`)).toBe(false);
  expect(statSync(path).size).toBe(64 * MIB);
});

test("cloneFile() keeps content and holes", () => {
  const [from, to] = [join(root, "sparse"), join(root, "clone")];
  writeFileSync(from, "head");
  truncateSync(from, 512 * MIB);
  const fd = openSync(from, "r+");
  writeSync(fd, "middle", 256 * MIB);
  closeSync(fd);
  cloneFile(from, to);
  expect(statSync(to).size).toBe(512 * MIB);
  expect(allocated(to)).toBeLessThanOrEqual(64 * 1024);
  expect(Bun.file(to).slice(256 * MIB, 256 * MIB + 6).text()).resolves.toBe("middle");
  expect(() => cloneFile(from, to)).toThrow("EEXIST");
});
