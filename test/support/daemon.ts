// The built executable as users have it: `dormouse serve` with a data folder of its own, and commands against it.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { command, CommandError } from "./command.ts";
import { repo, TempDir } from "./paths.ts";

export const executable = join(repo, "dist/dormouse");
/** The guest's kernel and initramfs as a daemon unpacks them, made by scripts/lib/images.ts; where they are not those of the executable, a daemon replaces them. */
export const unpacked = join(repo, "dist/artifacts");
const LOG_TAIL = 256 * 1024;

/** The TAPs in this network namespace. /sys/class/net has those of the namespace that it was mounted in. */
export const taps = (): string[] => [...readFileSync("/proc/net/dev", "utf8").matchAll(/^\s*(dormouse-[^:]+):/gm)].map(([, name]) => name!);

export interface Done { readonly status: number; readonly stdout: string; readonly stderr: string }

/** One command of the executable, to its end. */
export async function dormouse(args: readonly string[], options: { input?: string; env?: Record<string, string> } = {}): Promise<Done> {
  const child = Bun.spawn([executable, ...args], {
    stdin: options.input === undefined ? "ignore" : Buffer.from(options.input), stdout: "pipe", stderr: "pipe", env: { ...process.env, ...options.env },
  });
  const [stdout, stderr, status] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { status, stdout, stderr };
}

/** The database is the daemon's own to write. What is only read is linked to: to copy a hundred MiB, or to unpack a kernel, takes an emulated processor seconds. */
async function plant(seed: string, dataDir: string): Promise<void> {
  const read = [`${seed}/images`, ...(existsSync(unpacked) ? [unpacked] : [])];
  await command(["cp", "-r", "--symbolic-link", ...read, dataDir]);
  await command(["cp", "--preserve=mode", join(seed, "dormouse.db"), dataDir]);
}

/** A running daemon. It keeps its data folder over stop() and start(), until it is disposed. */
export class Daemon {
  private child: Bun.Subprocess<"ignore", "ignore", "pipe"> | null = null;
  private said = "";
  /** `http://127.0.0.1:PORT` once it listens. */
  url = "";

  private constructor(readonly dataDir: string, private readonly temp: TempDir | null, private readonly flags: readonly string[]) {}

  /** In the testbed the data folder lies on its ext4 disk; elsewhere where temporary files do. With `seed` it begins with the images in there and an unpacked guest. `flags` go to `serve`. */
  static async start(options: { dataDir?: string; seed?: string; flags?: readonly string[] } = {}): Promise<Daemon> {
    if (!existsSync(executable)) throw new Error(`Cannot start ${executable}: build it with \`bun run build\``);
    const temp = options.dataDir === undefined ? new TempDir("data", process.env["DORMOUSE_TESTBED"] === "1" ? "/var/lib/dormouse" : undefined) : null;
    const daemon = new Daemon(options.dataDir ?? temp!.path, temp, options.flags ?? []);
    if (options.seed !== undefined) await plant(options.seed, daemon.dataDir);
    await daemon.start();
    return daemon;
  }

  /** Its log since the last start. */
  get log(): string { return this.said; }
  get pid(): number | null { return this.child?.pid ?? null; }

  /** Starts it (again) and waits until the API answers. */
  async start(): Promise<void> {
    this.said = "";
    const child = Bun.spawn([executable, "serve", "--listen", "127.0.0.1:0", "--data-dir", this.dataDir, ...this.flags], { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
    this.child = child;
    const address = await new Promise<string | null>((found) => void this.readLog(child.stderr, found));
    if (address === null) throw new Error(`dormouse serve ended with status ${await child.exited}:\n${this.said}`);
    this.url = `http://${address}`;
    const health = await fetch(`${this.url}/health`);
    if (!health.ok) throw new Error(`dormouse serve is not healthy: ${health.status} ${await health.text()}`);
  }

  private async readLog(stream: ReadableStream<Uint8Array>, found: (address: string | null) => void): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of stream) {
      this.said = (this.said + decoder.decode(chunk, { stream: true })).slice(-LOG_TAIL);
      const address = /127\.0\.0\.1:\d*[1-9]\d*/.exec(this.said)?.[0];
      if (address !== undefined) found(address);
    }
    found(null);
  }

  /** One command against it; any status. */
  try(args: readonly string[], options: { input?: string } = {}): Promise<Done> {
    return dormouse(args, { ...options, env: { DORMOUSE_HOST: this.url } });
  }

  /** One command against it that must succeed; its standard output. */
  async run(args: readonly string[], options: { input?: string } = {}): Promise<string> {
    const { status, stdout, stderr } = await this.try(args, options);
    if (status !== 0) throw new CommandError(`dormouse ${args.join(" ")}: status ${status}: ${stderr.trim() || stdout.trim()}`);
    return stdout;
  }

  /** One request that must succeed; its JSON. */
  async api<T>(method: string, path: string, body?: unknown): Promise<T> {
    const init: RequestInit = body === undefined ? { method } : { method, body: JSON.stringify(body), headers: { "content-type": "application/json" } };
    const answer = await fetch(`${this.url}${path}`, init);
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return (text.trim() === "" ? null : JSON.parse(text)) as T;
  }

  /** The lines of an instance's log so far; what only the command's own test needs a process for. */
  async logs(ref: string, source: "app" | "vmm" | "dormouse" = "app", tail = 100_000): Promise<string[]> {
    const answer = await fetch(`${this.url}/instances/${ref}/logs?source=${source}&tail=${tail}`);
    const text = await answer.text();
    if (!answer.ok) throw new Error(`Cannot read the log of ${ref}: ${answer.status} ${text}`);
    return text.split("\n").filter((line) => line.startsWith("data: ")).map((line) => JSON.parse(line.slice("data: ".length)) as string);
  }

  /** At once, whatever it is at. */
  async remove(ref: string): Promise<void> { await this.api("DELETE", `/instances/${ref}?graceful_shutdown=false`); }

  /** Ends the daemon; guests run on. `SIGKILL` is a crash. */
  async stop(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
    this.child?.kill(signal);
    await this.child?.exited;
    this.child = null;
  }

  /** Removes every instance, the daemon, what it made of the host's network, and its data. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.child !== null && this.child.exitCode === null) {
      const instances = await this.api<{ id: string }[]>("GET", "/instances");
      for (const { id } of instances) await this.remove(id).catch(() => {}); // it is gone, or goes with its folder
    }
    await this.stop();
    await dormouse(["serve", "--teardown", "--data-dir", this.dataDir]);
    this.temp?.[Symbol.dispose]();
  }
}
