// linux/openat2.h: opening by names that must not lead out of a folder.
import { struct, u64 } from "./layout.ts";

export const header = "linux/openat2.h";

export const open_how = struct("struct open_how", "linux/openat2.h", { flags: u64, mode: u64, resolve: u64 });

export const RESOLVE = { RESOLVE_NO_XDEV: 0x01, RESOLVE_NO_MAGICLINKS: 0x02, RESOLVE_NO_SYMLINKS: 0x04, RESOLVE_BENEATH: 0x08 } as const;
