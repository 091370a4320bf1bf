// What a VMM is handed to run an instance: parameters, and descriptors of everything that it will ever use.
import { E } from "../../ffi/abi/errno.ts";
import { closeFd, memoryFile, fileSize, O_CREAT, O_RDONLY, O_RDWR, openFd, pwriteAll } from "../../ffi/fd.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { must, SysError } from "../../ffi/syscall.ts";
import type { BootParams, DiskConfig, LoadParams, RestoreParams } from "../../vmm/protocol.ts";
import { hasSmallBlocks } from "../ext4-superblock.ts";
import type { DiskLayer } from "../disks/service.ts";
import type { Lease } from "../network/service.ts";
import { logPaths, statusPath, type LogName } from "../vmm/files.ts";
import type { Instance } from "./service.ts";
import type { VolumeDisk } from "./volumes.ts";

const O_APPEND = 0o2000;

/** Serial line and reset by keyboard controller are all that there is without ACPI; see docs/architecture.md. */
export const CMDLINE = [
  "console=ttyS0", "8250.nr_uarts=1", "quiet", "loglevel=4", "reboot=k", "panic=-1",
  "no_timer_check", "random.trust_cpu=on",
].join(" ");

/** Descriptors by name, owned until close() but for those that are lent. */
export class BootFds {
  readonly fds: Record<string, number> = {};
  private readonly lent = new Set<number>();

  open(name: string, path: string, flags: number): void {
    this.fds[name] = openFd(path, flags, 0o600);
  }

  add(name: string, fd: number): void {
    this.fds[name] = fd;
  }

  /** Somebody else's, who closes it. */
  lend(name: string, fd: number): void {
    this.fds[name] = fd;
    this.lent.add(fd);
  }

  close(): void {
    for (const fd of Object.values(this.fds)) if (!this.lent.has(fd)) closeFd(fd);
    for (const name of Object.keys(this.fds)) delete this.fds[name];
  }
}

/** What a machine's disks are after the image's: layers of the writable one, the newest first (`map` is null for one that has nothing below it), and volumes. */
export interface DiskFiles { readonly layers: readonly DiskLayer[]; readonly volumes?: readonly VolumeDisk[] }

/** Disks before those of volumes: `disk0` is the image, `disk1` the writable one. */
const FIRST_VOLUME = 2;

export interface MachineFiles {
  readonly dir: string;
  readonly rootfsPath: string;
  readonly disk: DiskFiles;
}

export interface BootFiles extends MachineFiles {
  readonly kernelPath: string;
  readonly initramfsPath: string;
  /** The second cpio archive. */
  readonly config: Uint8Array;
}

/** What KVM is asked through. */
export const openKvm = (into: BootFds): void => into.open("kvm", "/dev/kvm", O_RDWR);

/** Opens all that `boot` takes but the TAP. Throws SysError naming the file; the caller closes what is open by then. */
export function openBootFds(files: BootFiles, into: BootFds): void {
  into.open("kernel", files.kernelPath, O_RDONLY);
  into.open("initrd", files.initramfsPath, O_RDONLY);
  into.add("config", fileOf("dormouse-config", files.config));
  openKvm(into);
  openMachineFds(files, into);
}

/** What `boot` and `restore` both take, but the TAP. */
export function openMachineFds(files: MachineFiles, into: BootFds): void {
  into.open("disk0", files.rootfsPath, O_RDONLY);
  files.disk.layers.forEach(({ path, map }, i) => {
    const suffix = i === 0 ? "" : `.${i}`;
    // What lies below the newest is immutable, and so is its map.
    const flags = i === 0 ? O_RDWR : O_RDONLY;
    into.open(`disk1${suffix}`, path, flags);
    if (map !== null) into.open(`map1${suffix}`, map, flags);
  });
  files.disk.volumes?.forEach(({ path, readonly }, i) => into.open(`disk${FIRST_VOLUME + i}`, path, readonly ? O_RDONLY : O_RDWR));
  for (const [name, log] of LOGS) {
    const paths = logPaths(files.dir, log);
    into.open(`${name}0`, paths[0], O_RDWR | O_CREAT | O_APPEND);
    into.open(`${name}1`, paths[1], O_RDWR | O_CREAT | O_APPEND);
  }
  into.open("status", statusPath(files.dir), O_RDWR | O_CREAT);
  // Mostly it is empty already (emptyStatus()): cutting a file waits for the file system's journal.
  const { status } = into.fds;
  if (fileSize(status!) > 0) must("Cannot empty a monitor's record", SYS.ftruncate, status!, 0);
}

const LOGS: readonly (readonly [string, LogName])[] = [["app", "app"], ["vmm", "vmm"]];

function fileOf(name: string, bytes: Uint8Array): number {
  const fd = memoryFile(name);
  pwriteAll(fd, bytes, 0);
  return fd;
}

type Guest = Pick<Instance, "memoryBytes" | "vcpus" | "mac" | "name">;

const upperConfig = ({ layers }: DiskFiles): DiskConfig =>
  ({ readonly: false, serial: "upper", ...(layers.length > 1 ? { layers: layers.length } : hasSmallBlocks(layers[0]!.path) ? { blockBytes: 512 } : {}) });

const deviceParams = ({ mac }: Guest, disk: DiskFiles): Pick<BootParams, "disks" | "mac"> => ({
  disks: [{ readonly: true, serial: "rootfs" }, upperConfig(disk), ...(disk.volumes ?? []).map(({ readonly, serial }) => ({ readonly, serial, remembered: true as const }))],
  ...(mac === null ? {} : { mac }),
});

export const bootParams = (guest: Guest, xsave: boolean, disk: DiskFiles): BootParams => ({ memoryBytes: guest.memoryBytes, vcpus: guest.vcpus, xsave, ...deviceParams(guest, disk), cmdline: CMDLINE });

/** `generations`: ids, the newest first. */
export const loadParams = ({ memoryBytes, vcpus }: Guest, xsave: boolean, generations: readonly string[]): LoadParams => ({ memoryBytes, vcpus, xsave, generations });

export const restoreParams = (guest: Guest, disk: DiskFiles, lease: Lease | null, deadlineMs: number): RestoreParams => ({
  ...deviceParams(guest, disk),
  identity: { hostname: guest.name, ...(lease === null ? {} : { ip: lease.ip, gateway: lease.gateway, mac: lease.mac }) },
  deadlineMs,
});

/** Whether a start failed because /dev/kvm is not there or not ours. */
export const isKvmMissing = (error: unknown): boolean =>
  error instanceof SysError && error.what.endsWith("/dev/kvm") && NOT_OURS.includes(error.errno);
const NOT_OURS: readonly number[] = [E.ENOENT, E.EACCES, E.EPERM, E.ENODEV, E.ENXIO];
