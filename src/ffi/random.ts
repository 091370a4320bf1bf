// getrandom(2), by itself: `node:crypto` would cost a monitor 1.7 MiB of memory for the one function.
import { must } from "./syscall.ts";
import { SYS } from "./abi/syscalls.ts";

/** `count` random bytes, at most 256, which the kernel never cuts short. */
export function randomBytes(count: number): Buffer {
  const drawn = Buffer.alloc(count);
  const n = must("Cannot draw random bytes", SYS.getrandom, drawn, count, 0);
  if (n !== count) throw new Error("Cannot draw random bytes: the host gave less than asked");
  return drawn;
}

/** The same in hexadecimal. */
export const randomHex = (bytes: number): string => randomBytes(bytes).toString("hex");
