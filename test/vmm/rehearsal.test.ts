import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { closeFd, O_RDWR, openFd } from "../../src/ffi/fd.ts";
import { rehearse } from "../../src/vmm/rehearsal.ts";

test("rehearse() goes through, again and again, and leaves no descriptor", () => {
  const kvm = openFd("/dev/kvm", O_RDWR);
  rehearse(kvm);
  const open = readdirSync("/proc/self/fd").length;
  for (let i = 0; i < 5; i++) rehearse(kvm);
  expect(readdirSync("/proc/self/fd").length).toBe(open);
  closeFd(kvm);
});
