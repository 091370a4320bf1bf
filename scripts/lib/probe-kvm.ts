// Says whether /dev/kvm can run guests here; status 0 if so, 1 if not. The same probe as `dormouse doctor`.
import { probeKvm } from "../../src/host/doctor/probe.ts";

const started = performance.now();
const probe = probeKvm();
const ms = (performance.now() - started).toFixed(1);
console.log(probe.able ? `/dev/kvm runs kernels${probe.xsave ? "" : ", without XSAVE"} (seen in ${ms} ms)` : `no usable KVM: ${probe.found} (seen in ${ms} ms)`);
process.exitCode = probe.able ? 0 : 1;
