// Who wants to know of changes to which files: one inotify instance for the whole daemon, however many readers follow.
import { EPOLLIN } from "../ffi/epoll.ts";
import { Inotify } from "../ffi/inotify.ts";
import type { Poller, Watch } from "./poller.ts";

/** What inotify says when it had to drop events (linux/inotify.h, IN_Q_OVERFLOW): it has no watch of its own. */
const OVERFLOW = -1;

export class FileWatches {
  private readonly inotify = new Inotify();
  private readonly listeners = new Map<number, Set<() => void>>();
  private readonly polled: Watch;

  constructor(poller: Poller) {
    this.polled = poller.watch(this.inotify.fd, EPOLLIN, () => {
      const changed = this.inotify.drain();
      const watches = changed.has(OVERFLOW) ? this.listeners.keys() : changed;
      for (const listener of [...watches].flatMap((watch) => [...(this.listeners.get(watch) ?? [])])) listener();
    });
  }

  /** Calls `listener` after changes to the file (which must be there); several changes may be one call. Returns the end of it. */
  watch(path: string, listener: () => void): () => void {
    const watch = this.inotify.add(path);
    const all = this.listeners.get(watch) ?? new Set();
    // Wrapped, so that one function given twice counts twice.
    const entry = () => listener();
    this.listeners.set(watch, all.add(entry));
    return () => {
      if (!all.delete(entry) || all.size > 0 || this.listeners.get(watch) !== all) return;
      this.listeners.delete(watch);
      this.inotify.remove(watch);
    };
  }

  close(): void {
    this.polled.close();
    this.inotify.close();
    this.listeners.clear();
  }
}
