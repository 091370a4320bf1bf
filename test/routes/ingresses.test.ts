import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import Hypeman from "@onkernel/hypeman";
import { freePort } from "../host/ingress/world.ts";
import { type Api, json, startApi } from "./harness.ts";

let api: Api;
beforeEach(() => void (api = startApi()));
afterEach(() => api.stop());

type Create = Hypeman.IngressCreateParams;
const SECRET = "0123456789abcdef0123456789abcdef";
const REPEAT = { headers: { "X-Stainless-Retry-Count": "1" } };
const failure = async (call: Promise<unknown>) => {
  const thrown = await call.then(() => null, (error: unknown) => error);
  if (!(thrown instanceof Hypeman.APIError)) throw new Error("the call did not fail");
  const body = thrown.error as { code: string; message: string; details?: { field?: string } };
  return { status: thrown.status, code: body.code, field: body.details?.field, message: body.message };
};
const instance = () => api.client.instances.create({ name: "web", image: "nginx" });
const literal = (port: number, change: Partial<Create> = {}): Create =>
  ({ name: "site", rules: [{ match: { hostname: "www.example.com", port }, target: { instance: "web", port: 8080 } }], ...change });

describe("ingresses", () => {
  test("create, get by name, id and prefix, list by tags, delete", async () => {
    await instance();
    const port = freePort();
    const made = await api.client.ingresses.create(literal(port, { tags: { team: "web" } }));
    expect(made).toEqual({
      id: made.id, name: "site", created_at: made.created_at, tags: { team: "web" },
      rules: [{ match: { hostname: "www.example.com", port }, target: { instance: "web", port: 8080 }, tls: false, redirect_http: false }],
    });
    expect(new Date(made.created_at).toISOString()).toBe(made.created_at);
    for (const ref of [made.id, "site", made.id.slice(0, 10)]) expect(await api.client.ingresses.get(ref)).toEqual(made);
    const other = await api.client.ingresses.create({ name: "pattern", rules: [{ match: { hostname: "{instance}.example.com", port }, target: { instance: "{instance}", port: 80 } }] });
    expect(await api.client.ingresses.list()).toEqual([made, other]);
    expect(await api.client.ingresses.list({ tags: { team: "web" } })).toEqual([made]);
    expect(await api.client.ingresses.list({ tags: { team: "web", env: "x" } })).toEqual([]);
    await api.client.ingresses.delete("site");
    expect(await failure(api.client.ingresses.get("site"))).toMatchObject({ status: 404, code: "not_found" });
    expect(await failure(api.client.ingresses.delete("site"))).toMatchObject({ status: 404, code: "not_found" });
    await api.client.ingresses.delete("site", REPEAT);
  });

  test("request_header_auth is kept and shown, and its value stands in no error", async () => {
    await instance();
    const body = literal(freePort());
    body.rules[0]!.request_header_auth = { header: "X-Ingress-Key", value: SECRET };
    expect((await api.client.ingresses.create(body)).rules[0]!.request_header_auth).toEqual({ header: "X-Ingress-Key", value: SECRET });
    body.rules[0]!.request_header_auth = { header: "X-Ingress-Key", value: "too-short-hunter2" };
    const refused = await failure(api.client.ingresses.create({ ...body, name: "other" }));
    expect(refused).toMatchObject({ status: 400, code: "bad_request", field: "rules[0].request_header_auth.value" });
    expect(refused.message + api.log.join("")).not.toMatch(new RegExp(`hunter2|${SECRET}`));
  });

  test("a repeat of the same create finds what is there; another body does not", async () => {
    await instance();
    const port = freePort();
    const made = await api.client.ingresses.create(literal(port));
    expect(await api.client.ingresses.create(literal(port), REPEAT)).toEqual(made);
    expect(await failure(api.client.ingresses.create(literal(port)))).toMatchObject({ status: 409, code: "already_exists" });
    expect(await failure(api.client.ingresses.create(literal(port, { tags: { a: "b" } }), REPEAT))).toMatchObject({ status: 409, code: "already_exists" });
  });

  test("a prefix of an instance's id is kept as the id", async () => {
    const { id } = await instance();
    const made = await api.client.ingresses.create({ name: "by-prefix", rules: [{ match: { hostname: "a.example.com", port: freePort() }, target: { instance: id.slice(0, 12), port: 80 } }] });
    expect(made.rules[0]!.target.instance).toBe(id);
  });

  test("a host name is taken once a port, whatever its case and its captures' names", async () => {
    await instance();
    const port = freePort();
    await api.client.ingresses.create(literal(port));
    await api.client.ingresses.create({ name: "pattern", rules: [{ match: { hostname: "{a}.example.com", port }, target: { instance: "{a}", port: 80 } }] });
    const again = (hostname: string, on = port) => api.client.ingresses.create({ name: "again", rules: [{ match: { hostname, port: on }, target: { instance: "web", port: 80 } }] });
    expect(await failure(again("WWW.example.com"))).toMatchObject({ status: 409, code: "hostname_in_use" });
    expect(await failure(again("{b}.example.com"))).toMatchObject({ status: 409, code: "hostname_in_use" });
    expect((await again("www.example.com", freePort())).name).toBe("again");
  });

  test("a port that another program has is 409, and nothing is left of the others", async () => {
    await instance();
    const taken = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const free = freePort();
    const rules = [free, taken.port].map((port) => ({ match: { hostname: "a.example.com", port }, target: { instance: "web", port: 80 } }));
    expect(await failure(api.client.ingresses.create({ name: "two", rules }))).toMatchObject({ status: 409, code: "port_in_use" });
    expect(await api.client.ingresses.list()).toEqual([]);
    Bun.listen({ hostname: "127.0.0.1", port: free, socket: { data() {} } }).stop(true);
    taken.stop(true);
  });

  test.each<[string, object, string, string]>([
    ["no rules", { rules: [] }, "bad_request", "rules"],
    ["a bad name", { name: "-x" }, "invalid_name", "name"],
    ["an unknown field", { colour: "red" }, "bad_request", "colour"],
    ["a literal target that is not there", { target: { instance: "nobody", port: 80 } }, "instance_not_found", "rules[0].target.instance"],
    ["a capture that the host name lacks", { target: { instance: "{app}", port: 80 } }, "bad_request", "rules[0].target.instance"],
    ["a capture with something around it", { target: { instance: "{instance}-x", port: 80 } }, "bad_request", "rules[0].target.instance"],
    ["a target port of 0", { target: { instance: "web", port: 0 } }, "bad_request", "rules[0].target.port"],
    ["a port over 65535", { match: { hostname: "a.example.com", port: 65_536 } }, "bad_request", "rules[0].match.port"],
    ["a wildcard", { match: { hostname: "*.example.com" } }, "bad_request", "rules[0].match.hostname"],
    ["a host name with a port", { match: { hostname: "a.example.com:80" } }, "bad_request", "rules[0].match.hostname"],
    ["a capture that is half a label", { match: { hostname: "x-{instance}.example.com" } }, "bad_request", "rules[0].match.hostname"],
    ["a capture twice", { match: { hostname: "{a}.{a}.example.com" } }, "bad_request", "rules[0].match.hostname"],
    ["an empty label", { match: { hostname: "a..example.com" } }, "bad_request", "rules[0].match.hostname"],
    ["tls", { tls: true }, "not_supported", "rules[0].tls"],
    ["redirect_http", { redirect_http: true }, "not_supported", "rules[0].redirect_http"],
    ...["Host", "Authorization", "cookie", "Proxy-Authorization", "Content-Length", "Connection", "TE", "Transfer-Encoding", "Upgrade", "Sec-WebSocket-Key", "X-Forwarded-For"].map(
      (header): [string, object, string, string] => [`the reserved field ${header}`, { request_header_auth: { header, value: SECRET } }, "bad_request", "rules[0].request_header_auth.header"]),
    ["no name of a field", { request_header_auth: { header: "X Key", value: SECRET } }, "bad_request", "rules[0].request_header_auth.header"],
    ["a value with a line break", { request_header_auth: { header: "X-Key", value: `${SECRET}\n` } }, "bad_request", "rules[0].request_header_auth.value"],
    ["a value too long", { request_header_auth: { header: "X-Key", value: "x".repeat(257) } }, "bad_request", "rules[0].request_header_auth.value"],
  ])("%s is named", async (_, change, code, field) => {
    await instance();
    const top = ["rules", "name", "colour"].some((key) => key in change);
    const rule = { match: { hostname: "{instance}.example.com", port: 1 }, target: { instance: "{instance}", port: 80 }, ...(top ? {} : change) };
    const body = { name: "site", rules: [rule], ...(top ? change : {}) };
    expect(await failure(api.client.ingresses.create(body as Create))).toMatchObject({ status: 400, code, field });
    expect(await api.client.ingresses.list()).toEqual([]);
  });

  test("one host name twice in one ingress is refused", async () => {
    await instance();
    const rules = ["a.example.com", "A.example.com"].map((hostname) => ({ match: { hostname, port: 1 }, target: { instance: "web", port: 80 } }));
    expect(await failure(api.client.ingresses.create({ name: "twice", rules }))).toMatchObject({ status: 400, code: "bad_request", field: "rules[1].match" });
  });

  test("unknown queries are refused", async () => {
    for (const path of ["/ingresses?colour=red", "/ingresses/x?force=1"]) expect((await fetch(api.url + path)).status).toBe(400);
    expect((await fetch(`${api.url}/ingresses?x=1`, json({}))).status).toBe(400);
  });
});
