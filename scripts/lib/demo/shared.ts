// What the demo's parts share: talking to instances, waiting for them, timing steps, saying what happens.
import type { Daemon } from "../../../test/support/daemon.ts";

export interface Instance { readonly id: string; readonly name: string; readonly state: string; readonly exit_message?: string; readonly network: { readonly ip: string } }

export const say = (text: string): void => void process.stderr.write(`\x1b[2m[demo]\x1b[0m ${text}\n`);

export function expectText(text: string, pattern: RegExp): void {
  if (!pattern.test(text)) throw new Error(`expected ${pattern}, got ${JSON.stringify(text.slice(0, 200))}`);
}

/** One request over a connection of its own, so that each finds out anew whether its server can be reached. */
export const http = (port: number, path: string, says: RegExp, limitMs = 5_000) => async (ip: string): Promise<void> => {
  const answer = await fetch(`http://${ip}:${port}${path}`, { signal: AbortSignal.timeout(limitMs), keepalive: false, headers: { connection: "close" } });
  expectText(`${answer.status} ${await answer.text()}`, says);
};

/** Once it is Running; the error says why it isn't, and what its monitor said last. */
export async function running(daemon: Daemon, id: string): Promise<Instance> {
  const { state } = await daemon.api<{ state: string }>("GET", `/instances/${id}/wait?state=Running&timeout=120s`);
  const instance = await daemon.api<Instance>("GET", `/instances/${id}`);
  if (state !== "Running") {
    const why = `it is ${state}: ${instance.exit_message ?? "no reason on record"}`;
    throw new Error(`${why}; its monitor's log ends with:\n${(await daemon.try(["logs", "--source", "vmm", "-n", "30", id])).stdout}`);
  }
  return instance;
}

/** Milliseconds of each step, in the order of its first run. */
export class Timings {
  readonly ms = new Map<string, number>();

  constructor(private readonly of: string) {}

  /** Runs one step; what it throws says which it was. */
  async step<T>(name: string, work: () => Promise<T>): Promise<T> {
    const started = performance.now();
    try {
      return await work();
    } catch (error) {
      throw new Error(`${this.of}: ${name}: ${error instanceof Error ? error.message : String(error)}`);
    } finally {
      this.ms.set(name, performance.now() - started);
    }
  }
}

/** Rows of the same steps. */
export function printTable(rows: readonly (readonly [string, Timings])[]): void {
  const columns = [...(rows[0]?.[1].ms.keys() ?? [])];
  const line = (cells: readonly string[]): string => cells.map((cell, i) => (i === 0 ? cell.padEnd(8) : cell.padStart(Math.max(9, (columns[i - 1] ?? "").length + 2)))).join("");
  console.log(line(["ms", ...columns]));
  for (const [name, { ms }] of rows) console.log(line([name, ...columns.map((column) => (ms.get(column) ?? 0).toFixed(0))]));
}
