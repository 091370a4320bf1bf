// What comes out of a guest that does not keep to the protocol, where the command line writes it.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LocalSink } from "../../src/cli/copy-from.ts";
import { TarSink } from "../../src/cli/tar.ts";
import type { CpHeader } from "../../src/routes/cp-protocol.ts";

let here: string;
beforeEach(() => void (here = mkdtempSync(join(tmpdir(), "here-"))));
afterEach(() => rmSync(here, { recursive: true }));

describe("a guest that lies", () => {
  const none = () => {};
  const folderOf = (path: string): CpHeader => ({ type: "header", path, is_dir: true, mode: 0o755 });
  const fileOf = (path: string): CpHeader => ({ type: "header", path, mode: 0o644 });
  const linkOf = (path: string, target: string): CpHeader => ({ type: "header", path, is_symlink: true, link_target: target, mode: 0o777 });

  test.each([
    ["a path that climbs", [folderOf(""), fileOf("../x")]],
    ["an absolute path", [folderOf(""), fileOf("/x")]],
    ["a path that climbs further in", [folderOf(""), folderOf("a"), fileOf("a/../../x")]],
    ["a dot", [folderOf(""), fileOf(".")]],
    ["no name", [folderOf(""), fileOf("")]],
    ["a NUL", [folderOf(""), fileOf("a\0b")]],
    ["a file through a symlink", [folderOf(""), linkOf("a", ".."), fileOf("a/x")]],
    ["a folder that became a symlink", [folderOf(""), folderOf("a"), linkOf("b", ".."), fileOf("b/x")]],
    ["a symlink over a folder", [folderOf(""), folderOf("a"), linkOf("a", "..")]],
    ["a folder over a symlink", [folderOf(""), linkOf("a", ".."), folderOf("a")]],
    ["a file below a file", [fileOf(""), fileOf("x")]],
    ["a path before the source", [fileOf("x")]],
    ["a folder that was left", [folderOf(""), folderOf("a"), folderOf("b"), fileOf("a/x")]],
    ["a symlink to nothing", [folderOf(""), linkOf("a", "")]],
  ])("with %s writes nothing outside", (_, headers) => {
    const destination = join(here, "inner/to");
    mkdirSync(join(here, "inner"));
    const sink = new LocalSink({ path: destination, name: "to" }, none);
    expect(() => {
      for (const header of headers) sink.header(header);
    }).toThrow(/^Cannot/);
    sink.abort();
    expect([readdirSync(here), existsSync(join(here, "x")), existsSync(join(here, "inner/x"))]).toEqual([["inner"], false, false]);
  });
  test("with frames out of turn is refused, and a set-id bit is left out", () => {
    const sink = () => new LocalSink({ path: join(here, "f"), name: "f" }, none);
    expect(() => sink().data(new Uint8Array(1))).toThrow("belong to no file");
    expect(() => sink().fileEnd()).toThrow("without one");
    expect(() => sink().finish()).toThrow("too early");
    const one = sink();
    one.header({ ...fileOf(""), mode: 0o6755 });
    expect(() => one.finish()).toThrow("too early");
    one.fileEnd();
    one.finish();
    expect(statSync(join(here, "f")).mode & 0o7777).toBe(0o755);
  });
  test("an end in the middle leaves what was there", () => {
    writeFileSync(join(here, "f"), "old");
    const sink = new LocalSink({ path: join(here, "f"), name: "f" }, none);
    sink.header(fileOf(""));
    sink.data(new Uint8Array(1000));
    sink.abort();
    expect([readdirSync(here), readFileSync(join(here, "f"), "utf8")]).toEqual([["f"], "old"]);
  });
  test("a tar stream takes no more than was announced, and nothing that climbs", () => {
    const written: Uint8Array[] = [];
    const sink = new TarSink("d", none, (bytes) => void written.push(bytes.slice()));
    expect(() => sink.header(fileOf("../x"))).toThrow("climbs");
    sink.header({ ...fileOf("f"), size: 3 });
    expect(() => sink.data(new Uint8Array(4))).toThrow("longer");
    sink.data(new Uint8Array(1));
    sink.fileEnd();
    sink.finish();
    expect(written.reduce((sum, { length }) => sum + length, 0)).toBe(512 + 512 + 1024);
  });
});
