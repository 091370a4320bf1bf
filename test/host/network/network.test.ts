// The network as guests, the host and the outside meet it: real stacks in namespaces, real TAPs, real rules.
import { describe, expect, test } from "bun:test";
import type { NetworkService } from "../../../src/host/network/service.ts";
import { curl, useLab } from "./lab.ts";
import { counted, HOST_ADDRESS, outside, OUTSIDE_ADDRESS, picture, run } from "./world.ts";

const lab = useLab();

describe("a guest", () => {
  test("reaches the outside with the host's address", async () => {
    await lab.start();
    const { peer } = await lab.add("a");
    expect(await peer.ask("tcp", OUTSIDE_ADDRESS, 80)).toBe(`outside sees ${HOST_ADDRESS}`);
    expect(await peer.ask("udp", OUTSIDE_ADDRESS, 53)).toBe(`outside sees ${HOST_ADDRESS}`);
  });

  test("is reached by the host, and sees it as the gateway", async () => {
    await lab.start();
    const { peer, lease } = await lab.add("a");
    await peer.serve("tcp", 80, "a");
    expect(curl(lease.ip)).toBe(`a sees ${lease.gateway}`);
  });

  test("reaches services on the gateway address, but not the host's other addresses", async () => {
    await lab.start();
    const { peer, lease } = await lab.add("a");
    const server = Bun.listen({ hostname: "0.0.0.0", port: 0, socket: { data(socket) { socket.end("the host"); } } });
    expect(await peer.ask("tcp", lease.gateway, server.port)).toBe("the host");
    await expect(peer.ask("tcp", HOST_ADDRESS, server.port)).rejects.toThrow();
    expect(counted("the host's other addresses")).toBeGreaterThan(0);
    server.stop(true);
  });

  test("cannot use another source address", async () => {
    await lab.start();
    const { peer } = await lab.add("a");
    run("nsenter", "-t", String(peer.pid), "-n", "ip", "addr", "add", "10.88.0.99/32", "dev", "eth0");
    await peer.tell({ do: "tell", host: OUTSIDE_ADDRESS, port: 53, source: "10.88.0.99", text: "forged" });
    await peer.tell({ do: "tell", host: OUTSIDE_ADDRESS, port: 53, text: "honest" });
    for (let heard: string[] = []; !heard.includes("honest");) heard = await lab.out.heard();
    expect(await lab.out.heard()).not.toContain("forged");
    expect(counted("a guest may use its own address only")).toBe(1);
  });

  test("cannot reach another guest, and learns it at once", async () => {
    await lab.start();
    const [a, b] = [await lab.add("a"), await lab.add("b")];
    await b.peer.serve("tcp", 80, "b");
    await expect(a.peer.ask("tcp", b.lease.ip, 80)).rejects.toThrow("Failed to connect"); // and not "no answer"
    expect(curl(b.lease.ip)).toBe(`b sees ${b.lease.gateway}`);
    expect(counted("from guest to guest")).toBeGreaterThan(0); // a SYN that is answered after a second has gone twice
  });

  test("reaches another guest where that is allowed", async () => {
    await lab.start({ guestToGuest: true });
    const [a, b] = [await lab.add("a"), await lab.add("b")];
    await b.peer.serve("tcp", 80, "b");
    expect(await a.peer.ask("tcp", b.lease.ip, 80)).toBe(`b sees ${a.lease.ip}`);
  });

  test("is not reached by the outside but through published ports", async () => {
    await lab.start();
    const { peer, lease } = await lab.add("a");
    await peer.serve("udp", 99, "a");
    run("nsenter", "-t", String(lab.out.pid), "-n", "ip", "route", "replace", "10.88.0.0/16", "via", HOST_ADDRESS);
    await lab.out.tell({ do: "tell", host: lease.ip, port: 99, text: "uninvited" });
    while (counted("from the outside, to no published port") === 0) await Bun.sleep(5);
    expect(await peer.heard()).toEqual([]);
  });
});

