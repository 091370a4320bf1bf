// One guest under our monitor or under QEMU, from the same kernel, initramfs, command line, memory and disks: what the benches compare.
// The guest runs bench/init.sh and speaks on the serial port; both monitors write that to a file, which is read here.
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cpio } from "../scripts/lib/testbed/cpio.ts";
import { probeKvm } from "../src/host/doctor/probe.ts";
import { CMDLINE } from "../src/host/instances/boot.ts";
import { O_CREAT, O_RDONLY, O_RDWR, closeFd, openFd } from "../src/ffi/fd.ts";
import { connectSeqpacket, receivePacket, sendPacket } from "../src/ffi/socket.ts";
import { openTapDevice } from "../src/ffi/tun.ts";
import { spawnVmm } from "../src/host/vmm/spawn.ts";
import { logPaths, socketPath } from "../src/host/vmm/files.ts";
import { MAX_PACKET, type BootParams } from "../src/vmm/protocol.ts";
import { executable } from "../test/support/daemon.ts";

const MIB = 2 ** 20;
const O_APPEND = 0o2000;
const POLL_MS = 2;
const HANG_MS = 600_000;
const RAM_SLACK_MIB = 32;

export type Monitor = "ours" | "QEMU";
export const monitors: readonly Monitor[] = ["ours", "QEMU"];

export interface GuestSpec {
  readonly kernel: string;
  readonly initrd: string;
  readonly memoryMib: number;
  readonly vcpus: number;
  /** Becomes `bench_…` variables of init.sh. */
  readonly job: Readonly<Record<string, string>>;
  readonly disks?: readonly { readonly path: string; readonly readonly: boolean }[];
  /** Name of a TAP that nobody has open, and the guest's MAC. */
  readonly tap?: { readonly name: string; readonly mac: string };
}

export const cmdline = ({ job }: GuestSpec): string => [CMDLINE, ...Object.entries(job).map(([key, value]) => `bench_${key}=${value}`)].join(" ");

/** A running guest. `dir` is a new folder for its files. */
export class Guest {
  private constructor(readonly pid: number, private readonly serialPath: string, private readonly problem: () => string | null, private readonly release: () => void) {}

  static start(monitor: Monitor, spec: GuestSpec, dir: string): Guest {
    return monitor === "ours" ? Guest.ours(spec, dir) : Guest.qemu(spec, dir);
  }

  private static ours(spec: GuestSpec, dir: string): Guest {
    const spawned = spawnVmm([executable, "vmm"], dir);
    if (spawned.isErr()) throw spawned.error;
    const socket = connectSeqpacket(socketPath(dir));
    const fds = bootDescriptors(spec, dir);
    const params: BootParams = {
      memoryBytes: spec.memoryMib * MIB, vcpus: spec.vcpus, cmdline: cmdline(spec), xsave: hostHasXsave(),
      disks: (spec.disks ?? []).map((disk, i) => ({ readonly: disk.readonly, serial: `disk${i}` })), ...(spec.tap ? { mac: spec.tap.mac } : {}),
    };
    const request = Buffer.from(JSON.stringify({ id: 1, method: "boot", params, fds: Object.keys(fds) }));
    // The socket listens already: the request waits there until the process has started.
    const sent = sendPacket(socket, request, Object.values(fds));
    Object.values(fds).forEach(closeFd);
    if (sent < 0) throw new Error(`Cannot send the boot request: errno ${-sent}`);
    return new Guest(spawned.value.pid, logPaths(dir, "vmm")[0], () => refusal(socket), () => closeFd(socket));
  }

  private static qemu(spec: GuestSpec, dir: string): Guest {
    const serial = join(dir, "serial");
    const child = Bun.spawn(qemuArguments(spec, serial), { stdin: "ignore", stdout: "inherit", stderr: "inherit" });
    return new Guest(child.pid, serial, () => (child.exitCode === null ? null : `QEMU ended with status ${child.exitCode}`), () => child.kill("SIGKILL"));
  }

  /** The text of the serial port once `pattern` is in it. */
  async serial(pattern: RegExp): Promise<RegExpExecArray> {
    const end = performance.now() + HANG_MS;
    let fd = -1, text = "", at = 0;
    const chunk = Buffer.alloc(64 * 1024);
    try {
      while (performance.now() < end) {
        if (fd < 0 && existsSync(this.serialPath)) fd = openSync(this.serialPath, "r");
        while (fd >= 0 && at < fstatSync(fd).size) {
          const n = readSync(fd, chunk, 0, chunk.length, at);
          text += chunk.toString("latin1", 0, n);
          at += n;
        }
        const match = pattern.exec(text);
        if (match !== null) return match;
        const problem = this.problem();
        if (problem !== null) throw new Error(`${problem}; its serial port said:\n${text.slice(-2000)}`);
        await Bun.sleep(POLL_MS);
      }
    } finally {
      if (fd >= 0) closeSync(fd);
    }
    throw new Error(`the guest never said ${pattern}; its serial port said:\n${text.slice(-2000)}`);
  }

