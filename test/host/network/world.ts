// A world for the network's tests: this thread moves into a new network namespace, the "host"; the outside and every
// guest are processes in namespaces of their own. Nothing of the machine's own network is touched.
import { Database } from "bun:sqlite";
import { afterAll, beforeAll } from "bun:test";
import { closeFd, O_RDONLY, openFd } from "../../../src/ffi/fd.ts";
import { must } from "../../../src/ffi/syscall.ts";
import { SYS } from "../../../src/ffi/abi/syscalls.ts";
import { networkMigrations } from "../../../src/host/network/network.ts";
import type { Lease, NetworkService } from "../../../src/host/network/service.ts";
import type { Command } from "./peer.ts";

const CLONE_NEWNET = 0x40000000;
const PEER = new URL("./peer.ts", import.meta.url).pathname;

export const HOST_ADDRESS = "192.0.2.1", OUTSIDE_ADDRESS = "192.0.2.2";

/** Moves this thread, and the processes that it starts, into a new network namespace until the function returned is called. */
export function enterNamespace(): () => void {
  const home = openFd("/proc/thread-self/ns/net", O_RDONLY);
  must("Cannot make a network namespace", SYS.unshare, CLONE_NEWNET);
  return () => {
    must("Cannot leave the network namespace", SYS.setns, home, CLONE_NEWNET);
    closeFd(home);
  };
}

/** For all tests of a file: a namespace of their own, of which only the loopback is up. */
export function inNamespace(): void {
  let leave: () => void;
  beforeAll(() => {
    leave = enterNamespace();
    run("ip", "link", "set", "lo", "up");
  });
  afterAll(() => leave());
}

export function run(...command: string[]): string {
  const done = Bun.spawnSync(command, { stderr: "pipe" });
  if (!done.success) throw new Error(`${command.join(" ")}: ${done.stderr.toString()}`);
  return done.stdout.toString();
}

export function database(): Database {
  const db = new Database(":memory:");
  db.exec("PRAGMA foreign_keys = ON");
  for (const migration of networkMigrations) db.exec(migration.sql);
  return db;
}

/** A machine of peer.ts. */
export class Peer {
  private readonly process;
  private readonly lines: AsyncGenerator<string>;

  constructor(tap?: number) {
    this.process = Bun.spawn(["unshare", "-n", process.execPath, PEER], { stdio: ["pipe", "pipe", "inherit", ...(tap === undefined ? [] : [tap])] });
    this.lines = linesOf(this.process.stdout as ReadableStream<Uint8Array>);
  }

  get pid(): number { return this.process.pid; }

  async tell(command: Command): Promise<string> {
    const stdin = this.process.stdin as Bun.FileSink;
    stdin.write(`${JSON.stringify(command)}\n`);
    await stdin.flush();
    const line = await this.lines.next();
    if (line.done) throw new Error("the peer ended");
    const answer = JSON.parse(line.value) as { ok?: string; error?: string };
    if (answer.ok === undefined) throw new Error(answer.error);
    return answer.ok;
  }

  serve(protocol: "tcp" | "udp", port: number, name: string): Promise<string> { return this.tell({ do: "serve", protocol, port, name }); }
  ask(protocol: "tcp" | "udp", host: string, port: number): Promise<string> { return this.tell({ do: "ask", protocol, host, port }); }
  async heard(): Promise<string[]> { return JSON.parse(await this.tell({ do: "heard" })) as string[]; }
  async close(): Promise<void> {
    this.process.kill("SIGKILL");
    await this.process.exited;
  }
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const chunk of stream) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = parts.pop() ?? "";
    yield* parts;
  }
}

/** A host with a network to the outside: 192.0.2.1 here, 192.0.2.2 there, and no way back but to 192.0.2.1. */
export async function outside(): Promise<Peer> {
  run("ip", "link", "set", "lo", "up");
  const peer = new Peer();
  await peer.heard(); // it is in its own namespace by now
  run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "eth0", "netns", String(peer.pid));
  run("ip", "link", "set", "out0", "addrgenmode", "none"); // else it changes by itself: the kernel gives it an address, a second later for good
  run("ip", "addr", "add", `${HOST_ADDRESS}/24`, "dev", "out0");
  run("ip", "link", "set", "out0", "up");
  run("nsenter", "-t", String(peer.pid), "-n", "ip", "addr", "add", `${OUTSIDE_ADDRESS}/24`, "dev", "eth0");
  run("nsenter", "-t", String(peer.pid), "-n", "ip", "link", "set", "eth0", "up");
  return peer;
}

/** A guest with a lease: its TAP is opened as the daemon does, and driven by a process that owns it then. */
export async function guest(network: NetworkService, id: string): Promise<{ peer: Peer; lease: Lease }> {
  const lease = network.allocate(id)._unsafeUnwrap();
  const fd = (await network.openTap(lease))._unsafeUnwrap();
  const peer = new Peer(fd);
  await peer.tell({ do: "guest", ip: lease.ip, mac: lease.mac, gateway: lease.gateway });
  closeFd(fd);
  return { peer, lease };
}

/** All of the host's network that the domain could have changed, as text to compare. */
export function picture(): string {
  const sysctls = run("sysctl", "-a", "--pattern", "^net\\.ipv4\\.(ip_forward|conf\\.)");
  return [run("nft", "-s", "list", "ruleset"), run("ip", "addr"), run("ip", "route", "show", "table", "all"), run("ip", "neigh", "show", "nud", "permanent"), run("ip", "rule"), sysctls]
    .join("\n").replace(/ (state|master|link-netnsid) \S+/g, "").replace(/(valid|preferred)_lft \S+/g, "");
}

/** Packets that a rule of our table has counted, by its comment. */
export function counted(comment: string): number {
  const found = new RegExp(`packets (\\d+) bytes \\d+ .*comment "${comment}"`).exec(run("nft", "list", "table", "ip", "dormouse"));
  if (found === null) throw new Error(`no rule counts "${comment}"`);
  return Number(found[1]);
}
