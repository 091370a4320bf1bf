// Files of a guest, as the instance domain offers them: copies both ways, and what is at a path.

export type EntryKind = "file" | "directory" | "symlink";

/** Something in a guest. */
export interface PathEntry {
  /** Relative to what was asked for; "" is that itself. Never absolute, without `.` and `..`. */
  readonly path: string;
  readonly kind: EntryKind | "other";
  /** Permissions with set-id and sticky bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly sizeBytes: number;
  /** Seconds since the epoch; 0 where there is none to tell. */
  readonly mtime: number;
  /** Of a symlink: any text. */
  readonly target: string | null;
}

/** Something to be made in a guest. Null: 0644 or 0755, the owner of what it replaces or root, the time of now. */
export interface NewEntry {
  readonly path: string;
  readonly kind: EntryKind;
  readonly mode: number | null;
  readonly uid: number | null;
  readonly gid: number | null;
  readonly mtime: number | null;
  readonly target: string | null;
}

export interface CopyRequest {
  readonly direction: "in" | "out";
  /** As the workload sees it; relative ones begin at `/`. */
  readonly path: string;
  /** Out: whether symlinks are copied as what they lead to. */
  readonly followLinks: "none" | "source" | "all";
  /** In: folders above the path are made where they lack. */
  readonly makeParents: boolean;
}

/** Out: entries come parents first, a file's bytes right after its own. In: onDrain and the end alone. */
export interface CopyListener {
  onEntry(entry: PathEntry): void;
  onData(bytes: Uint8Array): void;
  onFileEnd(): void;
  /** Something below the source that can't be copied: a FIFO, a socket, a device, the kernel's file systems, what has just gone. */
  onSkipped(path: string, reason: string): void;
  onDrain(): void;
  /** Once, last. `error`: the guest's words why it went no further. */
  onEnd(end: { readonly error: string | null; readonly bytes: number }): void;
  /** Once, instead of onEnd: the guest or its agent went away. */
  onLost(reason: string): void;
}

export interface CopySession {
  /** In. Each answers false while the guest is slow: wait for onDrain before the next. */
  sendEntry(entry: NewEntry): boolean;
  sendData(bytes: Uint8Array): boolean;
  endFile(): boolean;
  /** All was sent; onEnd follows. */
  finish(): void;
  /** Out: stops reading until resume(). */
  pause(): void;
  resume(): void;
  /** Hangs up: the guest drops the file that is not whole. Idempotent. */
  close(): void;
}

export interface StatRequest { readonly path: string; readonly followLinks: boolean }
/** No entry and no error: nothing is there. */
export interface PathStat { readonly entry: PathEntry | null; readonly error: string | null }
