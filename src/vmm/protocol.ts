// The control socket between the daemon and a VMM: the only file of src/vmm that src/host imports.
// One JSON message a SOCK_SEQPACKET packet; see docs/architecture.md.

/** Longest packet, in bytes, either way. */
export const MAX_PACKET = 64 * 1024;
/** The descriptor at which a new `dormouse vmm` finds its listening control socket. */
export const CONTROL_FD = 3;
export const GUEST_CID = 3;
export const AGENT_PORT = 1024;

/** Frame types of the guest's agent, both channels (docs/architecture.md has the table). */
export const Frame = {
  STATE: 1, SHUTDOWN: 2, FREEZE: 3, THAW: 4, WAKE: 5, ACK: 6, SYNC: 7,
  EXEC: 16, ATTACH: 17, STDIN: 18, RESIZE: 19, SIGNAL: 20, STDOUT: 21, STDERR: 22, EXIT: 23, STARTED: 24, ERROR: 25,
  COPY_OUT: 26, COPY_IN: 27, STAT: 28, ENTRY: 29, DATA: 30, DONE: 31, SKIPPED: 32,
} as const;
export const MAX_FRAME_PAYLOAD = 64 * 1024;

export interface DiskConfig {
  readonly readonly: boolean;
  /** virtio-blk serial, at most 20 bytes. */
  readonly serial: string;
  /**
   * Files that it is made of, 1 unless given. Disk n of several: `disk<n>` is the newest, `disk<n>.1` and on the older ones, immutable
   * all; each but the oldest has a block map, `map<n>`, `map<n>.1` and on (src/vmm/devices/block/README.md).
   */
  readonly layers?: number;
  /** 512: one plain file whose file system has blocks below 4096, as earlier versions made small ones. It can't get layers. */
  readonly blockBytes?: 512;
  /** For one plain file: a saved machine remembers the disk's first block, and is not restored with another disk in its place. */
  readonly remembered?: true;
}

/** Parameters of `boot`. Descriptors by name: `kvm`, `kernel`, `initrd`, `config`, `disk0`…, `tap`, `app0`, `app1`, `vmm0`, `vmm1`, `status`. */
export interface BootParams {
  readonly memoryBytes: number;
  readonly vcpus: number;
  readonly cmdline: string;
  /** False hides XSAVE from the guest: for hosts whose KVM is not told of XSETBV (the probe of `dormouse doctor` finds out). */
  readonly xsave: boolean;
  readonly disks: readonly DiskConfig[];
  /** Absent without a network; `aa:bb:cc:dd:ee:ff`. */
  readonly mac?: string;
  /** `config` is the second cpio archive; `initrd` the first. Both are read once. */
}

export type PrepareParams = Pick<BootParams, "memoryBytes" | "vcpus">;

/** What a guest is told when it wakes, before its workload runs on; absent fields stay as they were. */
export interface WakeIdentity {
  readonly hostname: string;
  readonly ip?: string;
  readonly gateway?: string;
  readonly mac?: string;
}

/** Parameters of `save`. Descriptors: `machine` and `memory`, two empty files. */
export interface SaveParams {
  /** Ids of the generation that is written, and of the one that it is a delta over; null: all of memory is written. */
  readonly id: string;
  readonly base: string | null;
  /** What the TAP is to let through once nobody reads it: a classic BPF program in base64, one `struct sock_filter` after another. Off when the guest hears again. */
  readonly filter?: string;
}
export interface SaveResult {
  /** Bytes of guest memory written, and pages of it that are recorded as zero. */
  readonly dataBytes: number;
  readonly zeroPages: number;
  /** From the workload's freeze to the answer. */
  readonly pausedMs: number;
}

/**
 * Parameters of `load`: what the machine will be, and which generations it is made from, the newest first. Descriptors: `kvm`, `machine0` and
 * `memory0` for the newest generation, `machine1` and `memory1` for its base, and so on.
 */
export interface LoadParams extends Pick<BootParams, "memoryBytes" | "vcpus" | "xsave"> {
  readonly generations: readonly string[];
}

/** Parameters of `restore`: the rest of what `boot` takes, but for what only a boot needs. Descriptors as there (`tap`, `disk0`…, logs, `status`). */
export interface RestoreParams extends Pick<BootParams, "disks" | "mac"> {
  readonly identity: WakeIdentity;
  /** How long the guest may take to acknowledge who and when it is. */
  readonly deadlineMs: number;
}
/** Milliseconds of each step, and when the vCPUs were let go, by the host's monotonic clock (src/ffi/clock.ts). For logs and benches. */
export interface RestoreResult {
  readonly status: VmmStatus;
  readonly stepsMs: { readonly load: number; readonly machine: number; readonly run: number; readonly acknowledged: number };
  readonly runsSinceMs: number;
}

