// The network as guests, the host and the outside meet it: real stacks in namespaces, real TAPs, real rules.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Database } from "bun:sqlite";
import { connect, type Socket } from "node:net";
import { ConntrackSocket } from "../../../src/ffi/netlink/conntrack.ts";
import { NftSocket } from "../../../src/ffi/netlink/nftables.ts";
import { parseAddress } from "../../../src/host/network/address.ts";
import { openNetwork, type NetworkOptions } from "../../../src/host/network/network.ts";
import { until } from "../../support/until.ts";
import type { Lease, NetworkService } from "../../../src/host/network/service.ts";
import { counted, database, enterNamespace, guest, HOST_ADDRESS, outside, OUTSIDE_ADDRESS, picture, run, type Peer } from "./world.ts";

setDefaultTimeout(60_000); // only a guard: processes start slowly on a busy or emulated machine
let leave: () => void, out: Peer;
let db: Database, network: NetworkService;
const peers: Peer[] = [];

beforeAll(async () => {
  leave = enterNamespace();
  out = await outside();
  run("nft", "add table inet theirs; add chain inet theirs forward { type filter hook forward priority 0; policy accept; }; add rule inet theirs forward tcp dport 4444 drop");
  await out.serve("tcp", 80, "outside");
  await out.serve("udp", 53, "outside");
});
afterAll(async () => {
  await out.close();
  leave();
});

beforeEach(() => { db = database(); });
afterEach(async () => {
  await network.teardown();
  network.close();
  for (const peer of peers.splice(0)) await peer.close();
});

async function start(options: Partial<NetworkOptions> = {}): Promise<void> {
  network = openNetwork({ db, ...options })._unsafeUnwrap();
  (await network.start())._unsafeUnwrap();
}
async function add(id: string): Promise<{ peer: Peer; lease: Lease }> {
  const made = await guest(network, id);
  peers.push(made.peer);
  return made;
}
const curl = (host: string, port = 80): string => run("curl", "-sS", "--http0.9", "--max-time", "10", `http://${host}:${port}/`);

describe("a guest", () => {
  test("reaches the outside with the host's address", async () => {
    await start();
    const { peer } = await add("a");
    expect(await peer.ask("tcp", OUTSIDE_ADDRESS, 80)).toBe(`outside sees ${HOST_ADDRESS}`);
    expect(await peer.ask("udp", OUTSIDE_ADDRESS, 53)).toBe(`outside sees ${HOST_ADDRESS}`);
  });

  test("is reached by the host, and sees it as the gateway", async () => {
    await start();
    const { peer, lease } = await add("a");
    await peer.serve("tcp", 80, "a");
    expect(curl(lease.ip)).toBe(`a sees ${lease.gateway}`);
  });

  test("reaches services on the gateway address, but not the host's other addresses", async () => {
    await start();
    const { peer, lease } = await add("a");
    const server = Bun.listen({ hostname: "0.0.0.0", port: 0, socket: { data(socket) { socket.end("the host"); } } });
    expect(await peer.ask("tcp", lease.gateway, server.port)).toBe("the host");
    await expect(peer.ask("tcp", HOST_ADDRESS, server.port)).rejects.toThrow();
    expect(counted("the host's other addresses")).toBeGreaterThan(0);
    server.stop(true);
  });

  test("cannot use another source address", async () => {
    await start();
    const { peer } = await add("a");
    run("nsenter", "-t", String(peer.pid), "-n", "ip", "addr", "add", "10.88.0.99/32", "dev", "eth0");
    await peer.tell({ do: "tell", host: OUTSIDE_ADDRESS, port: 53, source: "10.88.0.99", text: "forged" });
    await peer.tell({ do: "tell", host: OUTSIDE_ADDRESS, port: 53, text: "honest" });
    for (let heard: string[] = []; !heard.includes("honest");) heard = await out.heard();
    expect(await out.heard()).not.toContain("forged");
    expect(counted("a guest may use its own address only")).toBe(1);
  });

  test("cannot reach another guest, and learns it at once", async () => {
    await start();
    const [a, b] = [await add("a"), await add("b")];
    await b.peer.serve("tcp", 80, "b");
    await expect(a.peer.ask("tcp", b.lease.ip, 80)).rejects.toThrow();
    expect(curl(b.lease.ip)).toBe(`b sees ${b.lease.gateway}`);
    expect(counted("from guest to guest")).toBe(1);
  });

  test("reaches another guest where that is allowed", async () => {
    await start({ guestToGuest: true });
    const [a, b] = [await add("a"), await add("b")];
    await b.peer.serve("tcp", 80, "b");
    expect(await a.peer.ask("tcp", b.lease.ip, 80)).toBe(`b sees ${a.lease.ip}`);
  });

  test("is not reached by the outside but through published ports", async () => {
    await start();
    const { peer, lease } = await add("a");
    await peer.serve("udp", 99, "a");
    run("nsenter", "-t", String(out.pid), "-n", "ip", "route", "replace", "10.88.0.0/16", "via", HOST_ADDRESS);
    await out.tell({ do: "tell", host: lease.ip, port: 99, text: "uninvited" });
    while (counted("from the outside, to no published port") === 0) await Bun.sleep(5);
    expect(await peer.heard()).toEqual([]);
  });
});

