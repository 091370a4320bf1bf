// One exec or attach over a stream to the agent: frames to the listener's calls, the session's calls to frames.
import { errAsync, okAsync, ResultAsync } from "neverthrow";
import { fail, wrap, type AsyncRes } from "../../errors.ts";
import { decodePairs, encodePairs, pairValue, type Pair } from "../../pairs.ts";
import { Frame, MAX_FRAME_PAYLOAD } from "../../vmm/protocol.ts";
import type { ExecEnd, ExecListener, ExecRequest, ExecSession } from "../instances/service.ts";
import { encodeChunks, encodeFrame, encodeResize, encodeSignal, type DecodedFrame } from "./frames.ts";
import { AgentStream } from "./stream.ts";

/** A code that the guest did not say in a way that can be read. */
const UNKNOWN_CODE = 255;

/** The payload of EXEC; `request.bad` where it doesn't fit into a frame or holds what no argument can. */
export function execPayload(request: ExecRequest): AsyncRes<Uint8Array> {
  const pairs: Pair[] = request.command.map((word): Pair => ["arg", word]);
  for (const [key, value] of Object.entries(request.env)) pairs.push(["env", `${key}=${value}`]);
  if (request.cwd) pairs.push(["cwd", request.cwd]);
  if (request.user) pairs.push(["user", request.user]);
  if (request.tty) pairs.push(["tty", "1"], ["rows", String(request.rows)], ["cols", String(request.cols)]);
  if (request.timeoutMs !== null) pairs.push(["timeout_ms", String(Math.ceil(request.timeoutMs))]);
  let payload: Uint8Array;
  try {
    payload = encodePairs(pairs);
  } catch (error) {
    return errAsync(wrap("request.bad", "Cannot run the command", error));
  }
  if (payload.length > MAX_FRAME_PAYLOAD) return errAsync(fail("request.bad", `Cannot run the command: with its environment it takes ${payload.length} bytes, of at most ${MAX_FRAME_PAYLOAD}`).error);
  return okAsync(payload);
}

/** Begins with `first` on the stream socket `fd`, which it takes over. `onLost` may be asked for a better word than a hang-up. */
export function openSession(fd: number, first: Uint8Array, listener: ExecListener): AsyncRes<ExecSession> {
  let done = false;
  const once = (tell: () => void) => {
    if (done) return;
    done = true;
    stream?.close();
    tell();
  };
  let stream: AgentStream | null = null;
  const opened = AgentStream.open(fd, {
    onFrame: (frame) => dispatch(frame, listener, once),
    onDrain: () => { if (!done) listener.onDrain(); },
    onClosed: (reason) => once(() => listener.onLost(reason)),
  });
  return ResultAsync.fromPromise(opened, (error) => wrap("instance.agent_unreachable", "Cannot talk to the guest's agent", error)).map((open) => {
    stream = open;
    open.send(first);
    return sessionOn(open, () => (done = true));
  });
}

function dispatch({ type, payload }: DecodedFrame, listener: ExecListener, once: (tell: () => void) => void): void {
  if (type === Frame.STDOUT) listener.onStdout(payload);
  else if (type === Frame.STDERR) listener.onStderr(payload);
  else if (type === Frame.EXIT || type === Frame.ERROR) once(() => listener.onEnd(endOf(payload)));
  else if (type !== Frame.STARTED) once(() => listener.onLost(`the guest's agent sent a frame of unknown type ${type}`));
}

function endOf(payload: Uint8Array): ExecEnd {
  const pairs = decodePairs(payload) ?? [];
  const code = Number(pairValue(pairs, "code") ?? NaN);
  return { code: Number.isInteger(code) && code >= 0 && code <= 255 ? code : UNKNOWN_CODE, message: pairValue(pairs, "message") || null };
}

const sessionOn = (stream: AgentStream, finish: () => void): ExecSession => ({
  writeStdin: (bytes) => encodeChunks(Frame.STDIN, bytes).map((frame) => stream.send(frame)).at(-1) ?? true,
  endStdin: () => void stream.send(encodeFrame(Frame.STDIN)),
  resize: (rows, cols) => void stream.send(encodeResize(rows, cols)),
  signal: (number) => void stream.send(encodeSignal(number)),
  pause: () => stream.pause(),
  resume: () => stream.resume(),
  close() {
    finish();
    stream.close();
  },
});
