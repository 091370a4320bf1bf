// The host's clocks (clock_gettime(2)). They are the same in every process: what one has noted, another may compare.
import { SYS } from "./abi/syscalls.ts";
import { must } from "./syscall.ts";

const CLOCK_REALTIME = 0, CLOCK_MONOTONIC = 1; // linux/time.h

/** Nanoseconds since the epoch. */
export const realtimeNs = (): bigint => read(CLOCK_REALTIME);

/** Milliseconds since the host's start. */
export const monotonicMs = (): number => Number(read(CLOCK_MONOTONIC)) / 1e6;

function read(clock: number): bigint {
  const time = new BigInt64Array(2); // struct timespec
  must("Cannot read the clock", SYS.clock_gettime, clock, time);
  return time[0]! * 1_000_000_000n + time[1]!;
}
