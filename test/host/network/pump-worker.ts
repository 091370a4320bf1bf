// Carries frames between two TAPs: what the monitor and a guest's driver do, for a guest that is only a network namespace.
import { EPOLLIN, Epoll } from "../../../src/ffi/epoll.ts";
import { setNonblocking, tryRead, tryWrite } from "../../../src/ffi/fd.ts";

declare const self: Worker;

const FRAME = 64 * 1024 + 64;

self.onmessage = (event: MessageEvent<[number, number]>) => {
  const epoll = new Epoll();
  const buffer = new Uint8Array(FRAME);
  const carry = (from: number, to: number) => {
    setNonblocking(from);
    epoll.add(from, EPOLLIN, () => {
      for (let n = tryRead(from, buffer, FRAME); n > 0; n = tryRead(from, buffer, FRAME)) tryWrite(to, buffer, n);
    });
  };
  carry(event.data[0], event.data[1]);
  carry(event.data[1], event.data[0]);
  for (;;) epoll.poll();
};
