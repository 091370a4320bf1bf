import { afterEach, expect, test } from "bun:test";
import { Epoll, EPOLLIN, EventFd } from "../../src/ffi/epoll.ts";

const cleanup: (() => void)[] = [];
afterEach(() => cleanup.splice(0).forEach((step) => step()));

test("poll() keeps an event for itself whose descriptor was closed meanwhile, and whose number is another's since", () => {
  const epoll = new Epoll(), ready = [new EventFd(), new EventFd()] as const;
  cleanup.push(() => epoll.close());
  let heard = 0, wrong = 0, next: EventFd | null = null;
  // Whichever comes first takes the other one's place.
  ready.forEach((one, i) => epoll.add(one.fd, EPOLLIN, () => {
    const other = ready[1 - i]!;
    heard++;
    epoll.remove(one.fd);
    epoll.remove(other.fd);
    other.close();
    next = new EventFd();
    expect(next.fd).toBe(other.fd);
    epoll.add(next.fd, EPOLLIN, () => void wrong++);
    cleanup.push(() => [one, next!].forEach((fd) => fd.close()));
  }));
  for (const one of ready) one.signal();
  expect(epoll.poll(0)).toBe(2);
  expect({ heard, wrong }).toEqual({ heard: 1, wrong: 0 });
  next!.signal();
  epoll.poll(0);
  expect(wrong).toBe(1);
});
