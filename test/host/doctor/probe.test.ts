import { expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { probeKvm } from "../../../src/host/doctor/probe.ts";

test("probeKvm() names a device that is not there", () => {
  expect(probeKvm("/dev/kvm-of-nobody")).toEqual({ able: false, reason: "missing", found: "/dev/kvm-of-nobody: ENOENT" });
});

test("probeKvm() refuses a device that is not KVM", () => {
  expect(probeKvm("/dev/null")).toEqual({ able: false, reason: "unable", found: "Cannot ask for KVM's version: ENOTTY" });
});

test.if(existsSync("/dev/kvm"))("probeKvm() says the same every time and leaves no descriptor behind", () => {
  const ROUNDS = 5, before = readdirSync("/proc/self/fd").length;
  const first = probeKvm();
  for (let round = 1; round < ROUNDS; round++) expect(probeKvm()).toEqual(first);
  // What a probe leaves, each leaves. The runtime opens one or two of its own, whenever it likes.
  expect(readdirSync("/proc/self/fd").length - before).toBeLessThan(ROUNDS);
});
