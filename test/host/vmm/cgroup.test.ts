import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCgroups } from "../../../src/host/vmm/cgroup.ts";

const root = mkdtempSync(join(tmpdir(), "dormouse-cgroup-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const mountinfo = (path: string) => `22 1 0:20 / /proc rw - proc proc rw\n41 31 0:38 / ${path} rw,relatime shared:9 - cgroup2 cgroup2 rw\n`;

// How real groups behave is tested where there are some (test/guest); here, what is decided from what the host has.
test("openCgroups() does without, and says why, where the host has no use for it", () => {
  expect(openCgroups("22 1 0:20 / /proc rw - proc proc rw\n").reason).toBe("no cgroup v2 hierarchy is mounted");
  const bare = join(root, "bare");
  mkdirSync(bare);
  writeFileSync(join(bare, "cgroup.controllers"), "hugetlb\n");
  const without = openCgroups(mountinfo(bare));
  expect(without.reason).toContain("no memory controller");
  without.add("id", 1);
  expect(without.remove("id")).toBe(true);
  expect(openCgroups(mountinfo(join(root, "missing"))).reason).toContain("can't be used");
});

test("openCgroups() turns on the controllers that are there, at the top and below", () => {
  const mount = join(root, "full");
  mkdirSync(join(mount, "dormouse"), { recursive: true });
  writeFileSync(join(mount, "cgroup.controllers"), "cpuset cpu memory pids hugetlb\n");
  writeFileSync(join(mount, "cgroup.subtree_control"), "memory\n");
  writeFileSync(join(mount, "dormouse", "cgroup.subtree_control"), "");
  const cgroups = openCgroups(mountinfo(mount));
  expect(cgroups.reason).toBeNull();
  expect(readFileSync(join(mount, "cgroup.subtree_control"), "utf8")).toBe("+pids +cpu");
  expect(readFileSync(join(mount, "dormouse", "cgroup.subtree_control"), "utf8")).toBe("+memory +pids +cpu");
  cgroups.add("one", 42);
  expect(readFileSync(join(mount, "dormouse", "one", "cgroup.procs"), "utf8")).toBe("42");
  expect(cgroups.list()).toEqual(["one"]);
  expect(cgroups.remove("two")).toBe(true);
});
