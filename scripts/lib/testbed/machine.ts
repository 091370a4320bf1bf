// The testbed as QEMU's arguments: disks, initramfs, shares.
import { readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, freemem } from "node:os";
import { join } from "node:path";
import { cpio } from "./cpio.ts";

const MIB = 2 ** 20;
const MEMORY_MIB = 10 * 1024;
/** CPU 0: no command runs on it, because no guest's vCPU may (agent.c, leave_cpu0, says why). */
const SPARE_CPUS = 1;
/** CPUs that commands can use, where there are not more here: an instance can't have more than its host, and tests run one with four. */
const LEAST_CPUS = 4;

export class TestbedError extends Error {}

export interface Machine {
  /** For this run's files; deleted by the caller once QEMU has opened them. */
  readonly folder: string;
  /** bzImage. */
  readonly kernel: string;
  /** agent.c, built static. */
  readonly agent: string;
  readonly init: string;
  /** Folders of the outer machine that are seen although they lie under /tmp, /var/tmp or /run. */
  readonly visible: readonly string[];
  /** A folder of the outer machine that is writable from inside; "" for none. */
  readonly out: string;
}

/** Two sparse disks: ext4 for the state folder, XFS (which can reflink) for /scratch. Neither outlives its run: no journal, no flush. */
function makeDisks(folder: string): { state: string; scratch: string } {
  const [state, scratch] = [join(folder, "state.img"), join(folder, "scratch.img")];
  const make = (...argv: string[]): void => {
    const made = Bun.spawnSync(argv, { stderr: "pipe" });
    if (made.exitCode !== 0) throw new TestbedError(`cannot make a disk: ${argv.join(" ")}: ${made.stderr.toString().trim()}`);
  };
  make("truncate", "-s", "32G", state, scratch);
  make("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "-m", "0", state);
  make("mkfs.xfs", "-q", "-f", "-K", "-m", "reflink=1", scratch);
  return { state, scratch };
}

function makeInitrd({ folder, agent, init, visible, out }: Machine): string {
  const file = (path: string, from: string) => ({ path, mode: 0o100755, data: readFileSync(from) });
  const text = (path: string, body: string) => ({ path, mode: 0o100644, data: Buffer.from(body) });
  const path = join(folder, "initrd");
  writeFileSync(path, cpio([
    ...["bin", "dev", "proc", "sys"].map((name) => ({ path: name, mode: 0o040755 })),
    file("bin/busybox", "/bin/busybox"), file("init", init), file("agent", agent),
    text("visible", visible.map((p) => p + "\n").join("")), text("params", `out='${out.replaceAll("'", `'\\''`)}'\n`),
  ]));
  return path;
}

const disk = (id: string, path: string): string[] => [
  "-drive", `if=none,id=${id},file=${path.replaceAll(",", ",,")},format=raw,cache=unsafe,aio=threads,discard=unmap`, "-device", `virtio-blk-pci,drive=${id}`,
];

const share = (tag: string, path: string, rest = ""): string[] => [
  "-fsdev", `local,id=${tag},path=${path.replaceAll(",", ",,")},security_model=none,multidevs=remap${rest}`,
  "-device", `virtio-9p-pci,fsdev=${tag},mount_tag=${tag}`,
];

/** All that can be emulated, but for page tables of five levels: both kernels would use them, and a guest's walks nest in its host's, 35 steps instead of 24. */
const CPU = "max,la57=off";

/**
 * The emulated TSC's frequency is measured twice, some 0.1 % apart. For a difference above its tolerance (250 ppm unless told otherwise) KVM
 * refuses to make up a guest's TSC at all: it then reads 0 there, and no timer of a guest that goes by TSC deadlines fires in time.
 */
const CMDLINE = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable kvm.tsc_tolerance_ppm=100000";

/**
 * Makes the run's files and says how QEMU is started on them. Software emulation, but with SVM: so KVM works inside.
 * MEM (MiB) and SMP (CPUs that commands can use) in the environment set its size. The agent's port is the socket `agent.sock` of the folder, which must listen.
 */
export function prepareMachine(machine: Machine): string[] {
  const { folder, out } = machine;
  const memory = process.env["MEM"] ?? String(Math.min(MEMORY_MIB, Math.floor((freemem() * 0.7) / MIB)));
  const cpus = Number(process.env["SMP"] ?? Math.max(LEAST_CPUS, availableParallelism()));
  if (!Number.isInteger(cpus) || cpus < 1) throw new TestbedError(`cannot start with SMP=${process.env["SMP"]}: it is a number of CPUs, 1 or more`);
  const { state, scratch } = makeDisks(folder);
  return [
    "qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", CPU, "-M", "q35",
    "-smp", String(cpus + SPARE_CPUS), "-m", `${memory}M`,
    "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none", "-serial", `file:${join(folder, "console")}`,
    "-kernel", machine.kernel, "-initrd", makeInitrd(machine), "-append", CMDLINE,
    "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
    "-chardev", `socket,id=agent,path=${join(folder, "agent.sock")}`, "-device", "virtserialport,chardev=agent,name=agent",
    ...disk("state", state), ...disk("scratch", scratch), ...share("outer", "/", ",readonly=on"), ...(out === "" ? [] : share("out", out)),
  ];
}