describe("published ports", () => {
  test("reach the guest from everywhere", async () => {
    await start();
    const [a, b] = [await add("a"), await add("b")];
    await a.peer.serve("tcp", 80, "a");
    await a.peer.serve("udp", 80, "a");
    const ports = [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }, { guestPort: 80, hostPort: 8081, protocol: "udp" }] as const;
    (await network.publish("a", ports))._unsafeUnwrap();
    expect(await out.ask("tcp", HOST_ADDRESS, 8080)).toBe(`a sees ${OUTSIDE_ADDRESS}`);
    expect(await out.ask("udp", HOST_ADDRESS, 8081)).toBe(`a sees ${OUTSIDE_ADDRESS}`);
    expect(curl("127.0.0.1", 8080)).toBe(`a sees ${a.lease.gateway}`);
    expect(curl(HOST_ADDRESS, 8080)).toBe(`a sees ${HOST_ADDRESS}`);
    expect(await b.peer.ask("tcp", a.lease.gateway, 8080)).toBe(`a sees ${b.lease.ip}`);
    expect(await b.peer.ask("udp", HOST_ADDRESS, 8081)).toBe(`a sees ${b.lease.ip}`);
    expect(await a.peer.ask("tcp", a.lease.gateway, 8080)).toBe(`a sees ${a.lease.gateway}`);
  });

  test("are refused where another instance or program has one, and nothing changes", async () => {
    await start();
    const a = await add("a");
    await add("b");
    await a.peer.serve("tcp", 80, "a");
    (await network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    const taken = await network.publish("b", [{ guestPort: 80, hostPort: 8079, protocol: "tcp" }, { guestPort: 80, hostPort: 8080, protocol: "tcp" }]);
    expect(taken._unsafeUnwrapErr().code).toBe("port.taken");
    expect(taken._unsafeUnwrapErr().message).toContain("instance a");
    const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const before = picture();
    const used = await network.publish("b", [{ guestPort: 80, hostPort: 8079, protocol: "tcp" }, { guestPort: 80, hostPort: server.port, protocol: "tcp" }]);
    expect(used._unsafeUnwrapErr().code).toBe("port.taken");
    server.stop(true);
    expect(picture()).toBe(before);
    expect(curl("127.0.0.1", 8080)).toBe(`a sees ${a.lease.gateway}`);
    (await network.publish("b", [{ guestPort: 80, hostPort: 8079, protocol: "tcp" }]))._unsafeUnwrap();
  });

  test("are kept from other programs until unpublished", async () => {
    await start();
    await add("a");
    (await network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    const listen = () => Bun.listen({ hostname: "0.0.0.0", port: 8080, socket: { data() {} } });
    expect(listen).toThrow();
    (await network.publish("a", []))._unsafeUnwrap();
    listen().stop(true);
  });

  test("are checked", async () => {
    await start();
    await add("a");
    const bad = async (ports: Parameters<NetworkService["publish"]>[1]) => (await network.publish("a", ports))._unsafeUnwrapErr().code;
    expect(await bad([{ guestPort: 0, hostPort: 80, protocol: "tcp" }])).toBe("request.bad");
    expect(await bad([{ guestPort: 80, hostPort: 70000, protocol: "tcp" }])).toBe("request.bad");
    expect(await bad([{ guestPort: 80, hostPort: 81, protocol: "tcp" }, { guestPort: 82, hostPort: 81, protocol: "tcp" }])).toBe("request.bad");
  });
});

/** A connection whose other end echoes. */
async function conversation(host: string, port: number): Promise<{ say(text: string): Promise<string>; end(): void }> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const socket = connect({ host, port }, () => resolve(socket)).once("error", reject);
  await promise;
  return {
    say: (text) => new Promise((answer) => { socket.once("data", (data) => answer(data.toString())); socket.write(text); }),
    end: () => void socket.destroy(),
  };
}

