// The two WebSocket protocols of `GET /instances/{id}/cp`, for server and command line alike. Without a subprotocol: the
// contract's own, as its client's lib/cp speaks it: one file or folder in, a file or tree out. With `dormouse.cp.v1`: trees both
// ways, with symlinks and times.

/**
 * Subprotocol (`Sec-WebSocket-Protocol`). Frames:
 *
 * | direction | frame  | content |
 * |-----------|--------|---------|
 * | → server  | text   | first: `CpStart` |
 * | sender →  | text   | `CpHeader`: parents before what is in them; a path of "" is `guest_path` itself |
 * | sender →  | binary | bytes of the file whose header came last |
 * | sender →  | text   | `{"type":"end"}` after a file's bytes; `{"type":"end","final":true}` after all |
 * | → client  | text   | `{"type":"skipped","path","message"}`: what can't be copied out |
 * | → client  | text   | `{"type":"result",…}` in answer to what came in; `{"type":"error","message"}` where it went wrong on the way out |
 *
 * Flow control is TCP's own: a side that can't take more stops reading its socket.
 */
export const CP_V1 = "dormouse.cp.v1";

export interface CpStart {
  readonly direction: "to" | "from";
  /** As the workload sees it; relative ones begin at `/`. */
  readonly guest_path: string;
  /** From: what symlinks lead to, in place of them; `follow_source` of the path itself alone (v1). */
  readonly follow_links?: boolean;
  readonly follow_source?: boolean;
  /** To (v1): folders above what is sent are made where they lack. */
  readonly make_parents?: boolean;
}

export interface CpHeader {
  readonly type: "header";
  readonly path: string;
  readonly mode?: number;
  readonly is_dir?: boolean;
  readonly is_symlink?: boolean;
  readonly link_target?: string;
  readonly size?: number;
  /** Seconds since the epoch. */
  readonly mtime?: number;
  readonly uid?: number;
  readonly gid?: number;
}

export interface CpEnd { readonly type: "end"; readonly final?: boolean }

export type CpNotice =
  | { readonly type: "skipped"; readonly path: string; readonly message: string }
  | { readonly type: "result"; readonly success: boolean; readonly error?: string; readonly bytes_written: number }
  | { readonly type: "error"; readonly message: string; readonly path: string };

/**
 * The contract's client takes a binary frame that parses as a JSON object or array for a control frame: a `package.json` would
 * arrive empty, and a guest's file could forge an end. Such bytes go out in two frames, neither of which parses: what follows
 * the first bracket of valid JSON has a bracket too many. Other frames are left whole, as what follows *their* first byte may be valid.
 */
export function unmistakable(bytes: Uint8Array): readonly Uint8Array[] {
  if (bytes[0] !== 0x7b && bytes[0] !== 0x5b) return [bytes];
  try {
    JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8"));
  } catch {
    return [bytes];
  }
  return [bytes.subarray(0, 1), bytes.subarray(1)];
}
