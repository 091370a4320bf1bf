// Drives the agent (harness.c) with frames, as the daemon and the monitor do.
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { dirname, join } from "node:path";
import { $, type Subprocess } from "bun";
import { encodeChunks, encodeFrame, encodeResize, encodeSignal, FrameDecoder, type FrameType } from "../../src/host/agent/frames.ts";
import { decodePairs, encodePairs, type Pair } from "../../src/pairs.ts";
import { Frame } from "../../src/vmm/protocol.ts";
import { until } from "./machine.ts";

const repo = join(import.meta.dir, "../..");

/** Compiles the harness with the compiler and flags of scripts/guest. */
export async function buildHarness(folder: string): Promise<string> {
  const out = join(folder, "harness");
  await $`${repo}/scripts/guest`.quiet(); // installs the compiler where it lacks
  const sources = [...new Bun.Glob("*.c").scanSync(join(repo, "src/guest"))].filter((name) => name !== "init.c").map((name) => join(repo, "src/guest", name));
  await $`musl-gcc -std=gnu11 -D_GNU_SOURCE -static -O1 -g -Wall -Wextra -Werror -idirafter /usr/include -idirafter /usr/include/x86_64-linux-gnu -I ${repo}/src/guest -o ${out} ${join(import.meta.dir, "harness.c")} ${sources}`;
  return out;
}

/** What every test's image has in /etc. */
export const USERS = {
  "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n",
  "etc/group": "root:x:0:\nann:x:1000:\naudio:x:29:bob,ann\nstaff:x:50:ann\nother:x:60:bob\n",
};

/** A root with busybox, /etc/passwd and /etc/group, and the given files (0755). */
export async function makeRoot(folder: string, files: Record<string, string> = {}): Promise<void> {
  const root = join(folder, "rootfs");
  for (const dir of ["bin", "etc", "dev", "proc", "tmp", "home/ann"]) mkdirSync(join(root, dir), { recursive: true });
  await $`cp /bin/busybox ${root}/bin/busybox && chroot ${root} /bin/busybox --install -s /bin && chmod 1777 ${root}/tmp`.quiet();
  for (const [path, text] of Object.entries({ ...USERS, ...files })) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text, { mode: 0o755 });
  }
}

const dial = (path: string): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = connect(path, () => resolve(socket));
    socket.once("error", reject);
  });

type Pairs = Map<string, string>;
const pairsOf = (payload: Uint8Array): Pairs => new Map(decodePairs(payload) ?? []);

/** The stream under a session. */
export interface Wire {
  send(frame: Uint8Array): void;
  pause(): void;
  resume(): void;
  hangUp(): void;
}

/** One connection to the agent, and what came over it. */
export class Session {
  stdout = "";
  stderr = "";
  bytes = 0;
  started: Pairs | null = null;
  end: Pairs | null = null;
  error: Pairs | null = null;
  closed = false;
  /** Frames of a transfer of files, in their order. */
  readonly frames: { type: number; payload: Buffer }[] = [];
  /** Frame types in their order, repeats left out. */
  readonly order: number[] = [];

  constructor(private readonly wire: Wire) {}

  static over(socket: Socket): Session {
    const session = new Session({
      send: (frame) => void socket.write(frame), pause: () => void socket.pause(), resume: () => void socket.resume(), hangUp: () => void socket.destroy(),
    });
    const decoder = new FrameDecoder();
    socket.on("data", (data) => decoder.push(Buffer.from(data)).forEach(({ type, payload }) => session.take(type, payload)));
    socket.on("close", () => (session.closed = true));
    socket.on("error", () => (session.closed = true));
    return session;
  }

  take(type: number, payload: Uint8Array): void {
    if (this.order.at(-1) !== type) this.order.push(type);
    if (type === Frame.STDOUT || type === Frame.STDERR) this.bytes += payload.length;
    if (type === Frame.STDOUT) this.stdout += Buffer.from(payload).toString("latin1");
    if (type === Frame.STDERR) this.stderr += Buffer.from(payload).toString("latin1");
    if (type === Frame.STARTED) this.started = pairsOf(payload);
    if (type === Frame.EXIT) this.end = pairsOf(payload);
    if (type === Frame.ERROR) this.error = pairsOf(payload);
    if (type >= Frame.ENTRY) this.frames.push({ type, payload: Buffer.from(payload) });
  }

