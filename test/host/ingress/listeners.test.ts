// Ports: opened with the first rule, closed after the last, found again by the next daemon.
import { afterEach, beforeEach, expect, test } from "bun:test";
import { answering, OK, Raw, RawServer } from "./raw.ts";
import { create, freePort, rule, until, World } from "./world.ts";

let world: World;
let target: RawServer;
beforeEach(() => {
  world = new World();
  target = answering(OK);
  world.add("web");
});
afterEach(async () => {
  await world.close();
  target.stop();
});

const get = async (port: number, host = "a.test") => (await Raw.connect(port)).send(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
const refused = (port: number) => Raw.connect(port).then(() => false, () => true);

test("a port listens from the first rule to the last", async () => {
  const port = freePort();
  expect(await refused(port)).toBe(true);
  create(world.ingress, { name: "one", rules: [rule("a.test", "web", target.port, { port })] });
  create(world.ingress, { name: "two", rules: [rule("b.test", "web", target.port, { port })] });
  expect((await (await get(port)).until("ok")).got).toBe(OK);
  world.ingress.remove("one")._unsafeUnwrap();
  expect((await (await get(port)).until("}\n")).got).toStartWith("HTTP/1.1 404 ");
  expect((await (await get(port, "b.test")).until("ok")).got).toBe(OK);
  world.ingress.remove("two")._unsafeUnwrap();
  expect(await refused(port)).toBe(true);
});

test("a request under way outlives its rule; idle connections don't", async () => {
  const quiet = new RawServer();
  const port = world.route("q.test", "web", quiet.port);
  const idle = await Raw.connect(port);
  const client = await get(port, "q.test");
  const server = await (await quiet.at(0)).until("\r\n\r\n");
  for (const { name } of world.ingress.list()) world.ingress.remove(name)._unsafeUnwrap();
  expect(await idle.over()).toBe("end");
  server.send(OK);
  expect((await client.until("ok")).got).toBe(OK);
  expect(await client.over()).toBe("end");
  quiet.stop();
});

test("the next daemon listens for what is on record", async () => {
  const port = world.route("a.test", "web", target.port);
  await world.ingress.close();
  expect(await refused(port)).toBe(true);
  world.ingress = world.open();
  expect((await (await get(port)).until("ok")).got).toBe(OK);
  expect(world.ingress.list()).toMatchObject([{ rules: [{ hostname: "a.test", port, instance: "web", targetPort: target.port, auth: null }] }]);
});

test("a port that another program has at start is said, does not stop the others, and can be had later", async () => {
  const [taken, free] = [world.route("a.test", "web", target.port), world.route("b.test", "web", target.port)];
  await world.ingress.close();
  const squatter = Bun.listen({ hostname: "127.0.0.1", port: taken, socket: { data() {} } });
  world.ingress = world.open();
  expect(world.logged.filter((line) => line.includes("ingress.port_failed"))).toEqual([expect.stringContaining(String(taken))]);
  expect((await (await get(free, "b.test")).until("ok")).got).toBe(OK);
  expect(world.ingress.create({ name: "more", tags: {}, rules: [rule("c.test", "web", 1, { port: taken })] })._unsafeUnwrapErr().code).toBe("port.taken");
  squatter.stop(true);
  // Whoever needs it now does not wait for the next try.
  create(world.ingress, { name: "more", rules: [rule("c.test", "web", target.port, { port: taken })] });
  expect((await (await get(taken)).until("ok")).got).toBe(OK);
});

test("a port that is in the way of a create is refused, and nothing is left", async () => {
  const squatter = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const free = freePort();
  const made = world.ingress.create({ name: "x", tags: {}, rules: [rule("a.test", "web", 1, { port: free }), rule("a.test", "web", 1, { port: squatter.port })] });
  expect(made._unsafeUnwrapErr()).toMatchObject({ code: "port.taken", details: { port: squatter.port } });
  expect(await refused(free)).toBe(true);
  expect(world.ingress.list()).toEqual([]);
  squatter.stop(true);
});

test("another address than all of them", async () => {
  await world.close();
  world = new World({}, "127.0.0.2");
  world.add("web");
  const port = world.route("a.test", "web", target.port);
  expect(await refused(port)).toBe(true);
  const answer = await fetch(`http://127.0.0.2:${port}/`, { headers: { host: "a.test" } });
  expect(await answer.text()).toBe("ok");
});

test("one ingress with the name of another is refused", () => {
  const port = world.route("a.test", "web", target.port);
  const { name } = world.ingress.list()[0]!;
  expect(world.ingress.create({ name, tags: {}, rules: [rule("b.test", "web", 1, { port })] })._unsafeUnwrapErr().code).toBe("ingress.already_exists");
});

test("a request that comes in pieces is understood as one", async () => {
  const port = world.route("a.test", "web", target.port);
  const client = await Raw.connect(port);
  for (const letter of "\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n") {
    client.send(letter);
    await until(() => client.unsent === 0);
  }
  expect((await client.until("ok")).got).toBe(OK);
});
test("the end of the domain lets an answer under way finish, and takes nothing more", async () => {
  await world.close();
  world = new World({ drainMs: 60_000 });
  world.add("web");
  const quiet = new RawServer();
  const port = world.route("q.test", "web", quiet.port);
  const [client, held] = [await get(port, "q.test"), await get(port, "q.test")];
  const servers = [await quiet.at(0), await quiet.at(1)];
  const idle = await Raw.connect(port);
  await Promise.all(servers.map((one) => one.until("\r\n\r\n")));
  const closed = world.ingress.close();
  expect(await idle.over()).toBe("end");
  expect(await refused(port)).toBe(true);
  for (const server of servers) server.send(OK);
  for (const one of [client, held]) {
    expect((await one.until("ok")).got).toBe(OK);
    expect(await one.over()).toBe("end");
    one.fin();
  }
  await closed;
  quiet.stop();
});
