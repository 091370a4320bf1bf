// A guest that sleeps: its TAP has no reader, and what comes for it rings and waits.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { EPOLLIN, EventFd } from "../../../src/ffi/epoll.ts";
import { closeFd } from "../../../src/ffi/fd.ts";
import { Doorbell } from "../../../src/host/network/doorbell.ts";
import { openNetwork } from "../../../src/host/network/network.ts";
import type { Lease, NetworkService } from "../../../src/host/network/service.ts";
import { until } from "../../support/until.ts";
import { openPoller } from "../../../src/host/poller.ts";
import { datagram, ETH_IP, ethernet, FLAGS, FrameSender, packet, segment, TCP, UDP, waiting } from "./frames.ts";
import { database, enterNamespace, HOST_ADDRESS, outside, OUTSIDE_ADDRESS, Peer, run } from "./world.ts";

setDefaultTimeout(60_000); // only a guard: processes start slowly on a busy or emulated machine
const poller = openPoller();
let leave: () => void, out: Peer;
let network: NetworkService, lease: Lease, tap: number, bell: Doorbell;

beforeAll(async () => {
  leave = enterNamespace();
  out = await outside();
});
afterAll(async () => {
  await poller.close();
  await out.close();
  leave();
});
beforeEach(async () => {
  network = openNetwork({ db: database() })._unsafeUnwrap();
  (await network.start())._unsafeUnwrap();
  lease = network.allocate("a")._unsafeUnwrap();
  tap = (await network.openTap(lease))._unsafeUnwrap();
  bell = new Doorbell(poller, tap, lease.ip);
});
afterEach(async () => {
  bell.stop();
  closeFd(tap);
  (await network.teardown())._unsafeUnwrap();
  network.close();
});

/** Listens; `knocked` resolves for the first knock, `knocks` counts them. */
function listen() {
  const knocked = Promise.withResolvers<void>(), gone = Promise.withResolvers<void>();
  const heard = { knocks: 0, knocked: knocked.promise, gone: gone.promise };
  bell.listen({ onKnock() { heard.knocks++; knocked.resolve(); }, onGone: gone.resolve });
  return heard;
}
/** Whatever the poller had to tell before has been told. */
async function settled(): Promise<void> {
  const event = new EventFd();
  for (let round = 0; round < 3; round++) {
    const { promise, resolve } = Promise.withResolvers<void>();
    const watch = poller.watch(event.fd, EPOLLIN, () => resolve());
    event.signal();
    await promise;
    watch.close();
  }
  event.close();
}
const DATA = 14 + 20 + 8;
const udp = (text: string) => ethernet(lease.mac, ETH_IP, packet(UDP, "192.0.2.77", lease.ip, datagram(9, text)));
const textOf = (frame: Uint8Array | undefined) => Buffer.from(frame?.subarray(DATA) ?? []).toString();

test("a knock rings once, and waits to be read", async () => {
  const heard = listen();
  expect(bell.queued()).toBe(false);
  const curl = Bun.spawn(["curl", "-s", `http://${lease.ip}/`], { stdout: "ignore" });
  await heard.knocked;
  await settled();
  expect(heard.knocks).toBe(1);
  expect(bell.queued()).toBe(true);
  curl.kill();
  await curl.exited;
  const syn = waiting(tap)[0]!;
  expect([syn[14 + 9], (syn[14 + 20 + 13] ?? 0) & 0x3f]).toEqual([TCP, FLAGS.SYN]);
  expect(bell.queued()).toBe(false);
});

test("noise does not ring, and is not kept", async () => {
  const heard = listen();
  const sender = new FrameSender(lease.tap);
  sender.send(ethernet(lease.mac, ETH_IP, packet(TCP, "192.0.2.77", lease.ip, segment(FLAGS.ACK))));
  expect(Bun.spawnSync(["ping", "-c", "1", "-W", "0.01", lease.ip]).success).toBe(false);
  await settled();
  expect([heard.knocks, bell.queued()]).toEqual([0, false]);
  sender.send(udp("wake up"));
  await heard.knocked;
  expect(waiting(tap).map(textOf)).toEqual(["wake up"]);
  sender.close();
});

