// The network's begin and end: restarts of the daemon, what it finds and refuses, and that it leaves the host as it was.
import { describe, expect, test } from "bun:test";
import { connect, type Socket } from "node:net";
import { ConntrackSocket } from "../../../src/ffi/netlink/conntrack.ts";
import { NftSocket } from "../../../src/ffi/netlink/nftables.ts";
import { parseAddress } from "../../../src/host/network/address.ts";
import { openNetwork } from "../../../src/host/network/network.ts";
import { until } from "../../support/until.ts";
import { curl, useLab } from "./lab.ts";
import { database, HOST_ADDRESS, OUTSIDE_ADDRESS, picture, run } from "./world.ts";

const lab = useLab();

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
    await lab.start();
    const a = await lab.add("a");
    await a.peer.tell({ do: "echo", port: 80 });
    (await lab.network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    const talk = await conversation("127.0.0.1", 8080);
    expect(await talk.say("before")).toBe("before");
    const before = picture();
    lab.network.close();
    await lab.start();
    (await lab.network.reconcile(new Set(["a"])))._unsafeUnwrap();
    (await lab.network.start())._unsafeUnwrap();
    expect(picture()).toBe(before);
    expect(await talk.say("after")).toBe("after");
    talk.end();
    expect(lab.network.lease("a")).toEqual(a.lease);
  });

  test("repairs what others broke", async () => {
    await lab.start();
    const a = await lab.add("a");
    await a.peer.serve("tcp", 80, "a");
    (await lab.network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    const before = picture();
    run("nft", "delete", "table", "ip", "dormouse");
    run("ip", "route", "del", a.lease.ip);
    run("ip", "neigh", "flush", "nud", "permanent");
    run("sysctl", "-w", `net.ipv4.conf.${a.lease.tap}.rp_filter=0`);
    (await lab.network.start())._unsafeUnwrap();
    (await lab.network.reconcile(new Set(["a"])))._unsafeUnwrap();
    expect(picture()).toBe(before);
    run("nft", "flush", "ruleset", "ip");
    (await lab.network.publish("a", [{ guestPort: 80, hostPort: 8082, protocol: "tcp" }]))._unsafeUnwrap();
    expect(curl("127.0.0.1", 8082)).toBe(`a sees ${a.lease.gateway}`);
  });

  test("takes up a thousand guests and their ports at once", async () => {
    await lab.start();
    for (let i = 0; i < 1200; i++) lab.network.allocate(`i${i}`)._unsafeUnwrap();
    (await lab.network.start())._unsafeUnwrap();
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
    await lab.start();
    const [a, b] = [await lab.add("a"), await lab.add("b")];
    (await lab.network.publish("b", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    run("ip", "tuntap", "add", "dormouse-ffff", "mode", "tap");
    (await lab.network.reconcile(new Set(["a"])))._unsafeUnwrap();
    expect(lab.network.lease("b")).toBeNull();
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
    await lab.start();
    const a = await lab.add("a");
    (await lab.network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    expect(picture()).not.toBe(before);
    expect(run("nft", "list", "ruleset")).toContain("table inet theirs");
    (await lab.network.teardown())._unsafeUnwrap();
    expect(picture()).toBe(before);
    (await lab.network.teardown())._unsafeUnwrap();
    expect(picture()).toBe(before);
    expect(lab.network.lease("a")).toEqual(a.lease);
  });

  test("leaves forwarding on where it was on", async () => {
    run("sysctl", "-w", "net.ipv4.ip_forward=1");
    try {
      const before = picture();
      await lab.start();
      (await lab.network.teardown())._unsafeUnwrap();
      expect(picture()).toBe(before);
    } finally {
      run("sysctl", "-w", "net.ipv4.ip_forward=0");
    }
  });

  test("forgets a released guest's connections and rules", async () => {
    await lab.start();
    const before = picture();
    const a = await lab.add("a");
    await a.peer.serve("udp", 80, "a");
    (await lab.network.publish("a", [{ guestPort: 80, hostPort: 8081, protocol: "udp" }]))._unsafeUnwrap();
    expect(await lab.out.ask("udp", HOST_ADDRESS, 8081)).toBe(`a sees ${OUTSIDE_ADDRESS}`);
    expect(connectionsOf(a.lease.ip)).toBeGreaterThan(0);
    (await lab.network.release("a"))._unsafeUnwrap();
    (await lab.network.release("a"))._unsafeUnwrap();
    expect(connectionsOf(a.lease.ip)).toBe(0);
    expect(picture()).toBe(before);
  });
});

describe("start() refuses", () => {
  const refusal = async (range: string): Promise<string> => {
    const before = picture();
    lab.network = openNetwork({ db: lab.db, range })._unsafeUnwrap();
    const error = (await lab.network.start())._unsafeUnwrapErr();
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
    await lab.start();
    lab.network.allocate("a")._unsafeUnwrap();
    lab.network.close();
    lab.network = openNetwork({ db: lab.db, range: "10.91.0.0/16" })._unsafeUnwrap();
    expect((await lab.network.start())._unsafeUnwrapErr().message).toContain("instance a");
  });

  test("nothing when the range changes and no instance is left", async () => {
    const before = picture();
    await lab.start();
    lab.network.close();
    await lab.start({ range: "10.91.0.0/16" });
    expect(run("ip", "addr")).not.toContain("10.88.0.1");
    (await lab.network.teardown())._unsafeUnwrap();
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
    await lab.start();
    await lab.add("a");
    const second = openNetwork({ db: database() })._unsafeUnwrap();
    const before = picture();
    expect((await second.start())._unsafeUnwrapErr().message).toContain("another `dormouse serve`");
    expect((await second.teardown())._unsafeUnwrapErr().message).toContain("another `dormouse serve`");
    expect(picture()).toBe(before);
    second.close();
  });

  test("no collision while guests run, but says so", async () => {
    await lab.start();
    await lab.add("a");
    lab.network.close();
    run("ip", "route", "add", "10.88.7.0/24", "via", OUTSIDE_ADDRESS);
    const lines: string[] = [];
    await lab.start({ log: (line) => lines.push(line) });
    run("ip", "route", "del", "10.88.7.0/24");
    expect(lines.join()).toContain("10.88.7.0/24 by out0");
  });

  test("a TAP that another process has open is refused by openTap()", async () => {
    await lab.start();
    const { lease } = await lab.add("a");
    expect((await lab.network.openTap(lease))._unsafeUnwrapErr().message).toContain("another process has it open");
  });
});
