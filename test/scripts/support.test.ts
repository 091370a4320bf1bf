// The helpers in test/support against the real tools.
import { expect, test } from "bun:test";
import { OciLayout } from "../support/oci.ts";
import { mkdir, writeFile } from "node:fs/promises";
import { TempDir } from "../support/paths.ts";
import { Registry } from "../support/registry.ts";

async function tinyImage(folder: TempDir, compression: "gzip" | "zstd" | "none" = "gzip"): Promise<OciLayout> {
  const layout = await OciLayout.create(folder.join(`layout-${compression}`));
  await mkdir(folder.join("root"), { recursive: true });
  await writeFile(folder.join("root/hello"), "hello\n");
  await layout.finish([await layout.addFolder(folder.join("root"), compression)], { Cmd: ["/hello"] });
  return layout;
}

test("OciLayout gives the same content the same digest", async () => {
  using a = new TempDir("oci"), b = new TempDir("oci");
  expect(await (await tinyImage(a)).manifest()).toEqual(await (await tinyImage(b)).manifest());
});

test("OciLayout.push() puts images of every compression into a real registry", async () => {
  using folder = new TempDir("oci");
  await using registry = await Registry.start();
  for (const compression of ["gzip", "zstd", "none"] as const) {
    const layout = await tinyImage(folder, compression);
    const reference = await layout.push(registry.host, `tiny-${compression}`, "v1");
    expect(reference).toBe(`${registry.host}/tiny-${compression}:v1`);
    const { digest, mediaType } = await layout.manifest();
    const answer = await fetch(`http://${registry.host}/v2/tiny-${compression}/manifests/v1`, { headers: { accept: mediaType } });
    expect(answer.headers.get("docker-content-digest")).toBe(digest);
  }
});

test("Registry.start() with credentials refuses strangers", async () => {
  using folder = new TempDir("oci");
  await using registry = await Registry.start({ credentials: { username: "me", password: "secret" } });
  expect((await fetch(`http://${registry.host}/v2/`)).status).toBe(401);
  const authorization = `Basic ${Buffer.from("me:secret").toString("base64")}`;
  expect(await (await tinyImage(folder)).push(registry.host, "tiny", "latest", { authorization })).toBe(`${registry.host}/tiny:latest`);
});
