// Running → saved, and whole or not at all. Steps run one after another and call back; between any two of them, and between
// pieces of a long one, the save can be called off. Whatever fails, the guest runs on as if nothing had been.
import { EPOLLIN, EventFd, type Epoll } from "../../ffi/epoll.ts";
import { closeFd } from "../../ffi/fd.ts";
import { Mapping } from "../../ffi/memory.ts";
import { must } from "../../ffi/syscall.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { cpuFeatures } from "../../machine-state/cpu.ts";
import { overlay, type Content, type Extent } from "../../machine-state/extents.ts";
import { encodeMachine, PAGE_BYTES } from "../../machine-state/saved-machine.ts";
import { machineParams, type Guest } from "../guest.ts";
import { VIEW_BYTES } from "../memory.ts";
import { Frame, type SaveParams, type SaveResult, type VmmStatus } from "../protocol.ts";
import type { FileWriter, Piece } from "./file-writer.ts";
import { PageScan, zeroTester } from "./pagemap.ts";
import { pagesOf, planDelta, planWhole } from "./plan.ts";

/** The agent itself gives up after 5 s; an emulated machine is slow. */
const FREEZE_TIMEOUT_MS = 15_000;
const CALLED_OFF = "Cannot save the machine: it was called off";

export interface SaveHost {
  readonly epoll: Epoll;
  /** /proc/self/pagemap, or -1. */
  readonly pagemapFd: number;
  /** Nobody else's until done(). */
  readonly writer: FileWriter;
  readonly status: VmmStatus;
  /** The TAP is not read any more. */
  deaf(): void;
  paused(): void;
  /** Null for `result`: it failed, for `error`. The guest is as the last step left it: see `reached`. */
  done(result: SaveResult | null, error: string): void;
}

type Next = (error: string | null) => void;

export class Save {
  /** How far it has got, so that whoever undoes it knows what to undo. */
  reached: "begun" | "frozen" | "deaf" | "paused" = "begun";
  private readonly turn = new EventFd();
  private onTurn: (() => void) | null = null;
  private cancelled = false;
  private over = false;
  /** Gives up waiting for the agent. */
  private stopWaiting = (): void => {};
  private readonly startedAt = performance.now();
  private pages: Extent[] = [];
  private zeroPages = 0;

  /** Owns the two descriptors. */
  constructor(private readonly guest: Guest, private readonly params: SaveParams, private readonly files: { readonly machine: number; readonly memory: number }, private readonly host: SaveHost) {
    host.epoll.add(this.turn.fd, EPOLLIN, () => {
      this.turn.drain();
      this.onTurn?.();
    });
    host.writer.begin();
  }

  /** Once. May end within the call. */
  begin(): void {
    this.run([
      (next) => this.freeze(next), (next) => this.deafen(next), (next) => this.pause(next), (next) => this.quiesce(next), (next) => this.syncDisks(next),
      (next) => this.scan(next), (next) => this.writePages(next), (next) => this.writeMachine(next), (next) => this.sync(next),
    ]);
  }

  /** It fails as soon as what is under way allows. */
  cancel(): void {
    this.cancelled = true;
    this.host.writer.stop("it was called off");
    this.stopWaiting();
  }

  private run(steps: readonly ((next: Next) => void)[]): void {
    const [step, ...rest] = steps;
    if (this.cancelled) return this.finish(CALLED_OFF);
    if (step === undefined) return this.finish(null);
    const next: Next = (error) => {
      if (error === null) return this.run(rest);
      this.finish(this.cancelled ? CALLED_OFF : `Cannot save the machine: ${error}`);
    };
    try {
      step(next);
    } catch (error) {
      next(error instanceof Error ? error.message : String(error));
    }
  }

  private finish(error: string | null): void {
    if (this.over) return;
    this.over = true;
    this.host.epoll.remove(this.turn.fd);
    this.turn.close();
    closeFd(this.files.machine);
    closeFd(this.files.memory);
    const result = error === null ? { dataBytes: pagesOf(this.pages, "data") * PAGE_BYTES, zeroPages: this.zeroPages, pausedMs: performance.now() - this.startedAt } : null;
    this.host.done(result, error ?? "");
  }

  private freeze(next: Next): void {
    if (!this.guest.devices.agent) return next(null); // nobody there yet, nothing to freeze
    this.reached = "frozen"; // from the request on
    this.stopWaiting = this.guest.agent.request(Frame.FREEZE, "freeze its workload", [], FREEZE_TIMEOUT_MS, next);
  }

  private deafen(next: Next): void {
    this.reached = "deaf";
    const { filter } = this.params;
    this.guest.devices.deafen(filter === undefined ? null : Buffer.from(filter, "base64"));
    this.host.deaf();
    next(null);
  }

  private pause(next: Next): void {
    this.reached = "paused";
    this.guest.machine.pause(() => {
      this.host.paused();
      next(null);
    });
  }

  private quiesce(next: Next): void { this.guest.devices.quiesce(() => next(null)); }

  private syncDisks(next: Next): void { this.guest.devices.sync(next); }

  private scan(next: Next): void {
    const { memory } = this.guest.machine;
    const ramPages = memory.size / PAGE_BYTES;
    const scan = new PageScan(this.host.pagemapFd, memory.address, ramPages, zeroTester(memory.bytes, VIEW_BYTES / PAGE_BYTES));
    const turn = (): string | null => {
      try {
        if (scan.step()) return "again";
        const { chain, machine: { discarded } } = this.guest;
        const own = overlay<Content>(scan.extents, discarded.extents);
        this.pages = this.params.base === null ? planWhole(own, chain) : planDelta(own, chain, ramPages);
        this.zeroPages = pagesOf(this.pages, "zero");
        return null;
      } catch (error) {
        return error instanceof Error ? error.message : String(error);
      }
    };
    // A piece a round of the main loop, so that the save can be called off meanwhile.
    this.onTurn = () => {
      const result = this.cancelled ? CALLED_OFF : turn();
      if (result === "again") return this.turn.signal();
      this.onTurn = null;
      next(result);
    };
    this.turn.signal();
  }

  private writePages(next: Next): void {
    const { size, address } = this.guest.machine.memory;
    must("cannot size the memory file", SYS.ftruncate, this.files.memory, size);
    const pieces = this.pages.filter(({ content }) => content === "data").map(({ page, pages }): Piece => ({ hva: address + page * PAGE_BYTES, length: pages * PAGE_BYTES, offset: page * PAGE_BYTES }));
    this.host.writer.write(this.files.memory, pieces, "guest memory", next);
  }

  private writeMachine(next: Next): void {
    const { guest, params: { id, base }, host: { status } } = this;
    const bytes = encodeMachine({
      id, base, savedAt: Date.now(), params: machineParams(guest), cpu: cpuFeatures(guest.machine.cpuid),
      guest: { bootedAt: status.bootedAt, runningAt: status.runningAt, agent: guest.devices.agent },
      ...guest.machine.save(), devices: guest.devices.save(), pages: this.pages,
    });
    const copy = Mapping.anonymous(Math.ceil(bytes.length / PAGE_BYTES) * PAGE_BYTES); // an address that stays, for the Worker
    copy.bytes().set(bytes);
    this.host.writer.write(this.files.machine, [{ hva: copy.address, length: bytes.length, offset: 0 }], "the machine's state", (error) => {
      copy.close();
      next(error);
    });
  }

  private sync(next: Next): void { this.host.writer.sync([this.files.memory, this.files.machine], "what was saved", next); }
}
