// Other programs, run to their end. Throws with what they said: in tests and scripts nothing goes on after a failure.
export class CommandError extends Error {
  override readonly name = "CommandError";
}

/** Its standard output. `env` is added to ours. */
export async function command(argv: readonly string[], options: { env?: Record<string, string>; cwd?: string; input?: Uint8Array } = {}): Promise<string> {
  const child = Bun.spawn([...argv], {
    stdin: options.input ?? "ignore", stdout: "pipe", stderr: "pipe", env: { ...process.env, ...options.env }, ...(options.cwd ? { cwd: options.cwd } : {}),
  });
  const [out, err, status] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  if (status !== 0) throw new CommandError(`Cannot run ${argv.join(" ")}: status ${status}: ${err.trim() || out.trim()}`);
  return out;
}
