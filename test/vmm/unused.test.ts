// A monitor without a guest: how long it lives depends on who is connected.
import { expect, test } from "bun:test";
import { Epoll } from "../../src/ffi/epoll.ts";
import { closeFd } from "../../src/ffi/fd.ts";
import { connectSeqpacket, listenSeqpacket } from "../../src/ffi/socket.ts";
import { Session } from "../../src/vmm/session.ts";
import { TempDir } from "../support/paths.ts";

const UNUSED_MS = 1;

test("a monitor that nobody is connected to ends when its time is over", () => {
  using dir = new TempDir("unused");
  const epoll = new Epoll();
  const session = new Session(epoll, listenSeqpacket(dir.join("socket")), UNUSED_MS);
  while (!session.done) epoll.poll();
});

test("a monitor with a daemon waits for as long as it stays, and ends when it hangs up", () => {
  using dir = new TempDir("unused");
  const epoll = new Epoll();
  const listener = listenSeqpacket(dir.join("socket"));
  const connection = connectSeqpacket(dir.join("socket"));
  const session = new Session(epoll, listener, UNUSED_MS);
  // The connection is heard in one turn of the loop, the timer in the same or the next.
  for (let turns = 0; turns < 2; turns += epoll.poll());
  expect(session.done).toBe(false);
  closeFd(connection);
  while (!session.done) epoll.poll();
});
