// Registries that are broken, slow, or lie: what comes of it must be right or a clear error, and nothing may be left behind.
import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { connect } from "node:net";
import { Images, random, tinyImage } from "./harness.ts";
import { sha256 } from "./mounted.ts";
import { file } from "./tar-builder.ts";
import { Unruly, type Rule } from "./unruly.ts";

const image = tinyImage([[file("noise", random(300_000))], [file("more", random(50_000))]]);
const [layer, bytes] = image.layers[0]!;

/** How a pull from a registry with this rule ends; a failed one must leave no file. `limits`: patience, for registries that stay silent. */
async function outcome(rule: Rule, prepare: (registry: Unruly) => void = () => {}, limits: { stallMs?: number } = {}): Promise<{ status: string; error: string; asked: string[]; files: string[] }> {
  await using registry = new Unruly(image, rule);
  prepare(registry);
  await using images = new Images({ limits: { attempts: 3, ...limits } });
  const record = await images.pulled(registry.repository);
  if (record.status === "failed") expect(images.files()).toEqual([]);
  else expect(images.service.ready(registry.repository).isOk()).toBe(true);
  return { status: record.status, error: record.error ?? "", asked: registry.asked, files: images.files() };
}

/** Answers the layer's blob by `answer`, everything else by the rules. */
const forLayer = (answer: (range: string | null, count: number) => Response | null | Promise<Response | null>): Rule => ({ path, range }, count) => (path.endsWith(layer) ? answer(range, count) : null);

