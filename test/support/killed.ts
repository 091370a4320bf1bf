// Processes that a test kills at a point that they tell.

/** Runs `argv` and kills it (SIGKILL) as soon as it says `line`; true where it was not done by then. */
export async function killedAt(argv: readonly string[], line: string): Promise<boolean> {
  const child = Bun.spawn([...argv], { stdin: "ignore", stdout: "pipe", stderr: "inherit" });
  const decoder = new TextDecoder();
  let said = "";
  for await (const chunk of child.stdout) {
    said += decoder.decode(chunk, { stream: true });
    if (!said.split("\n").slice(0, -1).includes(line)) continue;
    child.kill("SIGKILL");
    break;
  }
  await child.exited;
  return child.signalCode === "SIGKILL";
}
