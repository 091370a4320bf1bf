// asm-generic/termbits.h, asm-generic/ioctls.h: how a terminal treats what goes through it (termios(3), ioctl_tty(2)).
import { array, struct, u32, u8 } from "./layout.ts";

export const header = "asm/termbits.h";

export const termios = struct("struct termios", "asm/termbits.h", { c_iflag: u32, c_oflag: u32, c_cflag: u32, c_lflag: u32, c_line: u8, c_cc: array(u8, 19) });

export const ioctls = { TCGETS: 0x5401, TCSETS: 0x5402 } as const;

/** Flags of c_oflag. */
export const OFLAG = { OPOST: 1 } as const;
