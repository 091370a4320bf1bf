// What a guest may say in answer to a copy or stat, and what becomes of it.
import { afterEach, expect, test } from "bun:test";
import { streamPair } from "../../../src/ffi/socket.ts";
import { askStat, copyFrame, openCopy, statFrame } from "../../../src/host/agent/copy.ts";
import { encodeFrame, type FrameType } from "../../../src/host/agent/frames.ts";
import { AgentStream } from "../../../src/host/agent/stream.ts";
import type { CopyListener, CopyRequest, CopySession } from "../../../src/host/instances/copy-service.ts";
import { decodePairs, encodePairs, type Pair } from "../../../src/pairs.ts";
import { Frame } from "../../../src/vmm/protocol.ts";
import { until } from "../../support/until.ts";

const open: { close(): void }[] = [];
afterEach(() => open.splice(0).forEach((one) => one.close()));

/** The guest's end: what it was sent, a word a frame, and frames of any kind. */
class Liar {
  readonly got: string[] = [];
  closed = false;
  private stream!: AgentStream;
  static async on(fd: number): Promise<Liar> {
    const liar = new Liar();
    liar.stream = await AgentStream.open(fd, {
      onFrame: ({ type, payload }) => void liar.got.push(type === Frame.DATA ? `data ${payload.length}` : [type, ...(decodePairs(payload) ?? []).flat()].join(" ")),
      onDrain() {},
      onClosed: () => void (liar.closed = true),
    });
    open.push(liar.stream);
    return liar;
  }
  say(type: number, ...pairs: Pair[]): this { return this.raw(type, encodePairs(pairs)); }
  raw(type: number, payload: Uint8Array): this {
    this.stream.send(encodeFrame(type as FrameType, payload));
    return this;
  }
  hangUp(): void { this.stream.close(); }
}

const numbers: Pair[] = [["mode", "420"], ["uid", "0"], ["gid", "0"], ["size", "3"], ["mtime", "5"]];
const entry = (path: string, kind: string, ...more: Pair[]): Pair[] => [["path", path], ["kind", kind], ...numbers, ...more];

async function begin(request: Partial<CopyRequest> = {}): Promise<{ liar: Liar; session: CopySession; said: string[] }> {
  const said: string[] = [];
  const listener: CopyListener = {
    onEntry: ({ path, kind, target }) => void said.push([path || ".", kind, target].filter(Boolean).join(" ")),
    onData: (bytes) => void said.push(`data ${bytes.length}`),
    onFileEnd: () => void said.push("file end"),
    onSkipped: (path, reason) => void said.push(`skipped ${path}: ${reason}`),
    onDrain() {},
    onEnd: ({ error, bytes }) => void said.push(error === null ? `end ${bytes}` : `error ${error}`),
    onLost: (reason) => void said.push(`lost ${reason}`),
  };
  const [ours, theirs] = streamPair();
  const frame = (await copyFrame({ direction: "out", path: "/x", followLinks: "none", makeParents: false, ...request }))._unsafeUnwrap();
  const [liar, session] = [await Liar.on(theirs), (await openCopy(ours, frame, listener))._unsafeUnwrap()];
  open.push(session);
  return { liar, session, said };
}
const outcome = (said: readonly string[]) => until("the end", () => said.find((one) => /^(end|error|lost)/.test(one)));

test("a copy out passes on what comes, and says what was asked for", async () => {
  const { liar, said } = await begin({ followLinks: "all" });
  liar.say(Frame.ENTRY, ...entry("", "dir")).say(Frame.ENTRY, ...entry("a", "file")).raw(Frame.DATA, Buffer.from("abc")).say(Frame.DATA)
    .say(Frame.SKIPPED, ["path", "pipe"], ["message", "it is a FIFO"]).say(Frame.ENTRY, ...entry("l", "link", ["target", "/a"])).say(Frame.DONE);
  expect(await outcome(said)).toBe("end 3");
  expect(said).toEqual([". directory", "a file", "data 3", "file end", "skipped pipe: it is a FIFO", "l symlink /a", "end 3"]);
  expect(liar.got).toEqual([`${Frame.COPY_OUT} path /x follow all`]);
  await until("the hang-up", () => liar.closed);
});

test.each<[string, (liar: Liar) => void]>([
  ["a path that climbs", (liar) => liar.say(Frame.ENTRY, ...entry("", "dir")).say(Frame.ENTRY, ...entry("a/../../b", "file"))],
  ["an absolute path", (liar) => liar.say(Frame.ENTRY, ...entry("", "dir")).say(Frame.ENTRY, ...entry("/b", "file"))],
  ["an empty part", (liar) => liar.say(Frame.ENTRY, ...entry("", "dir")).say(Frame.ENTRY, ...entry("a//b", "file"))],
  ["a second source", (liar) => liar.say(Frame.ENTRY, ...entry("", "dir")).say(Frame.ENTRY, ...entry("", "dir"))],
  ["a path for the source", (liar) => liar.say(Frame.ENTRY, ...entry("a", "file"))],
  ["an unknown kind", (liar) => liar.say(Frame.ENTRY, ...entry("", "socket"))],
  ["a kind of stat's", (liar) => liar.say(Frame.ENTRY, ...entry("", "other"))],
  ["a symlink to nothing", (liar) => liar.say(Frame.ENTRY, ...entry("", "link"))],
  ["a file with a target", (liar) => liar.say(Frame.ENTRY, ...entry("", "file", ["target", "x"]))],
  ["a mode out of range", (liar) => liar.say(Frame.ENTRY, ...entry("", "file", ["mode", "99999"]))],
  ["a size that is none", (liar) => liar.say(Frame.ENTRY, ...entry("", "file", ["size", "-1"]))],
  ["no numbers", (liar) => liar.say(Frame.ENTRY, ["path", ""], ["kind", "file"])],
  ["no pairs", (liar) => liar.raw(Frame.ENTRY, Buffer.from("x"))],
  ["bytes of no file", (liar) => liar.raw(Frame.DATA, Buffer.from("x"))],
  ["bytes after a folder", (liar) => liar.say(Frame.ENTRY, ...entry("", "dir")).raw(Frame.DATA, Buffer.from("x"))],
  ["an entry in a file", (liar) => liar.say(Frame.ENTRY, ...entry("", "file")).say(Frame.ENTRY, ...entry("b", "file"))],
  ["an end in a file", (liar) => liar.say(Frame.ENTRY, ...entry("", "file")).say(Frame.DONE)],
  ["an end of nothing", (liar) => liar.say(Frame.DONE)],
  ["a frame of exec's", (liar) => liar.say(Frame.EXIT, ["code", "0"])],
])("%s ends a copy out", async (_, lie) => {
  const { liar, said } = await begin();
  lie(liar);
  expect(await outcome(said)).toStartWith("lost the guest's agent broke the protocol");
  await until("the hang-up", () => liar.closed);
});

