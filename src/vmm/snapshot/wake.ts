// What a guest that wakes is told: when it is and who it is (WAKE, docs/architecture.md), with randomness of its own.
import { randomHex } from "../../ffi/random.ts";
import type { Pair } from "../../pairs.ts";
import type { WakeIdentity } from "../protocol.ts";

const SEED_BYTES = 64;

export function wakePairs({ hostname, ip, gateway, mac }: WakeIdentity, nowNs: bigint): Pair[] {
  const optional: (readonly [string, string | undefined])[] = [["ip", ip], ["gateway", gateway], ["mac", mac]];
  return [
    ["realtime_ns", String(nowNs)], ["seed", randomHex(SEED_BYTES)], ["hostname", hostname],
    ...optional.filter((pair): pair is readonly [string, string] => pair[1] !== undefined),
  ];
}
