// What an exec must do, wherever the agent runs: in harness.c over a Unix socket, or in a machine over vsock.
import { expect, test } from "bun:test";
import type { Pair } from "../../src/pairs.ts";
import { Frame } from "../../src/vmm/protocol.ts";
import type { Session } from "./harness.ts";

export interface Target {
  exec(args: readonly string[], ...pairs: Pair[]): Promise<Session>;
  sh(script: string, ...pairs: Pair[]): Promise<Session>;
  session(): Promise<Session>;
}

/** Files that the target's image must have beside busybox and makeRoot's users. */
export const CASE_FILES = { "bin/noexec.txt": "x", "bin/broken": "#!/no/such/interpreter\n", "bin/rubbish": "\x00\x01\x02" };
/** The workload's configuration that the cases expect. */
export const CASE_CONFIG: readonly Pair[] = [["arg", "sleep"], ["arg", "1000000"], ["env", "BASE=1"], ["env", "PATH=/bin"], ["cwd", "/tmp"], ["hostname", "box"]];

/** Waits for the end and returns what a caller sees. */
async function result(session: Session): Promise<{ code: number; stdout: string; stderr: string }> {
  return { code: await session.code(), stdout: session.stdout, stderr: session.stderr };
}

/** Waits until no process of the guest sleeps for `seconds`. */
async function goneFrom(target: Target, seconds: string): Promise<void> {
  for (;;) {
    const session = await target.sh(`ps | grep -v grep | grep -c "sleep ${seconds}" || true`);
    await session.code();
    if (session.stdout.trim() === "0") return;
  }
}

