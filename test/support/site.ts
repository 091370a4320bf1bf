// A daemon that has images, and the verbs of instances as tests use them. Everything goes with it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { ImageName } from "./recipes.ts";
import { convertedImages, localName, type SiteImages } from "./converted.ts";
import { Daemon } from "./daemon.ts";
import { execOutput } from "./exec.ts";
import { guestLog } from "./guest-log.ts";
import { describeThreads } from "./threads.ts";

export interface Seen {
  readonly id: string;
  readonly name: string;
  readonly state: string;
  readonly state_error?: string | null;
  readonly exit_code: number | null;
  readonly exit_message?: string | null;
  readonly has_snapshot?: boolean;
  readonly network?: { readonly ip?: string };
}
export interface Refusal { readonly status: number; readonly code: string; readonly message: string }

function monitorsOf(id: string): number[] {
  try {
    return readFileSync(join("/sys/fs/cgroup/dormouse", id, "cgroup.procs"), "utf8").split("\n").filter(Boolean).map(Number);
  } catch {
    return []; // it has ended
  }
}

/** As the API has durations. */
const REACH_TIMEOUT = "2m", STOP_GRACE = "1s";

export class Site {
  private constructor(readonly daemon: Daemon) {}

  static async start(images: SiteImages, options: { dataDir?: string; flags?: readonly string[] } = {}): Promise<Site> {
    return new Site(await Daemon.start({ ...options, seed: await convertedImages(images) }));
  }

  /** Running: its program was started, and may not listen yet. */
  async boot(name: string, image: ImageName, body: Readonly<Record<string, unknown>> = {}): Promise<Seen> {
    await this.daemon.api("POST", "/instances", { name, image: localName(image), size: "256MB", vcpus: 1, overlay_size: "1GB", ...body });
    try {
      return await this.reached(name, "Running");
    } catch (error) {
      const seen = await this.stuck(name).catch((why: unknown) => `and what it is at can't be seen: ${String(why)}`);
      throw new Error(`${String(error)}; ${seen}`);
    }
  }

  /** All that can be seen of an instance that does not get on. */
  private async stuck(name: string): Promise<string> {
    const { id } = await this.get(name);
    const threads = await Promise.all(monitorsOf(id).map(async (pid) =>
      `threads of monitor ${pid}:\n${await describeThreads(pid)}\nits kernel logged last:\n${guestLog(pid, 20).join("\n")}`));
    return [...threads, `its serial port said last:\n${(await this.daemon.logs(name, "vmm", 40)).join("\n")}`].join("\n");
  }

  /** How it came to be what it is, for a test that failed. */
  async story(name: string): Promise<string> {
    const { state, state_error, exit_message } = await this.get(name), logs = async (source: "dormouse" | "vmm") => (await this.daemon.logs(name, source, 20)).join("\n");
    return [`${name} is ${state}: ${state_error ?? exit_message ?? "no word why"}`, await logs("dormouse"), await logs("vmm")].join("\n");
  }

  get(ref: string): Promise<Seen> { return this.daemon.api("GET", `/instances/${ref}`); }

  async reached(ref: string, state: string): Promise<Seen> {
    const { timed_out } = await this.daemon.api<{ timed_out: boolean }>("GET", `/instances/${ref}/wait?state=${state}&timeout=${REACH_TIMEOUT}`);
    const one = await this.get(ref);
    if (one.state === state) return one;
    throw new Error(`${timed_out ? `Gave up after ${REACH_TIMEOUT} waiting` : "There is no waiting"} for ${ref} to be ${state}: it is ${one.state}: ${one.state_error ?? one.exit_message ?? "no word why"}`);
  }

  /** `POST /instances/{ref}/{verb}`, which must succeed and end in `state`. */
  async verb(ref: string, verb: "standby" | "restore", body?: unknown): Promise<Seen> {
    const one = await this.daemon.api<Seen>("POST", `/instances/${ref}/${verb}`, body);
    const state = verb === "standby" ? "Standby" : "Running";
    if (one.state !== state) throw new Error(`${verb} of ${ref} was answered with the state ${one.state}`);
    return one;
  }

  /** Asks its program to end, and soon ends it: images' shells and servers as PID 1 are deaf to SIGTERM, and nobody is served by the wait. */
  async stop(ref: string): Promise<Seen> {
    const one = await this.daemon.api<Seen>("POST", `/instances/${ref}/stop?grace=${STOP_GRACE}`);
    if (one.state !== "Stopped") throw new Error(`stop of ${ref} was answered with the state ${one.state}`);
    return one;
  }

  /** Running: its program was started. */
  async start(ref: string): Promise<Seen> {
    await this.daemon.api("POST", `/instances/${ref}/start`);
    return this.reached(ref, "Running");
  }

  /** A request that must be refused. */
  async refused(method: string, path: string, body?: unknown): Promise<Refusal> {
    const init: RequestInit = body === undefined ? { method } : { method, body: JSON.stringify(body), headers: { "content-type": "application/json" } };
    const answer = await fetch(`${this.daemon.url}${path}`, init);
    const text = await answer.text();
    if (answer.ok) throw new Error(`${method} ${path} was not refused: ${text}`);
    return { status: answer.status, ...(JSON.parse(text) as { code: string; message: string }) };
  }

  /** A command in an instance that must succeed; its standard output. */
  exec(ref: string, ...command: readonly string[]): Promise<string> { return execOutput(this.daemon.url, ref, command); }

  async remove(...refs: readonly string[]): Promise<void> {
    for (const ref of refs) await this.daemon.remove(ref);
  }

  /** Lines of what the daemon did to an instance that have `text` in them. */
  async told(ref: string, text: string): Promise<number> {
    return (await this.daemon.logs(ref, "dormouse")).filter((line) => line.includes(text)).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon[Symbol.asyncDispose]();
  }
}