export type GuestState = "created" | "initializing" | "running" | "paused" | "ended";

/** Why a guest ended, in `VmmStatus.reason`. */
export type EndReason =
  | "exited" // its program ended; exitCode says how
  | "restart" // its program asked for a restart
  | "panic" // the kernel panicked; the last console lines are in exitMessage
  | "reset" // a reset without a word from init
  | "triple-fault"
  | "killed" // `kill` request, or shutdown past its grace
  | "internal"; // KVM or the host failed; exitMessage says what

/** What `status` answers, what the `state` event carries, and what stands in status.json (rewritten whole at each change). */
export interface VmmStatus {
  readonly state: GuestState;
  /** Milliseconds since the epoch; null before. */
  readonly bootedAt: number | null;
  readonly runningAt: number | null;
  readonly endedAt: number | null;
  readonly reason: EndReason | null;
  readonly exitCode: number | null;
  readonly exitMessage: string | null;
}

export interface VmmStats {
  readonly cpuSeconds: number;
  readonly disks: readonly { readonly readBytes: number; readonly writtenBytes: number; readonly reads: number; readonly writes: number }[];
  readonly net: { readonly rxBytes: number; readonly txBytes: number; readonly rxPackets: number; readonly txPackets: number } | null;
  readonly exits: number;
}

export interface Methods {
  /** Makes ahead what a `boot` or `restore` will need, most of all if it asks for a machine of this size. Descriptor `kvm`. Once, and before those. */
  prepare: { params: PrepareParams; result: null };
  boot: { params: BootParams; result: VmmStatus };
  status: { params: null; result: VmmStatus };
  stats: { params: null; result: VmmStats };
  pause: { params: null; result: VmmStatus };
  /** After `pause` or `save`: vCPUs run, gates open, the workload is thawed. Answers once it is. */
  resume: { params: null; result: VmmStatus };
  /**
   * Freezes the workload, stops reading TAP and vsock (event `deaf` says when), pauses, lets disk I/O finish, syncs the disks, writes
   * machine and memory and syncs those. The machine then stays as it is: `resume` or `kill`. Fails whole: the guest runs on.
   */
  save: { params: SaveParams; result: SaveResult };
  /** Calls a `save` off that is under way: it fails, and the guest runs on. Nothing where none is. */
  cancelSave: { params: null; result: null };
  /**
   * Reads a saved machine and makes one of it, but for its devices: what can be done while the daemon is still busy with the rest. Nothing of
   * the guest has a consequence yet, and a monitor that is hung up on here ends. A failure ends it too. Once, and before `restore`.
   */
  load: { params: LoadParams; result: null };
  /**
   * Gives the machine that was loaded its devices and lets it run with its gates shut: nothing is written to disks, nothing crosses the TAP.
   * Answers once the guest has acknowledged its identity. A failure ends the monitor.
   */
  restore: { params: RestoreParams; result: RestoreResult };
  /** After `restore`: opens the gates and thaws the workload. */
  release: { params: null; result: VmmStatus };
  /** Descriptor `tap` comes with the answer: for a daemon that adopts this monitor. Refused where there is no network. */
  tap: { params: null; result: null };
  /** While paused or saved: disk `disk` gets descriptors `disk` and `map` as its newest layer; what it wrote to until now is immutable from here on. */
  addLayer: { params: { disk: number }; result: null };
  /** Asks init to end the workload; past graceMs + 5 s the VMM ends by itself. Answers at once. */
  shutdown: { params: { graceMs: number; signal: number }; result: VmmStatus };
  /** Ends the VMM now. The connection closes instead of an answer. */
  kill: { params: null; result: null };
  /** Joins descriptor `stream` (a stream socket) to a connection to `port` of the guest. Answers once the guest has accepted. */
  vsock: { params: { port: number }; result: null };
}
export type Method = keyof Methods;

export interface Request<M extends Method = Method> {
  readonly id: number;
  readonly method: M;
  readonly params: Methods[M]["params"];
  readonly fds?: readonly string[];
}
export type Answer<M extends Method = Method> =
  | { readonly id: number; readonly ok: true; readonly result: Methods[M]["result"]; readonly fds?: readonly string[] }
  | { readonly id: number; readonly ok: false; readonly error: string };
export type Event =
  | { readonly event: "state"; readonly status: VmmStatus }
  /** During `save`: from here on nothing reads the TAP. */
  | { readonly event: "deaf" }
  /** The host could not do what the guest asked of disk `disk`, and the guest was told. At the first time, the second, the fourth and so on. */
  | { readonly event: "diskFailed"; readonly disk: number; readonly errno: number };
