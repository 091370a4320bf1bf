// The agent over vsock, in a machine of our own monitor.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import type { Pair } from "../../src/pairs.ts";
import { CASE_CONFIG, CASE_FILES, execCases } from "../guest-agent/exec-cases.ts";
import { USERS } from "../guest-agent/harness.ts";
import { makeDisk, makeRootfs, removeFolder, tempFolder, until } from "../guest-agent/machine.ts";
import { Vm } from "../guest-agent/vm.ts";

const folder = tempFolder();
const LIMIT = 300_000;
let image = "";
let shared: Vm;
const vms: Vm[] = [];

async function boot(config: readonly Pair[]): Promise<Vm> {
  const own = mkdtempSync(join(folder, "vm-"));
  const vm = await Vm.boot({ folder: own, image, disk: await makeDisk(own), config: [...config, ["disk.upper", "vdb"]] });
  vms.push(vm);
  return vm;
}

beforeAll(async () => {
  image = await makeRootfs(folder, { ...USERS, ...CASE_FILES }, {});
  shared = await boot(CASE_CONFIG);
  await shared.state("running");
}, 600_000);
afterAll(async () => {
  await Promise.all(vms.map((vm) => vm.close()));
  removeFolder(folder);
});

execCases(() => shared, LIMIT);

test("execs are in the workload's cgroup and can't reach the host's channels", async () => {
  const session = await shared.sh("cat /proc/self/cgroup; echo x > /dev/hvc0");
  expect(await session.code()).toBe(1);
  expect(session.stdout).toBe("0::/\n");
  expect(session.stderr).toContain("Operation not permitted");
}, LIMIT);

test("ATTACH to a terminal over vsock: replay, input, size, the end", async () => {
  const vm = await boot([["arg", "sh"], ["arg", "-c"], ["arg", "echo hello; stty size; read line; echo got $line; stty size; exit 6"], ["tty", "1"], ["rows", "30"], ["cols", "90"]]);
  await vm.state("running");
  const session = await vm.attach();
  await session.until(() => session.stdout.includes("30 90"));
  session.resize(44, 111);
  session.stdin("word\n");
  expect(await session.code()).toBe(6);
  expect(session.stdout.replaceAll("\r", "")).toBe("hello\n30 90\nword\ngot word\n44 111\n");
  const end = await vm.state("ended");
  expect(end).toMatchObject({ reason: "exited", exitCode: 6, exitMessage: "exited with code 6" });
  expect(vm.output).toBe("hello\r\n30 90\r\nword\r\ngot word\r\n44 111\r\n");
}, LIMIT);

test("shutdown ends execs and the machine, in order", async () => {
  const vm = await boot([["arg", "sh"], ["arg", "-c"], ["arg", "trap 'echo bye; exit 21' TERM; echo ready; while :; do sleep 0.1; done"]]);
  // PID 1 of a namespace is deaf to a signal until it has a handler.
  await until(() => vm.output.includes("ready"), () => vm.output);
  const exec = await vm.exec(["cat"]);
  await exec.until(() => exec.started);
  await vm.shutdown(60_000);
  expect(await exec.code()).toBe(137);
  expect(await vm.state("ended")).toMatchObject({ reason: "exited", exitCode: 21 });
  expect(vm.output).toBe("ready\nbye\n");
}, LIMIT);

test("execs find room beside a workload that divides its cgroup", async () => {
  const vm = await boot([["arg", "sh"], ["arg", "-c"], ["arg",
    "mkdir /sys/fs/cgroup/own && echo 1 > /sys/fs/cgroup/own/cgroup.procs && echo +memory > /sys/fs/cgroup/cgroup.subtree_control && echo divided; exec sleep 1000000"]]);
  await vm.state("running");
  await until(() => vm.output.includes("divided"), () => vm.output);
  const inside = await vm.sh("cat /proc/self/cgroup");
  expect(await inside.code()).toBe(0);
  expect(inside.stdout).toBe("0::/own\n");
}, LIMIT);
