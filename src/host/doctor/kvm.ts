// /dev/kvm: there, ours to open, and able to run an ordinary kernel.
import { probeKvm } from "./probe.ts";
import { bad, ok, type Row } from "./row.ts";

const HARDWARE = "switch on virtualization (VT-x, AMD-V) in the firmware, or on a cloud choose a machine with nested virtualization; then modprobe kvm_intel or kvm_amd";
const ADVICE = {
  missing: HARDWARE,
  denied: "run it as root, with access to /dev/kvm",
  unable: `this KVM is not complete: ${HARDWARE}; from a checkout, scripts/testbed runs a command in a machine that has one`,
} as const;

export function checkKvm(): Row[] {
  const probe = probeKvm();
  return [probe.able ? ok("kvm", "/dev/kvm runs kernels") : bad("kvm", probe.found, ADVICE[probe.reason])];
}
