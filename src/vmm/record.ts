// What the monitor knows of its guest, kept in memory and written whole to the status descriptor at each change: a daemon
// that was away learns from the file how its guest ended.
import { must } from "../ffi/syscall.ts";
import { SYS } from "../ffi/abi/syscalls.ts";
import { pwriteAll } from "../ffi/fd.ts";
import type { EndReason, VmmStatus } from "./protocol.ts";

const MAX_MESSAGE = 4096;

export class Record {
  private current: VmmStatus = {
    state: "created", bootedAt: null, runningAt: null, endedAt: null, reason: null, exitCode: null, exitMessage: null,
  };
  private statusFd = -1;
  /** Bytes in the file. */
  private written = 0;

  /** `changed` hears of every new status. */
  constructor(private readonly changed: (status: VmmStatus) => void) {}

  get status(): VmmStatus { return this.current; }

  /** Takes over the descriptor of status.json, which is empty. */
  open(statusFd: number): void { this.statusFd = statusFd; }

  booted(): void { this.update({ state: "initializing", bootedAt: Date.now() }); }
  running(): void {
    const { state, runningAt } = this.current;
    // Its word may come while it is being paused.
    if (runningAt === null && (state === "initializing" || state === "paused")) this.update({ state: state === "paused" ? state : "running", runningAt: Date.now() });
  }
  /** A guest that was saved, as old as it was then; it stays paused until resumed(). The answer to `restore` says so, and nobody else is told: that only keeps the daemon busy. */
  restored(bootedAt: number | null, runningAt: number | null): void {
    this.current = { ...this.current, state: "paused", bootedAt, runningAt };
    this.write();
  }
  paused(): void { this.update({ state: "paused" }); }
  resumed(): void { this.update({ state: this.current.runningAt === null ? "initializing" : "running" }); }

  /** The workload's own end, told by init before the machine resets; the first word counts. */
  exited(code: number, message: string, restart: boolean): void {
    if (this.current.reason !== null) return;
    this.update({ reason: restart ? "restart" : "exited", exitCode: code, exitMessage: message.slice(0, MAX_MESSAGE) });
  }

  /** The machine's end. What init said before stands. */
  ended(reason: EndReason, message: string): void {
    if (this.current.state === "ended") return;
    const said = this.current.reason !== null;
    this.update({
      state: "ended",
      endedAt: Date.now(),
      reason: said ? this.current.reason : reason,
      exitMessage: said ? this.current.exitMessage : message.slice(0, MAX_MESSAGE),
    });
  }

  private update(change: Partial<VmmStatus>): void {
    this.current = { ...this.current, ...change };
    this.write();
    this.changed(this.current);
  }

  /** One write: a reader sees the old or the new, and at most a tail of the old behind the line end. */
  private write(): void {
    if (this.statusFd < 0) return;
    const bytes = Buffer.from(JSON.stringify(this.current) + "\n");
    pwriteAll(this.statusFd, bytes, 0);
    // Not where there is nothing to cut: the file system's journal would be asked all the same.
    if (bytes.length < this.written) must("Cannot cut the status file", SYS.ftruncate, this.statusFd, bytes.length);
    this.written = bytes.length;
  }
}
