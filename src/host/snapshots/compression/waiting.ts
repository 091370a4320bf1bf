// What is still to be compressed, and the one timer for the next of it.
import type { Clock } from "../../clock.ts";
import type { Algorithm } from "./codec.ts";

export interface Wanted { readonly gid: string; readonly dir: string; readonly algorithm: Algorithm; readonly level: number; readonly dueAt: number }

/** Calls `onDue` when something may be due; the owner takes it, and asks again once it has room for more. */
export class Waiting {
  private readonly byId = new Map<string, Wanted>();
  private unset: () => void = () => {};

  constructor(readonly clock: Clock, private readonly onDue: () => void) {}

  add(wanted: Wanted): void {
    this.byId.set(wanted.gid, wanted);
    this.arm();
  }

  find(gid: string): Wanted | null {
    return this.byId.get(gid) ?? null;
  }

  /** False where it was not waiting. */
  remove(gid: string): boolean {
    return this.byId.delete(gid);
  }

  /** The one that is due longest; null where none is, and then onDue() comes when there is. */
  take(): Wanted | null {
    const first = this.first();
    if (first === null) return null;
    if (first.dueAt > this.clock.now()) {
      this.arm();
      return null;
    }
    this.byId.delete(first.gid);
    return first;
  }

  close(): void {
    this.byId.clear();
    this.unset();
  }

  private first(): Wanted | null {
    let first: Wanted | null = null;
    for (const wanted of this.byId.values()) if (first === null || wanted.dueAt < first.dueAt) first = wanted;
    return first;
  }

  private arm(): void {
    this.unset();
    const first = this.first();
    if (first !== null) this.unset = this.clock.after(first.dueAt - this.clock.now(), this.onDue);
  }
}
