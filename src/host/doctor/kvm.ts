// /dev/kvm: there, ours to open, and able to run an ordinary kernel.
import { closeFd, O_RDWR } from "../../ffi/fd.ts";
import { cstring, syscall } from "../../ffi/syscall.ts";
import { E, errnoName } from "../../ffi/abi/errno.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { bad, ok, type Row } from "./row.ts";

const HARDWARE = "switch on virtualization (VT-x, AMD-V) in the firmware, or on a cloud choose a machine with nested virtualization; then modprobe kvm_intel or kvm_amd";

export function checkKvm(): Row[] {
  const fd = syscall(SYS.open, cstring("/dev/kvm"), O_RDWR);
  if (fd < 0) return [bad("kvm", `/dev/kvm: ${errnoName(-fd)}`, -fd === E.EACCES || -fd === E.EPERM ? "run it as root, with access to /dev/kvm" : HARDWARE)];
  closeFd(fd);
  return [ok("kvm", "/dev/kvm opens")];
}
