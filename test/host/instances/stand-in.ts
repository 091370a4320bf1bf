// A monitor without a virtual machine: a process of its own that speaks the control protocol by the product's own code
// (Control, Record, LogSink), takes all that `boot` brings, and plays a guest after the arguments in its configuration.
// It stands in where no Linux guest can run; how a real guest behaves is tested under test/guest. A machine that it saves is
// what its guest was told to do; of its memory 16 pages are written. Sleeping goes wrong where the guest is `save-fails`,
// `save-slowly MS` (called off by cancelSave), `save-silently` (never answers, until it is told to go on), `never-thaws`, `thaws-once PATH` (there is a file),
// `refuse-wake`, `needs-feature` or `die-awake` (once it has answered).
import { existsSync, fstatSync, readFileSync } from "node:fs";
import { FrameDecoder, encodeChunks, encodeFrame } from "../../../src/host/agent/frames.ts";
import { decodePairs, encodePairs } from "../../../src/pairs.ts";
import { Epoll, EPOLLIN, EPOLLOUT, TimerFd } from "../../../src/ffi/epoll.ts";
import { errnoName } from "../../../src/ffi/abi/errno.ts";
import { closeFd, pwriteAll, tryRead, tryWrite } from "../../../src/ffi/fd.ts";
import { SysError } from "../../../src/ffi/syscall.ts";
import { faultMessage, MachineStateError } from "../../../src/machine-state/fault.ts";
import { Control } from "../../../src/vmm/control.ts";
import { LogSink } from "../../../src/vmm/devices/console/log-sink.ts";
import { checkChain, decodeMachine, encodeMachine, PAGE_BYTES } from "../../../src/machine-state/saved-machine.ts";
import { sampleMachine } from "../../support/saved-machine.ts";
import { CONTROL_FD, Frame } from "../../../src/vmm/protocol.ts";
import { Record } from "../../../src/vmm/record.ts";

const epoll = new Epoll();
const timer = new TimerFd();
let done = false;
let argv: string[] = [];
let booted = false;
let tap = -1;
let app: LogSink | null = null;
let onTimer: (() => void) | null = null;
const saveTimer = new TimerFd(), thawing = new TimerFd();
let onThawed: (() => void) | null = null;
let finishSave: ((error: string | null) => void) | null = null;
let saved = false;
const MEMORY = 16 * PAGE_BYTES;

interface SavedGuest { readonly argv: string[]; readonly bootedAt: number | null; readonly runningAt: number | null }
let loaded: SavedGuest | null = null;

/** The newest machine of the chain, checked as the product does it. */
function newestOf(generations: readonly string[], fds: { take(name: string): number }) {
  try {
    const machines = generations.map((_, i) => {
      fstatSync(fds.take(`memory${i}`));
      return decodeMachine(readFileSync(`/proc/self/fd/${fds.take(`machine${i}`)}`));
    });
    checkChain(machines, generations);
    return machines[0]!;
  } catch (error) {
    throw new Error(error instanceof MachineStateError ? faultMessage(error) : String(error));
  }
}

