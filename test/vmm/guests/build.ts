// Assembles the tiny guests beside this file into ELF files that the monitor boots like a kernel.
import { statSync } from "node:fs";
import { openFd, O_RDONLY } from "../../../src/ffi/fd.ts";
import type { BootFile } from "../../../src/vmm/arch/x86/boot.ts";
import { TempDir } from "../../support/paths.ts";

const LOAD_ADDRESS = "0x1000000";

/** Descriptor and size of the guest named `name` (a .S file here). */
export function tinyGuest(name: string): BootFile {
  using temp = new TempDir("guest");
  const out = temp.join(name);
  const source = new URL(`${name}.S`, import.meta.url).pathname;
  const gcc = Bun.spawnSync(["gcc", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", `-Wl,-Ttext=${LOAD_ADDRESS}`, "-o", out, source]);
  if (gcc.exitCode !== 0) throw new Error(`Cannot assemble ${name}: ${gcc.stderr.toString()}`);
  return { fd: openFd(out, O_RDONLY), size: statSync(out).size };
}