  /** KiB of memory that only this process has (smaps: Private_Dirty and Private_Clean), guest RAM of `guestMib` left out. */
  privateKib(guestMib: number): number {
    const smaps = readFileSync(`/proc/${this.pid}/smaps`, "utf8");
    const kib = (block: string, field: string): number => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(block)?.[1] ?? 0);
    const blocks = smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
    // The kernel may have merged RAM with a small neighbour: no matter. JavaScript's heap is a reservation of a GiB, so size alone is no sign.
    const ram = blocks.filter((block) => kib(block, "Size") >= guestMib * 1024 && kib(block, "Size") < (guestMib + RAM_SLACK_MIB) * 1024);
    if (ram.length !== 1) throw new Error(`${ram.length} mappings of process ${this.pid} look like ${guestMib} MiB of guest memory`);
    return blocks.filter((block) => block !== ram[0]).reduce((sum, block) => sum + kib(block, "Private_Dirty") + kib(block, "Private_Clean"), 0);
  }

  /** Ends the monitor, and waits until it is gone. */
  async stop(): Promise<void> {
    try {
      process.kill(this.pid, "SIGKILL");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
    this.release();
    while (existsSync(`/proc/${this.pid}`) && !/^State:\s+Z/m.test(statusOf(this.pid))) await Bun.sleep(POLL_MS);
  }
}

/** Whether guests can have XSAVE here: both monitors then show the same CPU. */
function hostHasXsave(): boolean {
  const probe = probeKvm();
  return probe.able && probe.xsave;
}

function statusOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, "utf8");
  } catch {
    return "State:\tZ"; // gone between the two looks
  }
}

/** What the monitor said about its boot request, where that was no. */
function refusal(socket: number): string | null {
  const packet = receivePacket(socket, new Uint8Array(MAX_PACKET));
  if (packet === "again") return null;
  if (packet === null) return "our monitor has ended";
  const message: { ok?: boolean; error?: string } = JSON.parse(Buffer.from(packet.bytes).toString());
  return message.ok === false ? `our monitor refused: ${message.error}` : null;
}

function bootDescriptors(spec: GuestSpec, dir: string): Record<string, number> {
  const config = join(dir, "config");
  writeFileSync(config, cpio([]));
  const fds: Record<string, number> = {
    kvm: openFd("/dev/kvm", O_RDWR), kernel: openFd(spec.kernel, O_RDONLY), initrd: openFd(spec.initrd, O_RDONLY), config: openFd(config, O_RDONLY),
    status: openFd(join(dir, "status.json"), O_RDWR | O_CREAT),
  };
  (spec.disks ?? []).forEach((disk, i) => (fds[`disk${i}`] = openFd(disk.path, disk.readonly ? O_RDONLY : O_RDWR)));
  if (spec.tap) fds["tap"] = openTapDevice(spec.tap.name);
  for (const name of ["app", "vmm"] as const) logPaths(dir, name).forEach((path, i) => (fds[`${name}${i}`] = openFd(path, O_RDWR | O_CREAT | O_APPEND)));
  return fds;
}

/**
 * Without devices the fastest machine that QEMU has, `microvm`. With devices `pc` without ACPI: our guest kernel has virtio over PCI only,
 * which `microvm` can't offer to a kernel without ACPI, and MSI-X serves QEMU better than MMIO would.
 */
export function qemuArguments(spec: GuestSpec, serial: string): string[] {
  const devices = (spec.disks ?? []).flatMap((disk, i) => [
    "-drive", `if=none,id=disk${i},file=${disk.path},format=raw${disk.readonly ? ",readonly=on" : ""}`, "-device", `virtio-blk-pci,drive=disk${i}`,
  ]);
  if (spec.tap) devices.push("-netdev", `tap,id=net,ifname=${spec.tap.name},script=no,downscript=no,vhost=off`, "-device", `virtio-net-pci,netdev=net,mac=${spec.tap.mac}`);
  return [
    "qemu-system-x86_64", "-M", devices.length === 0 ? "microvm" : "pc,acpi=off", "-enable-kvm", "-cpu", hostHasXsave() ? "host" : "host,-xsave", "-m", `${spec.memoryMib}M`, "-smp", String(spec.vcpus),
    "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", `file:${serial}`,
    "-kernel", spec.kernel, "-initrd", spec.initrd, "-append", cmdline(spec), ...devices,
  ];
}
