// The parts without a process: argument rules, guest configuration, archive, states, lanes.
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { argvOf, envOf, isSystemInit } from "../../../src/host/instances/argv.ts";
import { cpio } from "../../../src/host/instances/cpio.ts";
import { configPairs } from "../../../src/host/instances/guest-config.ts";
import { Lanes } from "../../../src/host/instances/lanes.ts";
import { INSTANCE_STATES, type Instance } from "../../../src/host/instances/service.ts";
import { canHop, mayReach } from "../../../src/host/instances/states.ts";
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
  const left: string[][] = [];
  const unsubscribe = lanes.subscribe((key) => left.push(lanes.verbs(key)));
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
  expect(left).toEqual([["start", "stop", "start"], ["stop", "start"], ["start"], []]);
  unsubscribe();
  await lanes.run("b", "stop", verb("stop"));
  await lanes.allIdle();
  expect(left).toHaveLength(4);
});
