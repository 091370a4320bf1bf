// What a guest that wakes is told: when it is and who it is (WAKE, docs/architecture.md), with randomness of its own.
import { SYS } from "../../ffi/abi/syscalls.ts";
import { randomHex } from "../../ffi/random.ts";
import { must } from "../../ffi/syscall.ts";
import type { Pair } from "../../pairs.ts";
import type { WakeIdentity } from "../protocol.ts";

const SEED_BYTES = 64;
const CLOCK_REALTIME = 0;

export function wakePairs({ hostname, ip, gateway, mac }: WakeIdentity, nowNs: bigint): Pair[] {
  const optional: (readonly [string, string | undefined])[] = [["ip", ip], ["gateway", gateway], ["mac", mac]];
  return [
    ["realtime_ns", String(nowNs)], ["seed", randomHex(SEED_BYTES)], ["hostname", hostname],
    ...optional.filter((pair): pair is readonly [string, string] => pair[1] !== undefined),
  ];
}

/** The host's time of day. */
export function realtimeNs(): bigint {
  const time = new BigInt64Array(2); // struct timespec
  must("Cannot read the clock", SYS.clock_gettime, CLOCK_REALTIME, time);
  return time[0]! * 1_000_000_000n + time[1]!;
}