const record = new Record((status) => control.send({ event: "state", status }));
const control: Control = new Control(epoll, CONTROL_FD, {
  prepare: (_params, _fds, reply) => reply({ result: null }),
  boot(params, fds, reply) {
    const config = readFileSync(`/proc/self/fd/${fds.take("config")}`);
    argv = argumentsIn(config);
    if (argv[0] === "refuse-boot") throw new Error("no room for this guest");
    if (argv[0] === "die-at-boot") process.kill(process.pid, "SIGKILL");
    for (const name of ["kvm", "kernel", "initrd", ...params.disks.map((_, i) => `disk${i}`)]) fstatSync(fds.take(name));
    record.open(fds.take("status"));
    if (fds.has("tap")) tap = fds.take("tap");
    app = new LogSink([fds.take("app0"), fds.take("app1")]);
    booted = true;
    record.booted();
    reply({ result: record.status });
    play();
  },
  status: (_params, _fds, reply) => { if (argv[0] !== "silent") reply({ result: record.status }); },
  stats: (_params, _fds, reply) => reply({ result: argv[0] === "bad-stats" ? ({ cpuSeconds: "many" } as never) : { cpuSeconds: 1.5, exits: 7, disks: [], net: null } }),
  pause: (_params, _fds, reply) => (halt(), reply({ result: record.status })),
  resume(_params, _fds, reply) {
    if (argv[0] === "never-thaws") return reply({ error: "Cannot let the guest go on: the guest did not thaw its workload" });
    goOn();
    if (argv[0] !== "thaws-once") return reply({ result: record.status });
    thawing.arm(1);
    onThawed = () => existsSync(argv[1]!) ? reply({ result: record.status }) : thawing.arm(1);
  },
  release: (_params, _fds, reply) => (goOn(), reply({ result: record.status })),
  save(params, fds, reply) {
    if (saved || finishSave !== null) throw new Error("the guest is saved already");
    const machine = fds.take("machine"), memory = fds.take("memory");
    control.send({ event: "deaf" });
    halt();
    finishSave = (error) => {
      finishSave = null;
      saved = error === null;
      const guest: SavedGuest = { argv, bootedAt: record.status.bootedAt, runningAt: record.status.runningAt };
      try {
        if (saved) pwriteAll(machine, encodeMachine(sampleMachine({ ...params, memoryBytes: MEMORY, pages: [{ page: 0, pages: MEMORY / PAGE_BYTES, content: "data" }], devices: [guest] })), 0);
        if (saved) pwriteAll(memory, new Uint8Array(MEMORY).fill(1), 0);
      } catch (failed) {
        saved = false;
        error = `Cannot save the machine: cannot write guest memory: ${failed instanceof SysError ? errnoName(failed.errno) : String(failed)}`;
      }
      [machine, memory].forEach(closeFd);
      if (error === null) return reply({ result: { dataBytes: MEMORY, zeroPages: 0, pausedMs: 1 } });
      goOn();
      reply({ error });
    };
    if (argv[0] === "save-fails") finishSave("Cannot save the machine: no space left on the disk");
    else if (argv[0] !== "save-silently") saveTimer.arm(argv[0] === "save-slowly" ? Number(argv[1]) : 1);
  },
  cancelSave(_params, _fds, reply) {
    saveTimer.arm(0);
    finishSave?.("Cannot save the machine: it was called off");
    reply({ result: null });
  },
  load(params, fds, reply) {
    const newest = newestOf(params.generations, fds).devices[0] as SavedGuest;
    fstatSync(fds.take("kvm"));
    if (newest.argv[0] === "needs-feature") throw new Error("snapshot.incompatible: Cannot restore the machine: this host lacks CPUID 0x7.0.ebx bit 16 (incompatible)");
    loaded = newest;
    reply({ result: null });
  },
  restore(params, fds, reply) {
    if (loaded === null) throw new Error("no saved machine was loaded for this");
    for (const name of [...params.disks.map((_, i) => `disk${i}`)]) fstatSync(fds.take(name));
    record.open(fds.take("status"));
    if (fds.has("tap")) tap = fds.take("tap");
    app = new LogSink([fds.take("app0"), fds.take("app1")]);
    argv = loaded.argv;
    booted = true;
    record.restored(loaded.bootedAt, loaded.runningAt);
    if (argv[0] === "refuse-wake") {
      reply({ error: "Cannot restore the machine: the guest did not acknowledge who it is" });
      return end("internal", "the guest did not acknowledge who it is");
    }
    reply({ result: { status: record.status, stepsMs: { load: 1, machine: 1, run: 1, acknowledged: 1 }, runsSinceMs: 1 } });
    if (argv[0] === "die-awake") process.kill(process.pid, "SIGKILL");
  },
  tap(_params, _fds, reply) {
    if (tap < 0) throw new Error("Cannot hand out the TAP: this machine has no network");
    reply({ result: null, fds: { tap } });
  },
  addLayer(_params, fds, reply) {
    ["disk", "map"].forEach((name) => fstatSync(fds.take(name)));
    reply({ result: null });
  },
  shutdown(params, _fds, reply) {
    reply({ result: record.status });
    if (argv[0] === "deaf") after(params.graceMs, () => end("killed", "the guest did not shut down in time and was killed"));
    else if (argv[0] !== "hung") after(1, () => exit(143, "killed by signal 15 (SIGTERM)"));
  },
  kill: () => end("killed", "killed"),
  vsock(_params, fds, reply) {
    const stream = fds.take("stream");
    if (argv[0] === "no-agent") return closeFd(stream), reply({ error: "the guest refused the connection" });
    reply({ result: null });
    serveAgent(stream);
  },
}, () => { if (!booted) done = true; });

