// What a guest that wakes is told: when it is and who it is (WAKE, docs/architecture.md), with randomness of its own.
import { SYS } from "../../ffi/abi/syscalls.ts";
import { must } from "../../ffi/syscall.ts";
import type { Pair } from "../../pairs.ts";
import type { WakeIdentity } from "../protocol.ts";

const SEED_BYTES = 64;
const CLOCK_REALTIME = 0;

export function wakePairs({ hostname, ip, gateway, mac }: WakeIdentity): Pair[] {
  const optional: (readonly [string, string | undefined])[] = [["ip", ip], ["gateway", gateway], ["mac", mac]];
  return [
    ...timePairs(), ["seed", seed()], ["hostname", hostname],
    ...optional.filter((pair): pair is readonly [string, string] => pair[1] !== undefined),
  ];
}

export const timePairs = (): Pair[] => [["realtime_ns", String(realtimeNs())]];

function realtimeNs(): bigint {
  const time = new BigInt64Array(2); // struct timespec
  must("Cannot read the clock", SYS.clock_gettime, CLOCK_REALTIME, time);
  return time[0]! * 1_000_000_000n + time[1]!;
}

/** From the host's kernel: no two wakes draw the same. */
function seed(): string {
  const bytes = new Uint8Array(SEED_BYTES);
  const n = must("Cannot draw a seed", SYS.getrandom, bytes, bytes.length, 0);
  if (n !== bytes.length) throw new Error("Cannot draw a seed: the host gave less than asked");
  return Buffer.from(bytes).toString("hex");
}
