// The two WebSocket protocols of `GET /instances/{id}/exec` and `/attach`, for server and command line alike.
// Without a subprotocol: the contract's own. With `dormouse.exec.v1`: output by stream and end of input.

/**
 * Subprotocol (`Sec-WebSocket-Protocol`) that adds what the contract's protocol lacks. Frames:
 *
 * | direction | frame  | content |
 * |-----------|--------|---------|
 * | → server  | text   | first, for exec only: `ExecStart` |
 * | → server  | binary | `STDIN` byte, then input; the byte alone is the end of input |
 * | → server  | text   | `{"resize":{"rows":R,"cols":C}}`, `{"signal":N}` |
 * | → client  | binary | `STDOUT` or `STDERR` byte, then output |
 * | → client  | text   | last: `{"exitCode":N,"message":"…"}`, then close 1000 |
 * | → client  | text   | instead, where guest or agent went away: `{"error":"…"}`, then close 1011 |
 *
 * Flow control is TCP's own: a side that can't take more stops reading its socket.
 */
export const EXEC_V1 = "dormouse.exec.v1";

/** First byte of a binary frame of `dormouse.exec.v1`. */
export const Channel = { STDIN: 0, STDOUT: 1, STDERR: 2 } as const;

/** First text frame of exec, both protocols. `user`, `rows` and `cols` are extensions of ours. */
export interface ExecStart {
  /** `["/bin/sh"]` unless given. */
  readonly command?: readonly string[];
  readonly tty?: boolean;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Seconds until the command is killed and the code is 124; 0 or absent: none. */
  readonly timeout?: number;
  /** Seconds to wait for an agent that is not there yet. */
  readonly wait_for_agent?: number;
  readonly user?: string;
  readonly rows?: number;
  readonly cols?: number;
}

/** Text frames to the server after the first. */
export type ExecControl =
  | { readonly resize: { readonly rows: number; readonly cols: number } }
  | { readonly signal: number };

/** Text frames to the client; without the subprotocol only `exitCode`, alone. */
export type ExecNotice =
  | { readonly exitCode: number; readonly message?: string }
  | { readonly error: string };
