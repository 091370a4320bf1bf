// What the other tests in this folder count on: they run on a KVM that can run kernels, in the testbed or on the metal.
import { expect, test } from "bun:test";
import { mkdirSync, readFileSync, rmdirSync, statfsSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { probeKvm } from "../../src/host/doctor/probe.ts";
import { command } from "../support/command.ts";
import { TempDir } from "../support/paths.ts";

test("KVM runs a guest at ring 0", () => {
  expect(probeKvm().able).toBe(true);
});

const inTestbed = process.env["DORMOUSE_TESTBED"] === "1";

test.if(inTestbed)("probeKvm() sees that the testbed's KVM does not hear of XSETBV", () => {
  expect(probeKvm()).toEqual({ able: true, xsave: false });
});

test.if(inTestbed)("the testbed has cgroup v2 with its controllers, TUN, and a disk for state and one that can reflink", async () => {
  const controllers = readFileSync("/sys/fs/cgroup/cgroup.subtree_control", "utf8").trim().split(" ").sort();
  expect(controllers).toEqual(["cpu", "io", "memory", "pids"]);
  expect(statfsSync("/var/lib/dormouse").type).toBe(0xef53); // EXT4_SUPER_MAGIC
  expect(statfsSync("/scratch").type).toBe(0x58465342); // XFS_SUPER_MAGIC
  using folder = new TempDir("reflink", "/scratch");
  writeFileSync(folder.join("a"), "shared");
  await command(["cp", "--reflink=always", folder.join("a"), folder.join("b")]);
  expect(readFileSync(folder.join("b"), "utf8")).toBe("shared");
});

/** As `Cpus_allowed_list` has them: `1-2`, or `0,2-3`. */
const cpusAllowed = (status: string): number[] => {
  const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1] ?? "";
  return list.split(",").flatMap((range) => {
    const [first, last = first] = range.split("-").map(Number) as [number, number?];
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
};

test.if(inTestbed)("no command runs on CPU 0, nor does what it puts into a cgroup of its own", async () => {
  const groups = join("/sys/fs/cgroup", `affinity-${process.pid}`), inner = join(groups, "inner");
  mkdirSync(inner, { recursive: true });
  writeFileSync(join(groups, "cgroup.subtree_control"), "+cpu +io +memory +pids");
  const entered = await command(["sh", "-c", `echo $$ >${inner}/cgroup.procs && cat /proc/self/status`]);
  rmdirSync(inner);
  rmdirSync(groups);
  const usable = cpusAllowed(readFileSync("/proc/self/status", "utf8"));
  expect(usable).toEqual(Array.from({ length: availableParallelism() }, (_, i) => i + 1));
  expect(cpusAllowed(entered)).toEqual(usable);
});

test.if(inTestbed)("what is written over the outer machine's files stays in the testbed's memory", () => {
  const path = join(import.meta.dir, "written-by-a-test");
  writeFileSync(path, "here only");
  expect(readFileSync(path, "utf8")).toBe("here only");
});