describe("lies", () => {
  test("a blob with the wrong digest is refused", async () => {
    const wrong = Buffer.from(bytes);
    wrong[1000]! ^= 1;
    const { status, error } = await outcome(forLayer(() => new Response(wrong)));
    expect(status).toBe("failed");
    expect(error).toContain(`${layer}: what came has the digest ${sha256(wrong)}`);
  });

  test("a blob that is longer than the manifest says is refused", async () => {
    expect((await outcome(forLayer(() => new Response(Buffer.concat([bytes, Buffer.from("more")]))))).error).toContain("sends more than");
  });

  test("a blob that always ends early is given up, as unreachable", async () => {
    const { error, asked } = await outcome(forLayer(() => new Response(bytes.subarray(0, 1000))));
    expect(error).toContain("of 3");
    expect(error).toContain("tried 3 times");
    expect(asked.filter((path) => path.endsWith(layer)).length).toBeLessThanOrEqual(4);
  });

  test("a manifest with another digest than was asked for is refused", async () => {
    await using registry = new Unruly(image, ({ path }) => (path.includes("manifests/sha256:") ? new Response(tinyImage().manifest.toString()) : null));
    await using images = new Images();
    expect(await images.pulled(`${registry.repository}@${image.digest}`)).toMatchObject({ status: "failed", error: expect.stringContaining("the registry is broken or lies") });
  });

  test("a manifest whose stated digest is wrong is refused", async () => {
    const { error } = await outcome(({ path }) => (path.includes("manifests/") ? new Response(image.manifest.toString(), { headers: { "docker-content-digest": `sha256:${"0".repeat(64)}` } }) : null));
    expect(error).toContain("the registry is broken or lies");
  });

  test("manifests that are malformed are refused, each with its reason", async () => {
    const cases: [string, string][] = [
      ["not json", "not JSON"],
      ["[]", "not a JSON object"],
      [`{"schemaVersion":1,"fsLayers":[]}`, "schema 1"],
      [`{"schemaVersion":2}`, "neither a manifest nor an index"],
      [`{"schemaVersion":2,"config":{"digest":"sha256:../../etc","size":1},"layers":[]}`, "not a digest"],
      [`{"schemaVersion":2,"config":{"digest":"${image.configDigest}","size":-1},"layers":[]}`, "size"],
      [`{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"${image.configDigest}","size":1},"layers":[]}`, "not a container image"],
      [`{"schemaVersion":2,"config":{"digest":"${image.configDigest}","size":${image.blobs.get(image.configDigest)!.length}},"layers":[]}`, "its configuration names 2"],
    ];
    for (const [manifest, why] of cases) expect((await outcome(({ path }) => (path.includes("manifests/") ? new Response(manifest) : null))).error).toContain(why);
  });

  test("a manifest without end is refused", async () => {
    await using registry = new Unruly(image, ({ path }) => (path.includes("manifests/") ? new Response("x".repeat(20_000)) : null));
    await using images = new Images({ limits: { maxManifestBytes: 10_000 } });
    expect((await images.pulled(registry.repository)).error).toContain("longer than 10000 bytes");
  });

  test("an index without our platform names what it has", async () => {
    const { error } = await outcome(() => null, (registry) => void registry.putIndex("latest", [
      { digest: image.digest, size: image.manifest.length, platform: { os: "linux", architecture: "arm64" } },
      { digest: image.digest, size: image.manifest.length, platform: { os: "windows", architecture: "amd64" } },
    ]));
    expect(error).toContain("it offers linux/arm64, windows/amd64");
  });

  test("an image that is built for another platform is refused", async () => {
    const arm = tinyImage(undefined, { architecture: "arm64" });
    expect((await outcome(() => null, (registry) => registry.add("latest", arm))).error).toContain("built for linux/arm64");
  });

  test("layers that are said to be enormous are refused before they come", async () => {
    const manifest = image.manifest.toString().replaceAll(/("mediaType":"[^"]*layer[^"]*","digest":"[^"]*","size":)\d+/g, "$11000000000000");
    const { error, asked } = await outcome(() => null, (registry) => void registry.put("latest", Buffer.from(manifest), "application/vnd.oci.image.manifest.v1+json"));
    expect(error).toContain("more than");
    expect(asked.some((path) => path.includes("blobs"))).toBe(false);
  });

  test("an image that unpacks to more than is allowed fails, and leaves nothing", async () => {
    await using registry = new Unruly(image);
    await using images = new Images({ limits: { maxBytes: 100_000 } });
    expect(await images.pulled(registry.repository)).toMatchObject({ status: "failed", error: expect.stringMatching(/unpack.* to more than/) });
    expect(images.files()).toEqual([]);
  });
});

describe("redirects", () => {
  test("an endless one is given up", async () => {
    const { error, asked } = await outcome(forLayer(() => new Response(null, { status: 307, headers: { location: `/v2/x/y/blobs/${layer}` } })));
    expect(error).toContain("redirects more than 5 times");
    expect(asked.filter((path) => path.endsWith(layer)).length).toBe(6);
  });

  test("one to no web address is refused", async () => {
    expect((await outcome(forLayer(() => new Response(null, { status: 302, headers: { location: "file:///etc/passwd" } })))).error).toContain("no web address");
  });

  test("one to another server is followed without our credentials", async () => {
    const seen: (string | null)[] = [];
    await using store = new Unruly(image, ({ authorization }) => (seen.push(authorization), null));
    await using registry = new Unruly(image, ({ path, authorization }) => {
      if (authorization === null) return new Response("{}", { status: 401, headers: { "www-authenticate": 'Basic realm="r"' } });
      return path.includes("blobs") ? new Response(null, { status: 307, headers: { location: `${store.url}${path}` } }) : null;
    });
    await using images = new Images();
    expect(await images.pulled(registry.repository, { credentials: { username: "u", password: "p" } })).toMatchObject({ status: "ready", error: null });
    expect(seen.length).toBe(3);
    expect(new Set(seen)).toEqual(new Set([null]));
  });
});

describe("breaks", () => {
  test("a busy registry is asked again", async () => {
    for (const status of [429, 500, 502, 503, 504]) expect((await outcome((_, count) => (count < 2 ? new Response("busy", { status, headers: { "retry-after": "0" } }) : null))).status).toBe("ready");
  });

  test("one that stays busy is given up, with what it said", async () => {
    const { status, error, asked } = await outcome(() => new Response("busy", { status: 503 }));
    expect({ status, asked: asked.length }).toEqual({ status: "failed", asked: 3 });
    expect(error).toContain("answered 503; tried 3 times");
  });

  test("a blob that breaks off is resumed where it stopped", async () => {
    const ranges: (string | null)[] = [];
    const { status } = await outcome(forLayer((range, count) => {
      ranges.push(range);
      const from = Number(range?.slice(6, -1) ?? 0);
      if (count === 5) return null;
      const part = bytes.subarray(from, from + 50_000);
      return count === 0 ? new Response(part) : new Response(part, { status: 206, headers: { "content-range": `bytes ${from}-${bytes.length - 1}/${bytes.length}` } });
    }));
    expect(status).toBe("ready");
    expect(ranges).toEqual([null, "bytes=50000-", "bytes=100000-", "bytes=150000-", "bytes=200000-", "bytes=250000-"]);
  });

  test("a registry that ignores ranges is read from the beginning again", async () => {
    expect((await outcome(forLayer((_, count) => (count === 0 ? new Response(bytes.subarray(0, 5000)) : new Response(bytes))))).status).toBe("ready");
  });

  test("a registry that falls silent in the middle is asked again", async () => {
    const silent = () => new Response(new ReadableStream({ start: (controller) => controller.enqueue(bytes.subarray(0, 5000)) }));
    expect((await outcome(forLayer((_, count) => (count === 0 ? silent() : null)), () => {}, { stallMs: 300 })).status).toBe("ready");
  });

  test("a registry that never answers is given up", async () => {
    expect((await outcome(() => new Promise(() => {}), () => {}, { stallMs: 300 })).error).toContain("said nothing for 0.3 s");
  });

  test("a registry that is not there is named", async () => {
    const registry = new Unruly();
    const name = registry.repository;
    await registry[Symbol.asyncDispose]();
    await using images = new Images({ limits: { attempts: 2 } });
    expect(await images.pulled(name)).toMatchObject({ status: "failed", error: expect.stringContaining(`cannot reach ${name.split("/")[0]}: connection refused`) });
  });

  test("an unknown image and an unknown tag are told apart from a broken registry", async () => {
    await using registry = new Unruly(image);
    await using images = new Images();
    expect(await images.pulled(`${registry.repository}:none`)).toMatchObject({ status: "failed", error: expect.stringContaining("no manifest none") });
  });

  test("a hang-up of the server in the middle of a header is survived", async () => {
    let upstream = 0;
    await using registry = new Unruly(image);
    // A proxy that cuts its first three connections short.
    const proxy = Bun.listen<{ to: ReturnType<typeof connect> | null }>({
      hostname: "127.0.0.1", port: 0, data: { to: null },
      socket: {
        open: (socket) => {
          if (upstream++ < 3) return void socket.end("HTTP/1.1 200 OK\r\nContent-Le");
          const to = connect(Number(registry.host.split(":")[1]), "127.0.0.1", () => {});
          to.on("data", (data) => void socket.write(data)).on("close", () => void socket.end());
          socket.data = { to };
        },
        data: (socket, data) => void socket.data.to?.write(data),
        close: (socket) => void socket.data.to?.destroy(),
      },
    });
    await using images = new Images({ limits: { attempts: 5 } });
    expect(await images.pulled(`127.0.0.1:${proxy.port}/x/y`)).toMatchObject({ status: "ready" });
    proxy.stop(true);
  });
});

describe("authentication", () => {
  /** Wants a token that is given for `secret` (an Authorization header, or a refresh token), and takes back each token once. */
  const tokens = (secret: string | null, realm: () => string): Rule => {
    let issued = 0, expired = false;
    return async ({ path, authorization, request, url }) => {
      if (path === "/token") {
        const given = request.method === "POST" ? new URLSearchParams(await request.text()).get("refresh_token") : authorization;
        if (given !== secret) return new Response("{}", { status: 401 });
        if (request.method === "GET") expect(url.searchParams.get("scope")).toBe("repository:x/y:pull");
        return Response.json(issued++ % 2 === 0 ? { token: `t${issued}` } : { access_token: `t${issued}` });
      }
      if (path.includes("blobs") && !expired) {
        expired = true;
        return new Response("{}", { status: 401, headers: { "www-authenticate": `Bearer realm="${realm()}/token",service="test, it",scope="repository:x/y:pull"` } });
      }
      if (authorization === null || !/^Bearer t\d$/.test(authorization)) return new Response("{}", { status: 401, headers: { "www-authenticate": `Bearer realm="${realm()}/token",service="test, it",scope="repository:x/y:pull"` } });
      return null;
    };
  };
  const basic = `Basic ${Buffer.from("me:secret").toString("base64")}`;

  async function pullWith(secret: string | null, credentials: object | undefined, config?: object): Promise<string> {
    await using registry: Unruly = new Unruly(image);
    registry.rule = tokens(secret, () => registry.url);
    await using images = new Images({ dockerConfigPath: `/tmp/dormouse-config-${process.pid}-${crypto.randomUUID()}.json` });
    if (config !== undefined) {
      await using configured = new Images({ dockerConfigPath: images.temp.join("config.json") });
      writeFileSync(images.temp.join("config.json"), JSON.stringify(config).replaceAll("HOST", registry.host));
      return (await configured.pulled(registry.repository)).error ?? "ready";
    }
    return (await images.pulled(registry.repository, credentials === undefined ? {} : { credentials })).error ?? "ready";
  }

  test("an anonymous token is fetched, and again when it has run out", async () => {
    expect(await pullWith(null, undefined)).toBe("ready");
  });

  test("user name and password of the request", async () => {
    expect(await pullWith(basic, { username: "me", password: "secret" })).toBe("ready");
    expect(await pullWith(basic, { username: "me", password: "wrong" })).toContain("refuses a token (status 401)");
    expect(await pullWith(basic, undefined)).toContain("give credentials with the request or log in");
  });

  test("an identity token", async () => {
    expect(await pullWith("refresh-me", { identityToken: "refresh-me" })).toBe("ready");
  });

  test("a registry token", async () => {
    expect(await pullWith("unused", { registryToken: "t1" })).toBe("ready");
  });

  test("Docker's config.json: auth, identity token, helper", async () => {
    expect(await pullWith(basic, undefined, { auths: { HOST: { auth: Buffer.from("me:secret").toString("base64") } } })).toBe("ready");
    expect(await pullWith(basic, undefined, { auths: { "https://HOST": { username: "me", password: "secret" } } })).toBe("ready");
    expect(await pullWith("refresh", undefined, { auths: { HOST: { identitytoken: "refresh" } } })).toBe("ready");
    expect(await pullWith(null, undefined, { auths: { "other.example": { auth: "eDp5" } }, credsStore: "desktop" })).toBe("ready");
  });

  test("a credential helper is refused at once, by its name", async () => {
    await using images = new Images({ dockerConfigPath: "/dev/null" });
    await using configured = new Images({ dockerConfigPath: images.temp.join("config.json") });
    writeFileSync(images.temp.join("config.json"), JSON.stringify({ credHelpers: { "example.test": "ecr-login" }, credsStore: "desktop", auths: { "stored.test": {} } }));
    const refused = async (name: string) => (await configured.service.pull({ name }))._unsafeUnwrapErr();
    expect(await refused("example.test/a")).toMatchObject({ code: "registry.unauthorized", message: expect.stringContaining("docker-credential-ecr-login") });
    expect(await refused("stored.test/a")).toMatchObject({ code: "registry.unauthorized", message: expect.stringContaining("docker-credential-desktop") });
    expect(configured.service.list()).toEqual([]);
  });

  test("a malformed config.json is told as such", async () => {
    await using images = new Images({ dockerConfigPath: "/dev/null" });
    expect((await images.service.pull({ name: "example.test/a" }))._unsafeUnwrapErr().message).toContain("/dev/null");
  });

  test("secrets are in no record and no error", async () => {
    await using registry = new Unruly(image, () => new Response("secret-of-the-server", { status: 403 }));
    await using images = new Images();
    const record = await images.pulled(registry.repository, { credentials: { username: "me", password: "hunter2" } });
    expect(JSON.stringify(record)).not.toMatch(/hunter2|secret-of-the-server|bWU6/);
    expect(record.status).toBe("failed");
  });
});
