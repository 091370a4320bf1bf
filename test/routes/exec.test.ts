import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { DormouseError } from "../../src/errors.ts";
import { Channel, EXEC_V1 } from "../../src/routes/exec-protocol.ts";
import { type Api, startApiWithSh, until } from "./harness.ts";
import type { FakeExec } from "./memory.ts";

let api: Api;
beforeEach(async () => { api = await startApiWithSh(); });
afterEach(() => api.stop());

const bytes = (text: string) => new TextEncoder().encode(text);
const frame = (channel: number, text: string) => new Uint8Array([channel, ...bytes(text)]);

/** A client that keeps all that it is sent, binary frames as `channel:text` or text. */
function open(path = "/instances/sh/exec", protocol?: string) {
  const ws = new WebSocket(api.url.replace("http", "ws") + path, protocol === undefined ? [] : [protocol]);
  ws.binaryType = "arraybuffer";
  const got: string[] = [];
  let closed: { code: number; reason: string } | null = null;
  ws.onmessage = ({ data }) => {
    if (typeof data === "string") return void got.push(data);
    const all = new Uint8Array(data as ArrayBuffer);
    got.push(protocol === EXEC_V1 ? `${all[0]}:${new TextDecoder().decode(all.subarray(1))}` : new TextDecoder().decode(all));
  };
  ws.onclose = ({ code, reason }) => void (closed = { code, reason });
  const opened = new Promise<void>((done, failed) => {
    ws.onopen = () => done();
    ws.onerror = () => failed(new Error("the handshake failed"));
  });
  const ended = async () => {
    await until(() => closed !== null);
    return { got, ...(closed as unknown as { code: number; reason: string }) };
  };
  return { ws, got, opened, ended };
}

/** Opens an exec, sends its first frame and gives both ends. */
async function run(start: unknown = {}, protocol?: string): Promise<{ client: ReturnType<typeof open>; exec: FakeExec }> {
  const before = api.instances.execs.length;
  const client = open(undefined, protocol);
  await client.opened;
  client.ws.send(JSON.stringify(start));
  await until(() => api.instances.execs.length > before);
  return { client, exec: api.instances.execs[before] as FakeExec };
}

describe("before the upgrade", () => {
  test("409 unless Running", async () => {
    const { id } = await api.client.instances.get("sh");
    api.instances.change(id, { state: "Stopped" });
    for (const path of ["exec", "attach"]) {
      const response = await fetch(`${api.url}/instances/sh/${path}`, { headers: { connection: "upgrade", upgrade: "websocket" } });
      expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([409, "invalid_state"]);
    }
  });
  test("one that sleeps is woken where its policy says so, and 409 elsewhere", async () => {
    const { id } = await api.client.instances.get("sh");
    api.instances.change(id, { state: "Standby" });
    const refused = await fetch(`${api.url}/instances/sh/exec`, { headers: { connection: "upgrade", upgrade: "websocket" } });
    expect([refused.status, ((await refused.json()) as { code: string }).code]).toEqual([409, "invalid_state"]);
    expect((await fetch(`${api.url}/instances/sh/attach`)).status).toBe(409);
    await api.client.instances.update("sh", { auto_standby: { enabled: true, idle_timeout: "5m" } });
    const { exec } = await run({ command: ["true"] });
    expect(exec.request?.command).toEqual(["true"]);
    expect(api.instances.records.get(id)?.state).toBe("Running");
  });
  test("a wake that fails is the answer", async () => {
    const { id } = await api.client.instances.get("sh");
    await api.client.instances.update("sh", { auto_standby: { enabled: true, idle_timeout: "5m" } });
    api.instances.change(id, { state: "Standby" });
    api.instances.failNext = new DormouseError("snapshot.damaged", "Cannot restore it: a file was changed.");
    const response = await fetch(`${api.url}/instances/sh/exec`, { headers: { connection: "upgrade", upgrade: "websocket" } });
    expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([409, "snapshot_damaged"]);
  });
  test("plain HTTP is told what to do", async () => {
    const response = await fetch(`${api.url}/instances/sh/exec`);
    expect(response.status).toBe(400);
    expect(((await response.json()) as { message: string }).message).toContain("WebSocket");
  });
  test("a foreign origin is refused", async () => {
    const ws = new WebSocket(`${api.url.replace("http", "ws")}/instances/sh/exec`, { headers: { origin: "https://evil.example" } } as unknown as string[]);
    expect(await new Promise((done) => { ws.onopen = () => done("open"); ws.onerror = () => done("refused"); })).toBe("refused");
  });
});

