// TAP devices, and what stands between guests and the network.
import { closeFd, O_RDWR } from "../../ffi/fd.ts";
import { cstring, syscall } from "../../ffi/syscall.ts";
import { E, errnoName } from "../../ffi/abi/errno.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { doctorForwarding } from "../network/doctor.ts";
import { readSysctl } from "../network/sysctl.ts";
import { bad, ok, type Row, warn } from "./row.ts";

export function checkTun(): Row {
  const fd = syscall(SYS.open, cstring("/dev/net/tun"), O_RDWR);
  if (fd >= 0) {
    closeFd(fd);
    return ok("tun", "/dev/net/tun opens");
  }
  const missing = -fd === E.ENOENT || -fd === E.ENODEV;
  return bad("tun", `/dev/net/tun: ${errnoName(-fd)}`, missing ? "modprobe tun (and add `tun` to /etc/modules-load.d)" : "run it as root, with access to /dev/net/tun");
}

/** Whether packets of guests are forwarded, and by whose rules they would be dropped. */
export function checkForwarding(root: boolean): Row[] {
  const on = readSysctl("ipv4/ip_forward") === "1";
  const switched = ok("forwarding", on ? "on" : "off; `dormouse serve` turns it on, and --teardown off again");
  if (!root) return [switched, warn("firewall", "not looked at", "run it as root")];
  const findings = doctorForwarding();
  if (findings.isErr()) return [switched, warn("firewall", findings.error.message, "load nf_tables (modprobe nf_tables)")];
  return [switched, ...findings.value.map((one) => (one.ok ? ok("firewall", one.what) : warn("firewall", one.what, one.fix ?? "")))];
}
