// The peer of the wake bench: nginx in a guest of QEMU's, saved to a migration file and restored from it. Same kernel, memory, vCPUs and
// nginx as ours; the machine is `pc` without ACPI, since the guest kernel has virtio over PCI only.
import { mkdirSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { command } from "../test/support/command.ts";
import { until } from "../test/support/until.ts";
import { benchInitrd, guestKernel, imageDisk } from "./files.ts";
import { qemuArguments, type GuestSpec } from "./guest.ts";
import { firstByte } from "./sleepers.ts";

const TAP = "dmbench0", HOST = "198.18.255.1", GUEST = "198.18.255.2"; // RFC 2544: for benchmarks
const MAC = "02:00:5e:10:00:02";
/** A TAP without QEMU drops what is sent to it: connections are tried anew this often, and the first that is answered counts. */
const TRY_MS = 50;

export class QemuSleeper implements AsyncDisposable {
  private constructor(private readonly arguments_: readonly string[], private readonly file: string) {}

  /** Boots the guest, waits for nginx, saves it and ends QEMU. `dir` is an empty folder. */
  static async start(dir: string, memoryMib: number): Promise<QemuSleeper> {
    mkdirSync(dir, { recursive: true });
    const spec: GuestSpec = {
      kernel: await guestKernel(), initrd: benchInitrd(dir), memoryMib, vcpus: 1, job: { job: "nginx", ip: GUEST },
      disks: [{ path: await imageDisk("nginx"), readonly: true }], tap: { name: TAP, mac: MAC },
    };
    await command(["ip", "tuntap", "add", "dev", TAP, "mode", "tap"]);
    await command(["ip", "addr", "add", `${HOST}/30`, "dev", TAP]);
    await command(["ip", "link", "set", TAP, "up"]);
    await command(["ip", "neigh", "replace", GUEST, "lladdr", MAC, "nud", "permanent", "dev", TAP]);
    const file = join(dir, "migration"), monitor = join(dir, "monitor");
    const sleeper = new QemuSleeper(qemuArguments(spec, join(dir, "serial")), file);
    const child = Bun.spawn([...sleeper.arguments_, "-monitor", `unix:${monitor},server=on,wait=off`], { stdin: "ignore", stdout: "ignore", stderr: "inherit" });
    await until("nginx under QEMU", () => firstByte(GUEST));
    await migrate(monitor, file);
    child.kill("SIGKILL");
    await child.exited;
    return sleeper;
  }

  /** Milliseconds from the start of QEMU's process to the first byte of nginx. */
  async wake(): Promise<number> {
    const started = performance.now();
    const child = Bun.spawn([...this.arguments_, "-incoming", `exec:cat ${this.file}`], { stdin: "ignore", stdout: "ignore", stderr: "inherit" });
    let answered = false;
    const tries: Promise<number>[] = [];
    try {
      return await new Promise((resolve, reject) => {
        void child.exited.then((status) => { if (!answered) reject(new Error(`QEMU ended with status ${status}`)); });
        const attempt = () => {
          if (answered) return;
          tries.push(firstByte(GUEST).then(() => { answered = true; resolve(performance.now() - started); return 0; }, () => 0));
          setTimeout(attempt, TRY_MS);
        };
        attempt();
      });
    } finally {
      answered = true;
      child.kill("SIGKILL");
      await child.exited;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> { await command(["ip", "link", "del", TAP]); }
}

/** Saves the guest while it runs, as long as it takes; QEMU stops it at the end. */
async function migrate(monitor: string, file: string): Promise<void> {
  let said = "";
  const socket = await new Promise<Socket>((resolve, reject) => {
    const one: Socket = connect({ path: monitor }, () => resolve(one));
    one.on("error", reject);
    one.on("data", (bytes: Buffer) => { said += bytes.toString("latin1"); });
  });
  try {
    socket.write(`migrate -d "exec:cat > ${file}"\n`);
    await until("QEMU's migration", () => {
      socket.write("info migrate\n");
      if (/Migration status: failed/.test(said)) throw new Error(said.slice(-500));
      return /Migration status: completed/.test(said);
    });
  } finally {
    socket.destroy();
  }
}
