// What one access of a guest to a port or a register takes, from the guest's instruction to the next: a tiny guest of our own
// (test/vmm/guests/exits.S) on whatever KVM there is, which looks at its TSC before and after some thousand of each kind.
import { Epoll } from "../src/ffi/epoll.ts";
import { O_RDWR, openFd } from "../src/ffi/fd.ts";
import { Machine, type MachineEnd } from "../src/vmm/machine.ts";
import { tinyGuest } from "../test/vmm/guests/build.ts";
import { figure, say, type Metrics } from "./metric.ts";

const RUNS = 7, ROUNDS = 2000;
const CYCLES = 0x200000;
/** In the guest's order. PCI configuration is read as Linux does it, address and data. The last two are the same work of some 50 µs, with an access and without. */
const KINDS = ["nothing", "port", "memory", "pci_configuration", "serial_byte", "work_and_port", "work"] as const;
type Kind = (typeof KINDS)[number];

export async function run(): Promise<Metrics> {
  const epoll = new Epoll(), kernel = tinyGuest("exits"), hz = await tscFrequency();
  const found = Object.fromEntries(KINDS.map((kind): [string, number[]] => [kind, []])) as Record<Kind, number[]>;
  for (let i = 0; i <= RUNS; i++) {
    let end: MachineEnd | null = null;
    const machine = new Machine(epoll, { kvmFd: openFd("/dev/kvm", O_RDWR), memoryBytes: 64 * 2 ** 20, vcpus: 1, xsave: true, onSerial() {}, onEnd: (e) => { end = e; } });
    machine.boot({ kernel, initrd: [], cmdline: "", vcpus: 1 });
    while (end === null) epoll.poll();
    const cycles = new DataView(machine.memory.read(CYCLES, 8 * KINDS.length)!.buffer);
    const us = KINDS.map((_, n) => (Number(cycles.getBigUint64(8 * n, true)) / ROUNDS / hz) * 1e6);
    say(KINDS.map((kind, n) => `${kind} ${us[n]!.toFixed(1)}`).join(", ") + (i === 0 ? " (warming up)" : ""));
    if (i > 0) KINDS.forEach((kind, n) => found[kind].push(us[n]!));
  }
  const beyond = (kind: Kind, base: Kind) => figure(found[kind].map((value, i) => value - found[base][i]!), "µs");
  return {
    port_read: beyond("port", "nothing"), memory_read: beyond("memory", "nothing"), pci_read: beyond("pci_configuration", "nothing"), serial_write: beyond("serial_byte", "nothing"),
    port_read_after_work: beyond("work_and_port", "work"),
  };
}

/** The host's and the guest's are the same. */
async function tscFrequency(): Promise<number> {
  const mhz = /^cpu MHz\s*:\s*([\d.]+)/m.exec(await Bun.file("/proc/cpuinfo").text())?.[1];
  if (mhz === undefined) throw new Error("Cannot tell the TSC's frequency: /proc/cpuinfo does not say");
  return Number(mhz) * 1e6;
}