describe("the contract's protocol", () => {
  test("passes the request on, with /bin/sh by default", async () => {
    const { exec } = await run({ command: ["ls", "-l"], tty: true, env: { A: "1" }, cwd: "/srv", timeout: 1.5, wait_for_agent: 2, user: "web", rows: 50, cols: 132 });
    expect(exec.request).toEqual({ command: ["ls", "-l"], tty: true, env: { A: "1" }, cwd: "/srv", timeoutMs: 1500, waitForAgentMs: 2000, user: "web", rows: 50, cols: 132 });
    const { exec: plain } = await run({});
    expect(plain.request).toEqual({ command: ["/bin/sh"], tty: false, env: {}, cwd: null, timeoutMs: null, waitForAgentMs: 0, user: null, rows: 24, cols: 80 });
  });
  test("carries bytes both ways and ends with the exit code", async () => {
    const { client, exec } = await run();
    client.ws.send(bytes("echo hi\n"));
    client.ws.send(JSON.stringify({ resize: { rows: 10, cols: 20 } }));
    await until(() => exec.calls.includes("resize 10 20"));
    expect(exec.input).toEqual(["echo hi\n"]);
    exec.listener.onStdout(bytes("hi\n"));
    exec.listener.onStderr(bytes("oops\n"));
    exec.listener.onEnd({ code: 3, message: null });
    expect(await client.ended()).toEqual({ got: ["hi\n", "oops\n", '{"exitCode":3}'], code: 1000, reason: "" });
  });
  test("bytes are never taken for text or JSON", async () => {
    const { client, exec } = await run();
    for (const text of ["12", '{"resize":{"rows":1,"cols":1}}', "null"]) client.ws.send(bytes(text));
    await until(() => exec.input.length === 3);
    expect(exec.input).toEqual(["12", '{"resize":{"rows":1,"cols":1}}', "null"]);
  });
  test("a command that can't start sends its error, then 127", async () => {
    const { client, exec } = await run({ command: ["nope"] });
    exec.listener.onEnd({ code: 127, message: "nope: not found" });
    expect((await client.ended()).got).toEqual(["Error: nope: not found\r\n", '{"exitCode":127}']);
  });
  test("a command killed by a signal is only its code", async () => {
    const { client, exec } = await run();
    exec.listener.onEnd({ code: 137, message: "killed by signal 9 (SIGKILL)" });
    expect((await client.ended()).got).toEqual(['{"exitCode":137}']);
  });
  test("an agent that can't be reached is an error and 127", async () => {
    api.instances.failNext = new DormouseError("instance.agent_unreachable", "Cannot reach the agent.");
    const client = open();
    await client.opened;
    client.ws.send("{}");
    expect((await client.ended()).got).toEqual(["Error: Cannot reach the agent.\r\n", '{"exitCode":127}']);
  });
  test("a guest that goes away is an error, and not an exit code", async () => {
    const { client, exec } = await run();
    exec.listener.onLost("the guest ended");
    expect(await client.ended()).toMatchObject({ got: ["Error: the guest ended\r\n"], code: 1011 });
  });
  test("a hang-up kills the command", async () => {
    const { client, exec } = await run();
    expect(exec.gone.aborted).toBe(false);
    client.ws.close();
    await until(() => exec.calls.includes("close"));
    expect(exec.gone.aborted).toBe(true);
  });
  test.each([["no JSON", "ls"], ["an unknown field", '{"shell":true}'], ["a command that is no list", '{"command":"ls"}'], ["a NUL", '{"command":["a\\u0000b"]}'], ["a bad variable", '{"env":{"A=B":"c"}}']])(
    "a first frame with %s is refused",
    async (_, text) => {
      const client = open();
      await client.opened;
      client.ws.send(text);
      expect(await client.ended()).toMatchObject({ got: [], code: 1008 });
      expect(api.instances.execs).toEqual([]);
    },
  );
  test("an unknown control frame is refused, and kills the command", async () => {
    const { client, exec } = await run();
    client.ws.send('{"resize":{"rows":0,"cols":1}}');
    expect((await client.ended()).code).toBe(1008);
    expect(exec.calls).toContain("close");
  });
});

