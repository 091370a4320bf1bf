// What a VMM is handed to run an instance: parameters, and descriptors of everything that it will ever use.
import { E } from "../../ffi/abi/errno.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { closeFd, O_CREAT, O_RDONLY, O_RDWR, O_TRUNC, openFd, pwriteAll } from "../../ffi/fd.ts";
import { cstring, must, SysError } from "../../ffi/syscall.ts";
import type { BootParams } from "../../vmm/protocol.ts";
import { logPaths, statusPath, type LogName } from "../vmm/files.ts";

const O_APPEND = 0o2000, MFD_CLOEXEC = 1;

/** Serial line and reset by keyboard controller are all that there is without ACPI; see docs/architecture.md. */
export const CMDLINE = [
  "console=ttyS0", "8250.nr_uarts=1", "quiet", "loglevel=4", "reboot=k", "panic=-1",
  "no_timer_check", "random.trust_cpu=on",
].join(" ");

/** Descriptors by name, owned until close(). */
export class BootFds {
  readonly fds: Record<string, number> = {};

  open(name: string, path: string, flags: number): void {
    this.fds[name] = openFd(path, flags, 0o600);
  }

  add(name: string, fd: number): void {
    this.fds[name] = fd;
  }

  close(): void {
    for (const fd of Object.values(this.fds)) closeFd(fd);
    for (const name of Object.keys(this.fds)) delete this.fds[name];
  }
}

export interface BootFiles {
  readonly dir: string;
  readonly kernelPath: string;
  readonly initramfsPath: string;
  readonly rootfsPath: string;
  readonly upperPath: string;
  /** The second cpio archive. */
  readonly config: Uint8Array;
}

/** Opens all that `boot` takes but the TAP. Throws SysError naming the file; the caller closes what is open by then. */
export function openBootFds(files: BootFiles, into: BootFds): void {
  into.open("kvm", "/dev/kvm", O_RDWR);
  into.open("kernel", files.kernelPath, O_RDONLY);
  into.open("initrd", files.initramfsPath, O_RDONLY);
  into.add("config", memoryFile("dormouse-config", files.config));
  into.open("disk0", files.rootfsPath, O_RDONLY);
  into.open("disk1", files.upperPath, O_RDWR);
  for (const [name, log] of LOGS) {
    const paths = logPaths(files.dir, log);
    into.open(`${name}0`, paths[0], O_RDWR | O_CREAT | O_APPEND);
    into.open(`${name}1`, paths[1], O_RDWR | O_CREAT | O_APPEND);
  }
  into.open("status", statusPath(files.dir), O_RDWR | O_CREAT | O_TRUNC);
}

const LOGS: readonly (readonly [string, LogName])[] = [["app", "app"], ["vmm", "vmm"]];

function memoryFile(name: string, bytes: Uint8Array): number {
  const fd = must("Cannot make a file in memory", SYS.memfd_create, cstring(name), MFD_CLOEXEC);
  pwriteAll(fd, bytes, 0);
  return fd;
}

export const bootParams = (instance: { memoryBytes: number; vcpus: number; mac: string | null }, xsave: boolean): BootParams => ({
  memoryBytes: instance.memoryBytes,
  vcpus: instance.vcpus,
  cmdline: CMDLINE,
  xsave,
  disks: [{ readonly: true, serial: "rootfs" }, { readonly: false, serial: "upper" }],
  ...(instance.mac === null ? {} : { mac: instance.mac }),
});

/** Whether a start failed because /dev/kvm is not there or not ours. */
export const isKvmMissing = (error: unknown): boolean =>
  error instanceof SysError && error.what.endsWith("/dev/kvm") && [E.ENOENT, E.EACCES, E.EPERM, E.ENODEV, E.ENXIO].includes(error.errno as never);
