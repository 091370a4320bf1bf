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
} as const;
export const MAX_FRAME_PAYLOAD = 64 * 1024;

export interface DiskConfig {
  readonly readonly: boolean;
  /** virtio-blk serial, at most 20 bytes. */
  readonly serial: string;
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
  boot: { params: BootParams; result: VmmStatus };
  status: { params: null; result: VmmStatus };
  stats: { params: null; result: VmmStats };
  pause: { params: null; result: VmmStatus };
  resume: { params: null; result: VmmStatus };
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
export type Event = { readonly event: "state"; readonly status: VmmStatus };