export function execCases(target: () => Target, limitMs: number): void {
  test("EXEC runs a program with separate streams, its code last", async () => {
    const session = await target().sh("echo out; echo err >&2; exit 7");
    expect(await result(session)).toEqual({ code: 7, stdout: "out\n", stderr: "err\n" });
    expect(session.order[0]).toBe(Frame.STARTED);
    expect(session.order.at(-1)).toBe(Frame.EXIT);
    expect(session.end?.get("message")).toBe("exited with code 7");
    expect(Number(session.started?.get("pid"))).toBeGreaterThan(1);
  }, limitMs);

  test("EXEC starts from the workload's environment, directory and namespaces", async () => {
    const session = await target().sh("echo $BASE $EXTRA $HOME $HOSTNAME $PATH; pwd; cat /proc/1/comm", ["env", "EXTRA=2"]);
    expect((await result(session)).stdout).toBe("1 2 /root box /bin\n/tmp\nsleep\n");
  }, limitMs);

  test("EXEC takes user, groups and a directory that does not exist yet", async () => {
    const named = await target().sh("id -u; id -g; id -G; pwd; echo $HOME; echo x > /dev/stdout", ["user", "ann"], ["cwd", "/tmp/made/here"]);
    expect((await result(named)).stdout).toBe("1000\n1000\n1000 29 50\n/tmp/made/here\n/home/ann\nx\n");
    const numbers = await target().sh("id -u; id -G; echo $HOME", ["user", "4242:29"]);
    expect((await result(numbers)).stdout).toBe("4242\n29\n/\n");
    const group = await target().sh("id -u; id -g; id -G", ["user", "ann:staff"]);
    expect((await result(group)).stdout).toBe("1000\n50\n50\n");
  }, limitMs);

  test("EXEC says why a program can't start", async () => {
    const cases: [string[], number, string][] = [
      [["nosuch"], 127, "command not found in PATH (/bin)"],
      [["/no/such"], 127, "command not found"],
      [["noexec.txt"], 126, "exec format error"],
      [["broken"], 127, "interpreter"],
      [["rubbish"], 126, "exec format error"],
      [["/etc"], 126, "it is a directory"],
    ];
    for (const [args, code, text] of cases) {
      const session = await target().exec(args);
      expect(await session.code()).toBe(code);
      expect(session.error?.get("message")).toContain(text);
      expect(session.started).toBeNull();
    }
    const user = await target().exec(["true"], ["user", "nobody-here"]);
    expect(await user.code()).toBe(126);
    expect(user.error?.get("message")).toContain('no such user');
  }, limitMs);

  test("STDIN reaches the program, and an empty frame ends it", async () => {
    const session = await target().exec(["cat"]);
    session.stdin("one\ntwo\n");
    session.endStdin();
    expect(await result(session)).toEqual({ code: 0, stdout: "one\ntwo\n", stderr: "" });
  }, limitMs);

  test("a large stream arrives whole both ways through a slow program and a slow reader", async () => {
    const size = 3_000_000;
    const session = await target().sh("sleep 0.2; cat");
    session.pause();
    session.stdin(Buffer.alloc(size, "0123456789abcdef\n"));
    session.endStdin();
    await Bun.sleep(300); // the reader's slowness is what is tested
    session.resume();
    expect(await session.code()).toBe(0);
    expect(session.bytes).toBe(size);
    expect(session.stdout).toBe(Buffer.alloc(size, "0123456789abcdef\n").toString("latin1"));
  }, limitMs);

  test("a program's last output is not lost, nor waited for from those it leaves behind", async () => {
    const session = await target().sh("(sleep 1000; echo late) & head -c 300000 /dev/zero | tr '\\0' x; exit 5");
    expect(await session.code()).toBe(5);
    expect(session.bytes).toBe(300000);
    const left = await target().sh("pkill sleep -f 'sleep 1000$'; true");
    expect(await left.code()).toBe(0);
  }, limitMs);

  test("a terminal has a size, a name, colours of its own and a controlling session", async () => {
    const session = await target().sh("stty size; tty; echo $TERM; read line; echo got $line; stty size", ["tty", "1"], ["rows", "33"], ["cols", "101"]);
    await session.until(() => session.stdout.includes("xterm"));
    session.resize(44, 120);
    session.stdin("hello\n");
    expect(await session.code()).toBe(0);
    expect(session.stdout.replaceAll("\r", "")).toMatch(/^33 101\n\/dev\/pts\/\d+\nxterm\nhello\ngot hello\n44 120\n$/);
    expect(session.stderr).toBe("");
  }, limitMs);

  test("Ctrl-C and end of input work on a terminal", async () => {
    const sleeping = await target().sh("echo ready; exec sleep 1000000", ["tty", "1"]);
    await sleeping.until(() => sleeping.stdout.includes("ready"));
    sleeping.stdin("\x03");
    expect(await sleeping.code()).toBe(130);
    const reading = await target().exec(["cat"], ["tty", "1"]);
    reading.stdin("x\n");
    await reading.until(() => reading.stdout.includes("x\r\nx\r\n"));
    reading.endStdin();
    expect(await reading.code()).toBe(0);
  }, limitMs);

  test("SIGNAL goes to the process group", async () => {
    const session = await target().sh("trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.05; done");
    await session.until(() => session.stdout.includes("ready"));
    session.signal(10);
    expect(await session.code()).toBe(9);
    expect(session.stdout).toBe("ready\ncaught\n");
    const killed = await target().sh("echo ready; exec sleep 1000000");
    await killed.until(() => killed.stdout.includes("ready"));
    killed.signal(15);
    expect(await killed.code()).toBe(143);
    expect(killed.end?.get("message")).toBe("killed by signal 15 (SIGTERM)");
  }, limitMs);

  test("past its time limit a program is killed with its children, code 124", async () => {
    const session = await target().sh("sleep 1000001 & sleep 1000001", ["timeout_ms", "200"]);
    expect(await session.code()).toBe(124);
    expect(session.end?.get("message")).toContain("200 ms");
    await goneFrom(target(), "1000001");
  }, limitMs);

  test("a hang-up kills the program, its children, and who ignores SIGHUP", async () => {
    const session = await target().sh("trap '' HUP; sh -c 'trap \"\" HUP; sleep 1000002' & echo ready; sleep 1000002");
    await session.until(() => session.stdout.includes("ready"));
    session.hangUp();
    await goneFrom(target(), "1000002");
  }, limitMs);

  test("a hang-up is noticed while input is stuck", async () => {
    const session = await target().sh("echo ready; sleep 1000003");
    await session.until(() => session.stdout.includes("ready"));
    session.stdin(Buffer.alloc(1_000_000));
    session.hangUp();
    await goneFrom(target(), "1000003");
  }, limitMs);

  test("nonsense on a connection drops that connection only", async () => {
    const other = await target().exec(["cat"]);
    const session = await target().session();
    session.send(Frame.STDOUT, Buffer.from("?"));
    await session.until(() => session.closed);
    const unknown = await target().exec(["true"], ["colour", "red"]);
    expect(await unknown.code()).toBe(126);
    expect(unknown.error?.get("message")).toContain('no key "colour"');
    other.stdin("still here");
    other.endStdin();
    expect((await result(other)).stdout).toBe("still here");
  }, limitMs);

  test("forty programs at once", async () => {
    const sessions = await Promise.all(Array.from({ length: 40 }, (_, i) => target().sh(`cat; echo ${i}; exit ${i}`)));
    sessions.forEach((session, i) => {
      session.stdin(`in ${i}\n`);
      session.endStdin();
    });
    const results = await Promise.all(sessions.map(result));
    expect(results).toEqual(sessions.map((_, i) => ({ code: i, stdout: `in ${i}\n${i}\n`, stderr: "" })));
  }, limitMs);
}
