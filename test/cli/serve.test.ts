// serve and doctor before anything runs: what they refuse, and that nothing is left behind.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmod, copyFile, readdir } from "node:fs/promises";
import { TempDir } from "../support/paths.ts";
import { examine } from "../../src/host/doctor/doctor.ts";
import { probeKvm } from "../../src/host/doctor/probe.ts";
import { nearest } from "../../src/host/doctor/storage.ts";
import { executable, runCli } from "./support.ts";

const NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
const folder = new TempDir("serve");
let program: string;
beforeAll(async () => {
  // Where anybody can run it.
  program = folder.join("dormouse");
  await copyFile(await executable(), program);
  await chmod(program, 0o755);
  await chmod(folder.path, 0o755);
}, 120_000);
afterAll(() => folder[Symbol.dispose]());

test("serve without root: one clear line, not 0, nothing made", async () => {
  const dataDir = folder.join("data-nobody");
  const { status, out, err } = await runCli(["serve", "--data-dir", dataDir, "--listen", "127.0.0.1:0"], { program: [...NOBODY, program], cwd: "/" });
  expect([status, out]).toEqual([1, ""]);
  expect(err).toMatch(/^dormouse: Cannot serve: root: effective uid 65534; run it as root.*\n$/);
  expect(await readdir(folder.path)).toEqual(["dormouse"]);
});

test.skipIf(probeKvm().able)("serve without an able KVM: one clear line, not 0, nothing made", async () => {
  const dataDir = folder.join("data-kvm");
  const { status, out, err } = await runCli(["serve", "--data-dir", dataDir, "--listen", "127.0.0.1:0"], { program: [program], cwd: "/" });
  expect([status, out]).toEqual([1, ""]);
  expect(err).toMatch(/^dormouse: Cannot serve: kvm: .+; .+\n$/);
  expect(await readdir(folder.path)).toEqual(["dormouse"]);
});

test("serve refuses values that it can't take", async () => {
  const { status, err } = await runCli(["serve", "--log-level", "loud"], { program: [program] });
  expect(status).toBe(2);
  expect(err).toContain("loud");
  for (const size of ["-1", "many", "65"]) expect(await runCli(["serve", `--vmm-pool=${size}`], { program: [program] })).toMatchObject({ status: 2, err: expect.stringContaining("0 to 64") });
});

test("doctor: a row a requirement; --json for programs; its status follows the worst", async () => {
  const dataDir = folder.join("not-there");
  const { status, out, err } = await runCli(["doctor", "--json", "--data-dir", dataDir], { program: [program] });
  expect(err).toBe("");
  const rows = JSON.parse(out) as ReturnType<typeof examine>;
  expect(new Set(rows.map(({ check }) => check))).toEqual(new Set(["root", "kernel", "kvm", "tun", "cgroup", "memory", "disk", "e2fsprogs", "io_uring", "reflink", "forwarding", "firewall"]));
  for (const { status: one, advice } of rows) expect([one, advice === null || advice === ""]).toEqual([one, one === "ok"]);
  expect(status).toBe(rows.some((row) => row.status === "fail") ? 1 : 0);
  const kvm = rows.find(({ check }) => check === "kvm");
  expect(kvm?.status).toBe(probeKvm().able ? "ok" : "fail");
  expect(await readdir(folder.path)).toEqual(["dormouse"]);
});

test("doctor for people: a table, and what to do", async () => {
  const { out } = await runCli(["doctor", "--data-dir", folder.path], { program: [program] });
  const rows = examine(folder.path);
  const lines = out.split("\n");
  expect(lines[0]).toMatch(/^ +CHECK +FOUND$/);
  for (const { check, status, advice } of rows) {
    expect(lines.some((line) => line.startsWith(status) && line.includes(check))).toBe(true);
    if (advice !== null && check !== "memory" && check !== "disk") expect(out).toContain(`  ${check}: ${advice}`);
  }
});

test("doctor without root says what it can't see", async () => {
  const { status, out } = await runCli(["doctor", "--json"], { program: [...NOBODY, program], cwd: "/" });
  expect(status).toBe(1);
  const rows = JSON.parse(out) as { check: string; status: string; advice: string | null }[];
  expect(rows.find(({ check }) => check === "root")).toMatchObject({ status: "fail", advice: expect.stringContaining("root") });
  expect(rows.find(({ check }) => check === "firewall")?.status).toBe("warn");
});

test("nearest() is the folder itself or the first above it that is there", () => {
  expect(nearest(folder.path)).toBe(folder.path);
  expect(nearest(folder.join("a", "b"))).toBe(folder.path);
  expect(nearest("/nowhere/at/all")).toBe("/");
});
