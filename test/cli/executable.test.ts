// The compiled executable: what it carries, and that nothing around it changes what it does.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import manifest from "../../package.json" with { type: "json" };
import { WORKERS } from "../../src/workers.ts";
import { repo, TempDir } from "../support/paths.ts";
import { executable, runCli } from "./support.ts";

let program: [string];
const folder = new TempDir("executable");
beforeAll(async () => {
  program = [await executable()];
}, 120_000);
afterAll(() => folder[Symbol.dispose]());

test("it knows its version and the commit it was built from", async () => {
  const { status, out } = await runCli(["--version"], { program });
  expect(status).toBe(0);
  expect(out).toMatch(new RegExp(`^dormouse ${manifest.version.replaceAll(".", "\\.")} \\(([0-9a-f]{12}(-dirty)?|unknown)\\)\n$`));
});

test("it reads nothing of a hostile current directory", async () => {
  const cwd = folder.join("hostile");
  await mkdir(cwd);
  const evil = `require("node:fs").writeFileSync(${JSON.stringify(folder.join("owned"))}, "x"); process.exit(99);`;
  await writeFile(`${cwd}/evil.ts`, evil);
  await writeFile(`${cwd}/bunfig.toml`, 'preload = ["./evil.ts"]\n[run]\npreload = ["./evil.ts"]\n');
  for (const name of [".env", ".env.local", ".env.production"]) await writeFile(`${cwd}/${name}`, "DORMOUSE_HOST=http://127.0.0.1:2\nBUN_OPTIONS=--preload=./evil.ts\n");
  await writeFile(`${cwd}/tsconfig.json`, '{"compilerOptions":{"paths":{"*":["./evil.ts"]}}}');
  await writeFile(`${cwd}/package.json`, '{"name":"evil","imports":{"#x":"./evil.ts"}}');
  await mkdir(`${cwd}/node_modules/commander`, { recursive: true });
  await writeFile(`${cwd}/node_modules/commander/index.js`, evil);
  const { status, err } = await runCli(["ps"], { program, cwd });
  expect(status).toBe(1);
  expect(err).toContain("http://127.0.0.1:4973");
  expect(await Bun.file(folder.join("owned")).exists()).toBe(false);
});

/** All files that `path` loads before it runs, by its static imports. */
async function loadedBy(path: string, seen = new Set<string>()): Promise<Set<string>> {
  if (seen.has(path)) return seen;
  seen.add(path);
  const transpiler = new Bun.Transpiler({ loader: "ts" });
  for (const { path: name, kind } of transpiler.scanImports(await Bun.file(path).text())) {
    if (kind !== "import-statement" || /^(node|bun):|^bun$/.test(name)) continue;
    const found = Bun.resolveSync(name, dirname(path));
    if (found.endsWith(".ts")) await loadedBy(found, seen);
    else seen.add(found);
  }
  return seen;
}

test("a monitor and its Worker load neither command line, nor server, nor any package", async () => {
  expect([...(await loadedBy(join(repo, "src/main.ts")))]).toEqual([join(repo, "src/main.ts")]);
  for (const entry of ["src/vmm/main.ts", WORKERS.disk]) {
    const loaded = [...(await loadedBy(join(repo, entry)))].map((path) => relative(repo, path));
    expect(loaded.length).toBeGreaterThan(1);
    expect(loaded.filter((path) => !/^src\/(vmm|ffi|machine-state|block-map\.ts|workers\.ts|pairs\.ts)/.test(path))).toEqual([]);
  }
});

test("it runs with glibc alone", async () => {
  const child = Bun.spawn(["ldd", program[0]], { stdout: "pipe" });
  const libraries = (await child.stdout.text()).split("\n").flatMap((line) => /^\s*(\S+)/.exec(line)?.[1] ?? []);
  expect(libraries.length).toBeGreaterThan(0);
  for (const one of libraries) expect(one).toMatch(/linux-vdso|ld-linux|lib(c|m|pthread|dl|rt)\.so/);
});