  send(type: FrameType, payload?: Uint8Array): void { this.wire.send(encodeFrame(type, payload)); }
  raw(frame: Uint8Array): void { this.wire.send(frame); }
  stdin(text: string | Uint8Array): void { encodeChunks(Frame.STDIN, Buffer.from(text)).forEach((frame) => this.wire.send(frame)); }
  endStdin(): void { this.send(Frame.STDIN); }
  resize(rows: number, cols: number): void { this.wire.send(encodeResize(rows, cols)); }
  signal(number: number): void { this.wire.send(encodeSignal(number)); }
  pause(): void { this.wire.pause(); }
  resume(): void { this.wire.resume(); }
  hangUp(): void { this.wire.hangUp(); }

  until<T>(condition: () => T | undefined | null | false): Promise<T> {
    return until(condition, () => `stdout ${JSON.stringify(this.stdout.slice(-500))}, stderr ${JSON.stringify(this.stderr.slice(-500))}, started ${this.started !== null}, closed ${this.closed}`);
  }
  /** The exit code of EXIT. */
  async code(): Promise<number> {
    const end = await this.until(() => this.end ?? this.error);
    return Number(end.get("code"));
  }
}

/** Sessions of an agent, however it is connected to. */
export abstract class Agent {
  abstract session(): Promise<Session>;

  async exec(args: readonly string[], ...pairs: Pair[]): Promise<Session> {
    const session = await this.session();
    session.send(Frame.EXEC, encodePairs([...args.map((arg): Pair => ["arg", arg]), ...pairs]));
    return session;
  }
  sh(script: string, ...pairs: Pair[]): Promise<Session> { return this.exec(["sh", "-c", script], ...pairs); }

  async attach(): Promise<Session> {
    const session = await this.session();
    session.send(Frame.ATTACH);
    return session;
  }
}

export class Guest extends Agent {
  readonly states: Pairs[] = [];
  readonly acks: Pairs[] = [];
  output = "";
  private readonly decoder = new FrameDecoder();
  /** All of its output has been read. */
  private readonly said: Promise<void>;

  private constructor(private readonly folder: string, readonly process: Subprocess<"ignore", "pipe", "inherit">, private readonly port: Socket) {
    super();
    port.on("data", (data) => {
      for (const { type, payload } of this.decoder.push(Buffer.from(data))) (type === Frame.STATE ? this.states : this.acks).push(pairsOf(payload));
    });
    this.said = this.read();
  }

  private async read(): Promise<void> {
    const decoder = new TextDecoder("latin1");
    for await (const chunk of this.process.stdout) this.output += decoder.decode(chunk);
  }

  /** `folder` holds rootfs/ (makeRoot). Resolves when the workload has been reported running, or has ended. */
  static async start(harness: string, folder: string, config: readonly Pair[]): Promise<Guest> {
    writeFileSync(join(folder, "config"), encodePairs([["hostname", "box"], ...config]));
    const process = Bun.spawn([harness, folder], { stdio: ["ignore", "pipe", "inherit"] });
    const path = join(folder, "port.sock");
    await until(() => existsSync(path) || process.exitCode !== null, () => "the harness makes no port.sock");
    const port = await dial(path);
    port.write("b"); // it begins now that we are connected
    const guest = new Guest(folder, process, port);
    await guest.until(() => guest.states.some((s) => s.get("state") !== "initializing"));
    return guest;
  }

  request(type: FrameType, ...pairs: Pair[]): void { this.port.write(encodeFrame(type, encodePairs(pairs))); }

  until<T>(condition: () => T | undefined | null | false): Promise<T> {
    return until(condition, () => `states ${JSON.stringify(this.states.map((s) => [...s]))}, output ${JSON.stringify(this.output.slice(-500))}`);
  }

  async session(): Promise<Session> { return Session.over(await dial(join(this.folder, "agent.sock"))); }

  async ended(): Promise<Pairs> {
    const state = await this.until(() => this.states.find((s) => s.get("state") === "exited"));
    await Promise.all([this.process.exited, this.said]);
    return state;
  }

  /** The workload dies with the harness. */
  kill(): void { this.process.kill("SIGKILL"); }
}