describe(EXEC_V1, () => {
  test("keeps the streams apart, ends the input, sends signals, and ends with a message", async () => {
    const { client, exec } = await run({}, EXEC_V1);
    expect(client.ws.protocol).toBe(EXEC_V1);
    client.ws.send(frame(Channel.STDIN, "x\n"));
    client.ws.send(frame(Channel.STDIN, ""));
    client.ws.send('{"signal":15}');
    await until(() => exec.calls.includes("signal 15"));
    expect(exec.calls).toEqual(["stdin 2", "end", "signal 15"]);
    exec.listener.onStdout(bytes("out"));
    exec.listener.onStderr(bytes("err"));
    exec.listener.onEnd({ code: 143, message: "killed by signal 15 (SIGTERM)" });
    expect((await client.ended()).got).toEqual(["1:out", "2:err", '{"exitCode":143,"message":"killed by signal 15 (SIGTERM)"}']);
  });
  test("input sent right behind the first frame waits for the command", async () => {
    const client = open(undefined, EXEC_V1);
    await client.opened;
    client.ws.send("{}");
    client.ws.send(frame(Channel.STDIN, "early"));
    client.ws.send(frame(Channel.STDIN, ""));
    await until(() => api.instances.execs[0]?.calls.includes("end") === true);
    expect(api.instances.execs[0]?.input).toEqual(["early"]);
  });
  test("a guest that goes away is told as such", async () => {
    const { client, exec } = await run({}, EXEC_V1);
    exec.listener.onLost("the guest ended");
    expect(await client.ended()).toMatchObject({ got: ['{"error":"the guest ended"}'], code: 1011 });
  });
  test("a binary frame of another channel is refused", async () => {
    const { client } = await run({}, EXEC_V1);
    client.ws.send(frame(Channel.STDOUT, "x"));
    expect((await client.ended()).code).toBe(1008);
  });
  test("attach has no first frame", async () => {
    const client = open("/instances/sh/attach", EXEC_V1);
    await client.opened;
    await until(() => api.instances.execs.length === 1);
    client.ws.send(frame(Channel.STDIN, "q"));
    await until(() => api.instances.execs[0]?.input.length === 1);
    expect(api.instances.execs[0]?.request).toBeNull();
  });
});

describe("back-pressure", () => {
  test("a slow command stops the reading of the socket, until it drains", async () => {
    const { client, exec } = await run({}, EXEC_V1);
    exec.accepting = false;
    const chunk = frame(Channel.STDIN, "x".repeat(256 * 1024));
    const sent = 200;
    for (let i = 0; i < sent; i += 1) client.ws.send(chunk);
    await until(() => exec.input.length > 0);
    let before = -1;
    await until(() => before === (before = exec.input.length));
    expect(exec.input.length).toBeLessThan(sent / 2);
    exec.accepting = true;
    exec.listener.onDrain();
    await until(() => exec.input.length === sent);
  });
  test("a slow client pauses the command, until it takes again", async () => {
    const { client, exec } = await run({}, EXEC_V1);
    const block = new Uint8Array(1024 * 1024);
    // The client shares this thread: what is sent without a turn of the loop can't have been taken.
    for (let i = 0; i < 64 && !exec.calls.includes("pause"); i += 1) exec.listener.onStdout(block);
    expect(exec.calls.filter((call) => call === "pause")).toHaveLength(1);
    await until(() => exec.calls.includes("resume"));
    exec.listener.onEnd({ code: 0, message: null });
    expect((await client.ended()).got.at(-1)).toBe('{"exitCode":0}');
  });
  test("stopping the daemon closes sessions and kills their commands", async () => {
    const { client, exec } = await run({}, EXEC_V1);
    await api.stop();
    expect((await client.ended()).code).toBe(1001);
    expect(exec.calls).toContain("close");
  });
});