test("an error, a name that is not UTF-8 and a hang-up each end it once, with their words", async () => {
  const failed = await begin();
  failed.liar.say(Frame.ERROR, ["message", "Cannot read /x: gone"]).say(Frame.DONE);
  expect(await outcome(failed.said)).toBe("error Cannot read /x: gone");
  const wordy = await begin();
  wordy.liar.say(Frame.ERROR, ["message", "x".repeat(50_000)]);
  expect((await outcome(wordy.said)).length).toBe("error ".length + 1000);
  const odd = await begin();
  odd.liar.raw(Frame.ENTRY, Buffer.concat([encodePairs(entry("", "link")), Buffer.from("target\0\xff\0", "latin1")]));
  expect(await outcome(odd.said)).toContain("is not UTF-8");
  const gone = await begin();
  gone.liar.hangUp();
  expect(await outcome(gone.said)).toBe("lost the guest's agent hung up");
  expect([failed, wordy, odd, gone].map(({ said }) => said.length)).toEqual([1, 1, 1, 1]);
});

test("a copy in sends what it is given, and takes one answer", async () => {
  const { liar, session, said } = await begin({ direction: "in", makeParents: true });
  session.sendEntry({ path: "", kind: "file", mode: 0o600, uid: 1, gid: null, mtime: 7, target: null });
  session.sendData(new Uint8Array(70_000));
  session.endFile();
  session.sendEntry({ path: "l", kind: "symlink", mode: null, uid: null, gid: null, mtime: null, target: "x" });
  session.finish();
  await until("all frames", () => liar.got.length === 7);
  expect(liar.got).toEqual([`${Frame.COPY_IN} path /x parents 1`, `${Frame.ENTRY} path  kind file mode 384 uid 1 mtime 7`, "data 65536", "data 4464", "data 0", `${Frame.ENTRY} path l kind link target x`, `${Frame.DONE}`]);
  liar.say(Frame.DONE, ["bytes", "70000"]);
  expect(await outcome(said)).toBe("end 70000");
  for (const lie of [(other: Liar) => other.say(Frame.ENTRY, ...entry("", "file")), (other: Liar) => other.say(Frame.DONE), (other: Liar) => other.say(Frame.DONE, ["bytes", "many"])]) {
    const wrong = await begin({ direction: "in" });
    lie(wrong.liar);
    expect(await outcome(wrong.said)).toStartWith("lost the guest's agent broke the protocol");
  }
});

test("close() hangs up and says nothing more", async () => {
  const { liar, session, said } = await begin();
  session.close();
  await until("the hang-up", () => liar.closed);
  expect(said).toEqual([]);
});

test("a path that can be none is refused before anything is sent", async () => {
  for (const path of ["", "a\0b", "x".repeat(4096)]) expect((await copyFrame({ direction: "in", path, followLinks: "none", makeParents: false }))._unsafeUnwrapErr().code).toBe("request.bad");
});

test("stat takes an entry, that nothing is there, or an error; anything else and silence are the agent's fault", async () => {
  const ask = async (answer: (liar: Liar) => void, timeoutMs = 60_000) => {
    const [ours, theirs] = streamPair();
    const liar = await Liar.on(theirs);
    const asked = askStat(ours, (await statFrame({ path: "/x", followLinks: true }))._unsafeUnwrap(), timeoutMs);
    await until("the question", () => liar.got.length === 1);
    answer(liar);
    const result = await asked;
    await until("the hang-up", () => liar.closed);
    return result.isOk() ? result.value : result.error.code;
  };
  expect(await ask((liar) => liar.say(Frame.ENTRY, ...entry("", "other")))).toMatchObject({ entry: { kind: "other", mode: 0o644, sizeBytes: 3, mtime: 5 }, error: null });
  expect(await ask((liar) => liar.say(Frame.ENTRY, ["path", ""], ["kind", "none"]))).toEqual({ entry: null, error: null });
  expect(await ask((liar) => liar.say(Frame.ERROR, ["message", "Cannot look at /x"]))).toEqual({ entry: null, error: "Cannot look at /x" });
  expect(await ask((liar) => liar.say(Frame.DONE))).toBe("instance.agent_unreachable");
  expect(await ask((liar) => liar.raw(Frame.ENTRY, Buffer.from("?")))).toBe("instance.agent_unreachable");
  expect(await ask(() => {}, 20)).toBe("instance.agent_unreachable");
});