describe("published ports", () => {
  test("reach the guest from everywhere", async () => {
    await lab.start();
    const [a, b] = [await lab.add("a"), await lab.add("b")];
    await a.peer.serve("tcp", 80, "a");
    await a.peer.serve("udp", 80, "a");
    const ports = [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }, { guestPort: 80, hostPort: 8081, protocol: "udp" }] as const;
    (await lab.network.publish("a", ports))._unsafeUnwrap();
    expect(await lab.out.ask("tcp", HOST_ADDRESS, 8080)).toBe(`a sees ${OUTSIDE_ADDRESS}`);
    expect(await lab.out.ask("udp", HOST_ADDRESS, 8081)).toBe(`a sees ${OUTSIDE_ADDRESS}`);
    expect(curl("127.0.0.1", 8080)).toBe(`a sees ${a.lease.gateway}`);
    expect(curl(HOST_ADDRESS, 8080)).toBe(`a sees ${HOST_ADDRESS}`);
    expect(await b.peer.ask("tcp", a.lease.gateway, 8080)).toBe(`a sees ${b.lease.ip}`);
    expect(await b.peer.ask("udp", HOST_ADDRESS, 8081)).toBe(`a sees ${b.lease.ip}`);
    expect(await a.peer.ask("tcp", a.lease.gateway, 8080)).toBe(`a sees ${a.lease.gateway}`);
  });

  test("are refused where another instance or program has one, and nothing changes", async () => {
    await lab.start();
    const a = await lab.add("a");
    await lab.add("b");
    await a.peer.serve("tcp", 80, "a");
    (await lab.network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    const taken = await lab.network.publish("b", [{ guestPort: 80, hostPort: 8079, protocol: "tcp" }, { guestPort: 80, hostPort: 8080, protocol: "tcp" }]);
    expect(taken._unsafeUnwrapErr().code).toBe("port.taken");
    expect(taken._unsafeUnwrapErr().message).toContain("instance a");
    const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const before = picture();
    const used = await lab.network.publish("b", [{ guestPort: 80, hostPort: 8079, protocol: "tcp" }, { guestPort: 80, hostPort: server.port, protocol: "tcp" }]);
    expect(used._unsafeUnwrapErr().code).toBe("port.taken");
    server.stop(true);
    expect(picture()).toBe(before);
    expect(curl("127.0.0.1", 8080)).toBe(`a sees ${a.lease.gateway}`);
    (await lab.network.publish("b", [{ guestPort: 80, hostPort: 8079, protocol: "tcp" }]))._unsafeUnwrap();
  });

  test("are kept from other programs until unpublished", async () => {
    await lab.start();
    await lab.add("a");
    (await lab.network.publish("a", [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }]))._unsafeUnwrap();
    const listen = () => Bun.listen({ hostname: "0.0.0.0", port: 8080, socket: { data() {} } });
    expect(listen).toThrow();
    (await lab.network.publish("a", []))._unsafeUnwrap();
    listen().stop(true);
  });

  test("that another program took while no daemon ran lead to the guest all the same, can be published as they are, and are kept once they are free", async () => {
    await lab.start();
    const { peer, lease } = await lab.add("a"), ports = [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }] as const, said: string[] = [];
    await peer.serve("tcp", 80, "a");
    (await lab.network.publish("a", ports))._unsafeUnwrap();
    lab.network.close();
    const listen = () => Bun.listen({ hostname: "0.0.0.0", port: 8080, socket: { data() {} } }), other = listen();
    await lab.start({ log: (line) => void said.push(line) });
    (await lab.network.publish("a", ports))._unsafeUnwrap(); // as at each wake
    expect(said.filter((line) => line.includes("it still leads to instance a")).length).toBe(2);
    expect(curl("127.0.0.1", 8080)).toBe(`a sees ${lease.gateway}`);
    other.stop(true);
    (await lab.network.publish("a", ports))._unsafeUnwrap();
    expect(listen).toThrow();
  });

  test("are checked", async () => {
    await lab.start();
    await lab.add("a");
    const bad = async (ports: Parameters<NetworkService["publish"]>[1]) => (await lab.network.publish("a", ports))._unsafeUnwrapErr().code;
    expect(await bad([{ guestPort: 0, hostPort: 80, protocol: "tcp" }])).toBe("request.bad");
    expect(await bad([{ guestPort: 80, hostPort: 70000, protocol: "tcp" }])).toBe("request.bad");
    expect(await bad([{ guestPort: 80, hostPort: 81, protocol: "tcp" }, { guestPort: 82, hostPort: 81, protocol: "tcp" }])).toBe("request.bad");
  });
});