epoll.add(saveTimer.fd, EPOLLIN, () => (saveTimer.drain(), finishSave?.(null)));
epoll.add(thawing.fd, EPOLLIN, () => (thawing.drain(), onThawed?.()));
epoll.add(timer.fd, EPOLLIN, () => (timer.drain(), runTimer()));
while (!done) epoll.poll();
process.exit(0);

function after(ms: number, action: () => void): void {
  onTimer = action;
  timer.arm(Math.max(1, ms));
}

function runTimer(): void {
  const action = onTimer;
  onTimer = null;
  action?.();
}

function halt(): void {
  timer.arm(0);
  record.paused();
}

function goOn(): void {
  saved = false;
  if (onTimer !== null) timer.arm(1);
  record.resumed();
}

function end(reason: Parameters<Record["ended"]>[0], message: string): void {
  record.ended(reason, message);
  done = true;
}

function exit(code: number, message: string, restart = false): void {
  record.exited(code, message, restart);
  end("reset", "reset");
}

function play(): void {
  const [what, first = "", second = ""] = argv;
  if (what === "boot-slowly") return after(Number(first), () => record.running());
  if (what === "panic") return end("panic", "Kernel panic - not syncing: Attempted to kill init!");
  record.running();
  if (what === "exit") return exit(Number(first), second);
  if (what === "say") argv.slice(1).forEach((line) => app!.write(Buffer.from(`${line}\n`)));
  if (what === "say-exit") return app!.write(Buffer.from(argv.slice(1).join("\n"))), exit(0, "");
  // A restart the first time, which its log remembers.
  if (what === "reboot-once") {
    const before = fstatSync(1).size > 0;
    if (!before) return console.log("booted once"), exit(0, "", true);
  }
  if (what === "disks-fail") argv.slice(1).forEach((errno, disk) => control.send({ event: "diskFailed", disk, errno: Number(errno) }));
  if (what === "talk") return talk(Number(first), 1);
  if (what === "until") return exitOnce(first);
}

/** Ends once there is a file at `path`. */
function exitOnce(path: string): void {
  if (existsSync(path)) return exit(0, "");
  after(1, () => exitOnce(path));
}

/** `count` lines, one each millisecond. */
function talk(count: number, n: number): void {
  app!.write(Buffer.from(`line ${n}\n`));
  if (n === count) return after(1, () => exit(0, ""));
  after(1, () => talk(count, n + 1));
}

function argumentsIn(archive: Uint8Array): string[] {
  const name = Buffer.from("dormouse/config\0");
  const header = Buffer.from(archive).indexOf(name) - 110;
  const field = (i: number) => parseInt(Buffer.from(archive).toString("latin1", header + 6 + i * 8, header + 14 + i * 8), 16);
  const start = Math.ceil((header + 110 + field(11)) / 4) * 4;
  return decodePairs(archive.subarray(start, start + field(6)))!.filter(([key]) => key === "arg").map(([, value]) => value);
}

