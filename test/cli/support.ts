// Runs the command line as its users do: a process of its own, from the sources or as the compiled executable.
import { join } from "node:path";
import { repo } from "../support/paths.ts";

export interface Ended { readonly status: number; readonly out: string; readonly err: string }
export interface RunOptions { readonly env?: Readonly<Record<string, string>>; readonly input?: string | Uint8Array; readonly cwd?: string; readonly program?: readonly string[] }

export const SOURCES = [process.execPath, join(repo, "src/main.ts")] as const;

/** A process that runs on; its output is collected. Nothing of our own environment but PATH and HOME goes in. */
export function startCli(args: readonly string[], { env = {}, input, cwd, program = SOURCES }: RunOptions = {}) {
  const child = Bun.spawn([...program, ...args], {
    stdin: input === undefined ? "ignore" : typeof input === "string" ? Buffer.from(input) : input,
    stdout: "pipe",
    stderr: "pipe",
    env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "/root", ...env },
    ...(cwd === undefined ? {} : { cwd }),
  });
  const said = Promise.all([child.stdout.text(), child.stderr.text()]);
  const ended = child.exited.then(async (status): Promise<Ended> => {
    const [out, err] = await said;
    return { status, out, err };
  });
  return { child, ended };
}

export const runCli = (args: readonly string[], options?: RunOptions): Promise<Ended> => startCli(args, options).ended;

let building: Promise<string> | undefined;

/** The compiled executable, built once a test run (a second), without a guest. */
export const executable = (): Promise<string> => (building ??= build());

async function build(): Promise<string> {
  const path = join(repo, "dist", "test", "dormouse");
  const child = Bun.spawn([process.execPath, join(repo, "build.ts"), "--no-guest", "--out", path], { stdout: "pipe", stderr: "pipe" });
  const [err, status] = await Promise.all([child.stderr.text(), child.exited]);
  if (status !== 0) throw new Error(`Cannot build the executable:\n${err}`);
  return path;
}