describe("a restart of the daemon", () => {
  test("finds everything again, doubles nothing, and cuts no connection", async () => {
    await start();
    const a = await add("a");
    await a.peer.tell({ do: "echo", port: 80 });
    (await network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    const talk = await conversation("127.0.0.1", 8080);
    expect(await talk.say("before")).toBe("before");
    const before = picture();
    network.close();
    await start();
    (await network.reconcile(new Set(["a"])))._unsafeUnwrap();
    (await network.start())._unsafeUnwrap();
    expect(picture()).toBe(before);
    expect(await talk.say("after")).toBe("after");
    talk.end();
    expect(network.lease("a")).toEqual(a.lease);
  });

  test("repairs what others broke", async () => {
    await start();
    const a = await add("a");
    await a.peer.serve("tcp", 80, "a");
    (await network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    const before = picture();
    run("nft", "delete", "table", "ip", "dormouse");
    run("ip", "route", "del", a.lease.ip);
    run("ip", "neigh", "flush", "nud", "permanent");
    run("sysctl", "-w", `net.ipv4.conf.${a.lease.tap}.rp_filter=0`);
    (await network.start())._unsafeUnwrap();
    (await network.reconcile(new Set(["a"])))._unsafeUnwrap();
    expect(picture()).toBe(before);
    run("nft", "flush", "ruleset", "ip");
    (await network.publish("a", [{ guestPort: 80, hostPort: 8082, protocol: "tcp" }]))._unsafeUnwrap();
    expect(curl("127.0.0.1", 8082)).toBe(`a sees ${a.lease.gateway}`);
  });

  test("takes up a thousand guests and their ports at once", async () => {
    await start();
    for (let i = 0; i < 1200; i++) network.allocate(`i${i}`)._unsafeUnwrap();
    (await network.start())._unsafeUnwrap();
    const nft = new NftSocket();
    // All are in the set by now, but the kernel goes on to enlarge its hash table, and a dump that comes in parts misses some meanwhile.
    const keys = await until("a dump of all guests", () => {
      const dumped = new Set(nft.elements("dormouse", "guests").map((key) => Buffer.from(key).toString("latin1")));
      return dumped.size === 1200 ? dumped : null;
    });
    nft.close();
    expect([...keys].some((key) => key.startsWith("dormouse-4b1\0") && key.endsWith("\x0a\x58\x04\xb1"))).toBe(true);
  });

  test("drops the links and leases of instances that are no more", async () => {
    await start();
    const [a, b] = [await add("a"), await add("b")];
    (await network.publish("b", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    run("ip", "tuntap", "add", "dormouse-ffff", "mode", "tap");
    (await network.reconcile(new Set(["a"])))._unsafeUnwrap();
    expect(network.lease("b")).toBeNull();
    const links = run("ip", "-br", "link");
    expect(links).toContain(a.lease.tap);
    expect(links).not.toContain(b.lease.tap);
    expect(links).not.toContain("dormouse-ffff");
    expect(run("nft", "list", "table", "ip", "dormouse")).not.toContain(b.lease.ip);
  });
});

/** How many connections the kernel knows to or from an address. */
function connectionsOf(ip: string): number {
  const socket = new ConntrackSocket();
  const found = socket.connections().filter((c) => [c.original.source, c.original.destination, c.reply.source, c.reply.destination].includes(parseAddress(ip) ?? -1));
  socket.close();
  return found.length;
}

describe("teardown", () => {
  test("leaves the host as it was", async () => {
    const before = picture();
    await start();
    const a = await add("a");
    (await network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    expect(picture()).not.toBe(before);
    expect(run("nft", "list", "ruleset")).toContain("table inet theirs");
    (await network.teardown())._unsafeUnwrap();
    expect(picture()).toBe(before);
    (await network.teardown())._unsafeUnwrap();
    expect(picture()).toBe(before);
    expect(network.lease("a")).toEqual(a.lease);
  });

  test("leaves forwarding on where it was on", async () => {
    run("sysctl", "-w", "net.ipv4.ip_forward=1");
    try {
      const before = picture();
      await start();
      (await network.teardown())._unsafeUnwrap();
      expect(picture()).toBe(before);
    } finally {
      run("sysctl", "-w", "net.ipv4.ip_forward=0");
    }
  });

  test("forgets a released guest's connections and rules", async () => {
    await start();
    const before = picture();
    const a = await add("a");
    await a.peer.serve("udp", 80, "a");
    (await network.publish("a", [{ guestPort: 80, hostPort: 8081, protocol: "udp" }]))._unsafeUnwrap();
    expect(await out.ask("udp", HOST_ADDRESS, 8081)).toBe(`a sees ${OUTSIDE_ADDRESS}`);
    expect(connectionsOf(a.lease.ip)).toBeGreaterThan(0);
    (await network.release("a"))._unsafeUnwrap();
    (await network.release("a"))._unsafeUnwrap();
    expect(connectionsOf(a.lease.ip)).toBe(0);
    expect(picture()).toBe(before);
  });
});

describe("start() refuses", () => {
  const refusal = async (range: string): Promise<string> => {
    const before = picture();
    network = openNetwork({ db, range })._unsafeUnwrap();
    const error = (await network.start())._unsafeUnwrapErr();
    expect(error.code).toBe("host.network");
    expect(picture()).toBe(before);
    return error.message;
  };

  test("a range with one of the host's addresses", async () => {
    expect(await refusal("192.0.0.0/16")).toContain(`${HOST_ADDRESS}/24 on out0`);
  });

  test("a range that the host has a route to", async () => {
    run("ip", "route", "add", "10.90.1.0/24", "via", OUTSIDE_ADDRESS);
    expect(await refusal("10.90.0.0/16")).toContain("10.90.1.0/24 by out0");
    run("ip", "route", "del", "10.90.1.0/24");
  });

  test("another range while instances have addresses of the old one", async () => {
    await start();
    network.allocate("a")._unsafeUnwrap();
    network.close();
    network = openNetwork({ db, range: "10.91.0.0/16" })._unsafeUnwrap();
    expect((await network.start())._unsafeUnwrapErr().message).toContain("instance a");
  });

  test("nothing when the range changes and no instance is left", async () => {
    const before = picture();
    await start();
    network.close();
    await start({ range: "10.91.0.0/16" });
    expect(run("ip", "addr")).not.toContain("10.88.0.1");
    (await network.teardown())._unsafeUnwrap();
    expect(picture()).toBe(before);
  });

  test("a host whose loopback is down, and leaves nothing behind", async () => {
    run("ip", "link", "set", "lo", "down");
    try {
      expect(await refusal("10.88.0.0/16")).toContain("ip link set lo up");
    } finally {
      run("ip", "link", "set", "lo", "up");
    }
  });

  test("a second daemon, with a record of its own, until the first has ended", async () => {
    await start();
    await add("a");
    const second = openNetwork({ db: database() })._unsafeUnwrap();
    const before = picture();
    expect((await second.start())._unsafeUnwrapErr().message).toContain("another `dormouse serve`");
    expect((await second.teardown())._unsafeUnwrapErr().message).toContain("another `dormouse serve`");
    expect(picture()).toBe(before);
    second.close();
  });

  test("no collision while guests run, but says so", async () => {
    await start();
    await add("a");
    network.close();
    run("ip", "route", "add", "10.88.7.0/24", "via", OUTSIDE_ADDRESS);
    const lines: string[] = [];
    await start({ log: (line) => lines.push(line) });
    run("ip", "route", "del", "10.88.7.0/24");
    expect(lines.join()).toContain("10.88.7.0/24 by out0");
  });

  test("a TAP that another process has open is refused by openTap()", async () => {
    await start();
    const { lease } = await add("a");
    expect((await network.openTap(lease))._unsafeUnwrapErr().message).toContain("another process has it open");
  });
});