/** Plays `echo WORD…`, `cat`, `flood BYTES`, `missing`, `hang`, `vanish`, `argv`; attach is `cat` too. Of files there is `/f`, of three bytes; a copy of another says nothing. */
function serveAgent(fd: number): void {
  const decoder = new FrameDecoder();
  const buffer = new Uint8Array(65536);
  let outgoing: Uint8Array[] = [];
  let closing = false;
  let cat = false;
  const close = () => (epoll.remove(fd), closeFd(fd));
  const flush = (): void => {
    while (outgoing.length > 0) {
      const n = tryWrite(fd, outgoing[0]!, outgoing[0]!.length);
      if (n < 0) return void epoll.modify(fd, EPOLLIN | EPOLLOUT);
      outgoing[0] = outgoing[0]!.subarray(n);
      if (outgoing[0]!.length === 0) outgoing.shift();
    }
    if (closing) return close();
    epoll.modify(fd, EPOLLIN);
  };
  const send = (...frames: Uint8Array[]) => void outgoing.push(...frames);
  const finish = (code: number, message = "") => (send(encodeFrame(Frame.EXIT, encodePairs([["code", String(code)], ["message", message]]))), (closing = true));
  const command = (payload: Uint8Array) => {
    const pairs = decodePairs(payload)!;
    const args = pairs.filter(([key]) => key === "arg").map(([, value]) => value);
    if (args[0] === "missing") return send(encodeFrame(Frame.ERROR, encodePairs([["code", "127"], ["message", "missing: command not found"]]))), void (closing = true);
    if (args[0] === "vanish") return void (closing = true);
    send(encodeFrame(Frame.STARTED, encodePairs([["pid", "42"]])));
    if (args[0] === "echo") send(...encodeChunks(Frame.STDOUT, Buffer.from(`${args.slice(1).join(" ")}\n`)), ...encodeChunks(Frame.STDERR, Buffer.from("warned\n"))), finish(3, "three");
    if (args[0] === "argv") send(...encodeChunks(Frame.STDOUT, Buffer.from(JSON.stringify(pairs)))), finish(0);
    if (args[0] === "flood") send(...encodeChunks(Frame.STDOUT, new Uint8Array(Number(args[1])))), finish(0);
    if (args[0] === "cat") cat = true;
  };
  const file = (asked: number, payload: Uint8Array) => {
    if (decodePairs(payload)!.find(([key]) => key === "path")?.[1] !== "/f") return;
    send(encodeFrame(Frame.ENTRY, encodePairs([["path", ""], ["kind", "file"], ["mode", "420"], ["uid", "0"], ["gid", "0"], ["size", "3"], ["mtime", "1"]])));
    if (asked === Frame.COPY_OUT) send(encodeFrame(Frame.DATA, Buffer.from("abc")), encodeFrame(Frame.DATA), encodeFrame(Frame.DONE));
    closing = true;
  };
  epoll.add(fd, EPOLLIN, (events) => {
    if (events & EPOLLOUT) flush();
    const n = closing ? 0 : tryRead(fd, buffer, buffer.length);
    if (n === 0 && !closing) {
      app!.write(Buffer.from("hung up\n"));
      return close();
    }
    for (const { type, payload } of n > 0 ? decoder.push(buffer.subarray(0, n)) : []) {
      if (type === Frame.EXEC) command(payload);
      if (type === Frame.ATTACH) cat = true;
      if (type === Frame.COPY_OUT || type === Frame.STAT) file(type, payload);
      if (type === Frame.RESIZE || type === Frame.SIGNAL) send(...encodeChunks(Frame.STDERR, Buffer.from(`${type === Frame.RESIZE ? "resize" : "signal"} ${[...payload].join(" ")}\n`)));
      if (type === Frame.STDIN && cat && payload.length > 0) send(...encodeChunks(Frame.STDOUT, payload));
      if (type === Frame.STDIN && cat && payload.length === 0) finish(0);
    }
    if (n > 0) flush();
  });
}
