import { afterAll, expect, test } from "bun:test";
import { EPOLLIN, EPOLLOUT, EPOLLRDHUP, EventFd } from "../../src/ffi/epoll.ts";
import { closeFd } from "../../src/ffi/fd.ts";
import { ProcessHandle } from "../../src/ffi/process.ts";
import { packetPair, receivePacket, sendPacket } from "../../src/ffi/socket.ts";
import { openPoller } from "../../src/host/poller.ts";

const poller = openPoller();
afterAll(() => poller.close());

test("watch() runs its handler for each readiness, and again while it lasts", async () => {
  const counter = new EventFd();
  let runs = 0;
  await new Promise<void>((resolve) => {
    const watch = poller.watch(counter.fd, EPOLLIN, (events) => {
      expect(events).toBe(EPOLLIN);
      // The first two rounds leave it readable.
      if (++runs < 3) return;
      expect(counter.drain()).toBe(true);
      watch.close();
      resolve();
    });
    counter.signal();
  });
  expect(runs).toBe(3);
  counter.close();
});

test("watch() sees packets, room to write and the end of a connection", async () => {
  const [a, b] = packetPair();
  const seen: string[] = [];
  await new Promise<void>((resolve) => {
    const watch = poller.watch(b, EPOLLIN | EPOLLRDHUP, () => {
      const packet = receivePacket(b, new Uint8Array(64));
      if (packet === "again") return;
      seen.push(packet === null ? "end" : Buffer.from(packet.bytes).toString());
      if (packet === null) return watch.close(), resolve();
      if (seen.length === 1) return watch.modify(EPOLLOUT), void sendPacket(a, Buffer.from("two"));
      closeFd(a);
    });
    const first = poller.watch(a, EPOLLOUT, () => (first.close(), sendPacket(a, Buffer.from("one"))));
    // After modify(EPOLLOUT) the handler runs although it waits for no input any more.
  });
  expect(seen).toEqual(["one", "two", "end"]);
  closeFd(b);
});

test("a handler that throws is told of, others of the same moment are called, and it is called again", async () => {
  const told: unknown[] = [], both = [new EventFd(), new EventFd()], runs = [0, 0], done = Promise.withResolvers<void>();
  const careful = openPoller((what, error) => told.push([what, error]));
  const watches = both.map((one, i) => careful.watch(one.fd, EPOLLIN, () => {
    if (runs[i]!++ === 0) throw `failed ${i}`;
    one.drain();
    if (runs.every((n) => n > 1)) done.resolve();
  }));
  both.forEach((one) => one.signal());
  await done.promise;
  expect([runs, told.toSorted()]).toEqual([[2, 2], both.map((one, i) => [`heed descriptor ${one.fd}`, `failed ${i}`]).toSorted()]);
  watches.forEach((one) => one.close());
  await careful.close();
  both.forEach((one) => one.close());
});

test("watch() sees a process end", async () => {
  const child = Bun.spawn(["sleep", "1000"]);
  const handle = ProcessHandle.open(child.pid)!;
  const ended = new Promise<void>((resolve) => {
    const watch = poller.watch(handle.fd, EPOLLIN, () => (watch.close(), resolve()));
  });
  handle.signal(9);
  await ended;
  await child.exited; // until it is waited for there is still something to signal
  expect(handle.signal(0)).toBe(false);
  handle.close();
});

test("close() of a watch drops a message already under way", async () => {
  const counters = Array.from({ length: 20 }, () => new EventFd());
  let late = 0;
  const watches = counters.map((one) => poller.watch(one.fd, EPOLLIN, () => late++));
  counters.forEach((one) => one.signal());
  watches.forEach((one) => one.close());
  const last = new EventFd();
  await new Promise<void>((resolve) => {
    const watch = poller.watch(last.fd, EPOLLIN, () => (watch.close(), resolve()));
    last.signal();
  });
  expect(late).toBe(0);
  [...counters, last].forEach((one) => one.close());
});

test("a process with a poller ends by itself, and close() ends the Worker", async () => {
  const script = `import { openPoller } from ${JSON.stringify(`${import.meta.dir}/../../src/host/poller.ts`)};
    const poller = openPoller(); if (process.argv[1] === "close") await poller.close(); console.log("done");`;
  for (const how of ["close", "leave"]) {
    const child = Bun.spawn([process.execPath, "-e", script, how], { stdout: "pipe", stderr: "inherit" });
    expect(await new Response(child.stdout).text()).toBe("done\n");
    expect(await child.exited).toBe(0);
  }
});

test("close() a second time leaves alone whoever has its descriptors' numbers now", async () => {
  const first = openPoller();
  await first.close();
  const second = openPoller();
  await Promise.all([first.close(), second.close()]);
});
