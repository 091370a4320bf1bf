// The last of what a guest printed on its serial port, and what it says of a kernel panic.

const KEEP = 8192;

/** The last KEEP bytes. */
export class Tail {
  private bytes: Uint8Array = new Uint8Array(0);
  add(more: Uint8Array): void {
    const all = Buffer.concat([this.bytes, more]);
    this.bytes = all.subarray(Math.max(0, all.length - KEEP));
  }
  text(): string { return Buffer.from(this.bytes).toString("latin1"); }
}

/** `Kernel panic - not syncing: …` with the lines after it, time stamps removed; null where there was none. */
export function panicMessage(serial: string): string | null {
  const lines = serial.split("\n").map((line) => line.replace(/^\[\s*\d+\.\d+\]\s?/, "").trimEnd());
  const at = lines.findLastIndex((line) => line.startsWith("Kernel panic"));
  return at < 0 ? null : lines.slice(at, at + 12).filter((line) => line !== "").join("\n");
}
