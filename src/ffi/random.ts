// getrandom(2), by itself: `node:crypto` would cost a monitor 1.7 MiB of memory for the one function.
import { must } from "./syscall.ts";
import { SYS } from "./abi/syscalls.ts";

/** `bytes` random bytes (at most 256, which the kernel never cuts short) in hexadecimal: no two calls anywhere draw the same. */
export function randomHex(bytes: number): string {
  const drawn = Buffer.alloc(bytes);
  const n = must("Cannot draw random bytes", SYS.getrandom, drawn, bytes, 0);
  if (n !== bytes) throw new Error("Cannot draw random bytes: the host gave less than asked");
  return drawn.toString("hex");
}