test("what waits already rings at once; discard() throws it away, and the next one rings", async () => {
  const sender = new FrameSender(lease.tap);
  sender.send(udp("early"));
  await listen().knocked;
  await listen().knocked; // it still waits
  bell.discard();
  expect(bell.queued()).toBe(false);
  const heard = listen();
  await settled();
  expect(heard.knocks).toBe(0);
  sender.send(udp("again"));
  await heard.knocked;
  expect(waiting(tap).map(textOf)).toEqual(["again"]);
  sender.close();
});

test("stop() hears nothing more, and lets everything through", async () => {
  const heard = listen();
  bell.stop();
  bell.stop();
  const sender = new FrameSender(lease.tap);
  sender.send(ethernet(lease.mac, ETH_IP, packet(TCP, "192.0.2.77", lease.ip, segment(FLAGS.ACK))));
  await settled();
  expect([heard.knocks, bell.queued()]).toEqual([0, true]);
  sender.close();
});

test("a link that somebody removes is told as gone", async () => {
  const heard = listen();
  run("ip", "link", "del", lease.tap);
  await heard.gone;
  expect([heard.knocks, bell.queued()]).toEqual([0, false]);
});

describe("while nobody reads", () => {
  test("routes, neighbour and carrier stay, and published ports lead to the queue from everywhere", async () => {
    (await network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }, { guestPort: 53, hostPort: 8053, protocol: "udp" }]))._unsafeUnwrap();
    expect(run("ip", "-br", "link", "show", lease.tap)).toContain("LOWER_UP");
    expect(run("ip", "route", "get", lease.ip)).toContain(`dev ${lease.tap}`);
    const ports = { tcp: 8080, udp: 8053 };
    const callers: [where: string, seenAs: string, command: string[]][] = [
      ["127.0.0.1", lease.gateway, []], [HOST_ADDRESS, HOST_ADDRESS, []], [HOST_ADDRESS, OUTSIDE_ADDRESS, ["nsenter", "-t", String(out.pid), "-n"]],
    ];
    for (const [where, seenAs, command] of callers) {
      for (const [protocol, port] of Object.entries(ports)) {
        const heard = listen();
        const call = Bun.spawn([...command, "bash", "-c", `exec 3<>/dev/${protocol}/${where}/${port}; echo hello >&3`], { stderr: "ignore" });
        await heard.knocked;
        call.kill();
        await call.exited;
        const frame = waiting(tap)[0]!;
        const address = (at: number) => frame.subarray(14 + at, 14 + at + 4).join(".");
        const guestPort = new DataView(frame.buffer, frame.byteOffset).getUint16(14 + 20 + 2);
        expect([where, protocol, address(12), address(16), guestPort]).toEqual([where, protocol, seenAs, lease.ip, protocol === "tcp" ? 80 : 53]);
        bell.discard(); // what was sent again meanwhile
      }
    }
  });

  test("the packet that knocked is the one that is answered", async () => {
    (await network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    const heard = listen();
    const call = out.ask("tcp", HOST_ADDRESS, 8080);
    await heard.knocked;
    bell.stop();
    const guest = new Peer(tap);
    await guest.serve("tcp", 80, "a");
    await guest.tell({ do: "guest", ip: lease.ip, mac: lease.mac, gateway: lease.gateway });
    expect(await call).toBe(`a sees ${OUTSIDE_ADDRESS}`);
    await guest.close();
  });

  test("a datagram to a published port that knocked is answered from there, though a wake publishes the ports again", async () => {
    const ports = [{ guestPort: 53, hostPort: 8053, protocol: "udp" }] as const;
    (await network.publish("a", ports))._unsafeUnwrap();
    const heard = listen();
    // Once: to a second one the guest would answer as to a first.
    const call = Bun.spawn(["nsenter", "-t", String(out.pid), "-n", "timeout", "20", "bash", "-c", `exec 3<>/dev/udp/${HOST_ADDRESS}/8053; echo hello >&3; head -c 6 <&3`], { stdout: "pipe" });
    await heard.knocked;
    (await network.publish("a", ports).andThen(() => network.setClosed("a", false)))._unsafeUnwrap();
    bell.stop();
    const guest = new Peer(tap);
    await guest.serve("udp", 53, "a");
    await guest.tell({ do: "guest", ip: lease.ip, mac: lease.mac, gateway: lease.gateway });
    expect(await new Response(call.stdout).text()).toBe("a sees");
    await guest.close();
  });

  test("a datagram that comes in pieces rings, and waits whole", async () => {
    (await network.publish("a", [{ guestPort: 53, hostPort: 8053, protocol: "udp" }]))._unsafeUnwrap();
    const text = "x".repeat(3_000), heard = listen();
    await out.tell({ do: "tell", host: HOST_ADDRESS, port: 8053, text });
    await heard.knocked;
    bell.stop();
    const guest = new Peer(tap);
    await guest.serve("udp", 53, "a");
    await guest.tell({ do: "guest", ip: lease.ip, mac: lease.mac, gateway: lease.gateway });
    await until("it to be heard", async () => (await guest.heard()).includes(text), 10_000);
    await guest.close();
  });

  test("one that must not be woken answers as a closed port, and rings no bell", async () => {
    (await network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }, { guestPort: 53, hostPort: 8053, protocol: "udp" }]))._unsafeUnwrap();
    const heard = listen();
    (await network.setClosed("a", true))._unsafeUnwrap();
    (await network.setClosed("a", true))._unsafeUnwrap();
    const refused = (host: string, port: number, command: string[] = []) => {
      const tcp = Bun.spawnSync([...command, "bash", "-c", `exec 3<>/dev/tcp/${host}/${port}`], { stderr: "pipe" });
      expect([host, port, tcp.stderr.toString()]).toEqual([host, port, expect.stringContaining("Connection refused")]);
    };
    /** A datagram is refused with ICMP, which the next read tells. */
    const datagramRefused = (host: string, port: number, command: string[] = []) => {
      const udp = Bun.spawnSync([...command, "bash", "-c", `exec 3<>/dev/udp/${host}/${port}; echo hello >&3; head -c 1 <&3`], { stderr: "pipe" });
      expect([host, port, udp.stderr.toString()]).toEqual([host, port, expect.stringContaining("Connection refused")]);
    };
    const fromOutside = ["nsenter", "-t", String(out.pid), "-n"];
    refused(lease.ip, 80);
    datagramRefused(lease.ip, 53);
    for (const host of ["127.0.0.1", HOST_ADDRESS]) refused(host, 8080);
    refused(HOST_ADDRESS, 8080, fromOutside);
    datagramRefused(HOST_ADDRESS, 8053, fromOutside);
    await settled();
    expect([heard.knocks, bell.queued()]).toEqual([0, false]);
    run("nft", "delete", "table", "ip", "dormouse"); // and it is made anew as it was
    (await network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    refused(HOST_ADDRESS, 8080, fromOutside);
    (await network.setClosed("a", false))._unsafeUnwrap();
    (await network.setClosed("a", false))._unsafeUnwrap();
    const call = Bun.spawn([...fromOutside, "bash", "-c", `exec 3<>/dev/tcp/${HOST_ADDRESS}/8080`], { stderr: "ignore" });
    await heard.knocked;
    call.kill();
    await call.exited;
  });

  test("a closed address is forgotten with its instance", async () => {
    (await network.setClosed("a", true))._unsafeUnwrap();
    expect(run("nft", "list", "set", "ip", "dormouse", "closed")).toContain(lease.ip);
    (await network.release("a"))._unsafeUnwrap();
    expect(run("nft", "list", "set", "ip", "dormouse", "closed")).not.toContain(lease.ip);
    expect((await network.setClosed("a", true)).isOk()).toBe(true);
  });
});
