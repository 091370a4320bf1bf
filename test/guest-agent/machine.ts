// Boots the guest kernel and init under QEMU's software emulation: any machine can, and the ports, disks and reset are real.
// vsock has no backend there; test/guest-agent/harness.ts drives exec instead.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { $, type Subprocess } from "bun";
import { connect, type Socket } from "node:net";
import { encodeFrame, FrameDecoder, type FrameType } from "../../src/host/agent/frames.ts";
import { decodePairs, encodePairs, type Pair } from "../../src/pairs.ts";
import { Frame } from "../../src/vmm/protocol.ts";

const repo = join(import.meta.dir, "../..");

export const tempFolder = (): string => mkdtempSync(join(tmpdir(), "dormouse-guest-"));

/** Resolves once `condition` gives a value; rejects at the hang limit with what `state` says. */
export async function until<T>(condition: () => T | undefined | null | false, state: () => string, limitMs = 100_000): Promise<T> {
  const end = Date.now() + limitMs;
  for (;;) {
    const value = condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`Cannot go on: still waiting after ${limitMs} ms; ${state()}`);
    await Bun.sleep(5);
  }
}

/** An image's root with busybox and the given files; modes of files are 0755. */
export async function makeRootfs(folder: string, files: Record<string, string> = {}, links: Record<string, string> = {}): Promise<string> {
  const root = join(folder, "rootfs");
  for (const dir of ["bin", "etc", "var"]) mkdirSync(join(root, dir), { recursive: true });
  await $`cp /bin/busybox ${root}/bin/busybox && chroot ${root} /bin/busybox --install -s /bin`.quiet();
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text, { mode: 0o755 });
  }
  for (const [path, target] of Object.entries(links)) await $`mkdir -p ${dirname(join(root, path))} && ln -sfn ${target} ${join(root, path)}`.quiet();
  await $`mkfs.erofs ${folder}/rootfs.erofs ${root}`.quiet();
  return join(folder, "rootfs.erofs");
}

/** Blocks of 4 KiB: those of our writable disks. */
export async function makeDisk(folder: string): Promise<string> {
  const disk = join(folder, "upper.ext4");
  await $`truncate -s 64M ${disk} && mkfs.ext4 -q -F -b 4096 ${disk}`.quiet();
  return disk;
}

export interface MachineOptions {
  readonly folder: string;
  readonly config: readonly Pair[];
  readonly disks: readonly string[];
  readonly network?: boolean;
  readonly memoryMb?: number;
}

export class Machine {
  readonly states: Map<string, string>[] = [];
  readonly acks: Map<string, string>[] = [];
  private readonly decoder = new FrameDecoder();
  private constructor(private readonly qemu: Subprocess, private readonly port: Socket, private readonly run: string) {
    port.on("data", (bytes) => {
      for (const frame of this.decoder.push(Buffer.from(bytes))) {
        const pairs = new Map(decodePairs(frame.payload) ?? []);
        if (frame.type === Frame.STATE) this.states.push(pairs);
        if (frame.type === Frame.ACK) this.acks.push(pairs);
      }
    });
  }

  static async boot(options: MachineOptions): Promise<Machine> {
    const kernel = (await $`${repo}/scripts/kernel guest`.quiet().text()).trim();
    const initramfs = (await $`${repo}/scripts/guest`.quiet().text()).trim();
    const run = mkdtempSync(join(options.folder, "run-"));
    mkdirSync(join(run, "cpio/dormouse"), { recursive: true });
    writeFileSync(join(run, "cpio/dormouse/config"), encodePairs(options.config));
    await $`cd ${run}/cpio && find . -mindepth 1 | cpio -o -H newc --quiet > ${run}/config.cpio && cat ${initramfs} ${run}/config.cpio > ${run}/initrd`.quiet();
    const drives = options.disks.flatMap((path, i) => [
      "-drive", `if=none,id=d${i},file=${path},format=raw,discard=unmap${i === 0 ? ",readonly=on" : ""}`, "-device", `virtio-blk-pci,drive=d${i}`,
    ]);
    const qemu = Bun.spawn([
      "qemu-system-x86_64", "-M", "pc,acpi=off", "-accel", "tcg", "-cpu", "max", "-m", String(options.memoryMb ?? 256), "-nodefaults", "-no-reboot", "-display", "none",
      "-kernel", kernel, "-initrd", join(run, "initrd"), "-append", "console=ttyS0 quiet reboot=k panic=-1",
      "-chardev", `file,id=serial,path=${run}/serial`, "-serial", "chardev:serial",
      // A file: QEMU drops what a console writes while its socket is full (hw/char/virtio-console.c).
      "-chardev", `file,id=hvc,path=${run}/hvc`, "-chardev", `socket,id=port,path=${run}/port,server=on,wait=on`,
      "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=hvc,nr=0", "-device", "virtserialport,chardev=port,name=dormouse,nr=1",
      ...drives,
      ...(options.network ? ["-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,mac=02:00:00:00:00:01"] : []),
    ], { stdio: ["ignore", "inherit", "inherit"] });
    return new Machine(qemu, await dial(join(run, "port")), run);
  }

  request(type: FrameType, ...pairs: Pair[]): void {
    this.port.write(encodeFrame(type, encodePairs(pairs)));
  }

  async ack(id: string): Promise<Map<string, string>> {
    return this.until(() => this.acks.find((ack) => ack.get("id") === id));
  }

  async state(name: string): Promise<Map<string, string>> {
    return this.until(() => this.states.find((state) => state.get("state") === name));
  }

  async text(part: string): Promise<void> {
    await this.until(() => this.output.includes(part));
  }

  /** Waits for the last report and for the machine's reset, which ends QEMU. */
  async ended(): Promise<Map<string, string>> {
    const state = await this.state("exited");
    await this.qemu.exited;
    return state;
  }

  /** What the workload has written so far. */
  get output(): string {
    return readFileSync(join(this.run, "hvc"), "latin1");
  }

  serial(): Promise<string> {
    return Bun.file(join(this.run, "serial")).text();
  }

  kill(): void {
    this.qemu.kill("SIGKILL");
  }

  private async until<T>(condition: () => T | undefined | false): Promise<T> {
    const serial = await this.serial().catch(() => "");
    return until(condition, () => `states ${JSON.stringify(this.states.map((s) => [...s]))}, output ${JSON.stringify(this.output.slice(-2000))}, serial ${serial.slice(-2000)}`);
  }
}

async function dial(path: string): Promise<Socket> {
  for (;;) {
    const socket = await new Promise<Socket | null>((resolve) => {
      const attempt = connect(path, () => resolve(attempt));
      attempt.once("error", () => resolve(null));
    });
    if (socket) return socket;
    await Bun.sleep(5);
  }
}

export const removeFolder = (folder: string): void => rmSync(folder, { recursive: true, force: true });
