// `bun run build`: one file, dist/dormouse, with control plane, command line, monitor, Workers, guest kernel and initramfs.
//   --out FILE   somewhere else than dist/dormouse
//   --no-guest   without kernel and initramfs, for tests of the command line: such a build cannot serve
import { mkdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { parseArgs, promisify } from "node:util";
import { constants, zstdCompress } from "node:zlib";
import type { BunPlugin } from "bun";
import { WORKERS } from "./src/workers.ts";
import manifest from "./package.json" with { type: "json" };

const root = import.meta.dir;
const cache = process.env["DORMOUSE_CACHE"] ?? join(process.env["XDG_CACHE_HOME"] ?? `${process.env["HOME"]}/.cache`, "dormouse");
const ZSTD_LEVEL = 19;

const say = (text: string) => console.error(`[build] ${text}`);
const die = (text: string): never => {
  console.error(`build: ${text}`);
  process.exit(1);
};
const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;

/** The last line that a script of ours prints: the path of what it has built. */
async function built(...command: [string, ...string[]]): Promise<string> {
  const script = join(root, "scripts", command[0]);
  if (!(await Bun.file(script).exists())) return die(`cannot build without scripts/${command[0]}`);
  const child = Bun.spawn([script, ...command.slice(1)], { stdout: "pipe", stderr: "inherit" });
  const path = (await child.stdout.text()).trim().split("\n").at(-1) ?? "";
  if ((await child.exited) !== 0 || path === "") return die(`scripts/${command.join(" ")} failed`);
  return path;
}

interface Packed { readonly path: string; readonly sha256: string }

/** `file` compressed, cached by its content: level 19 takes seconds, and kernels change seldom. */
async function pack(file: string): Promise<Packed> {
  const content = await Bun.file(file).bytes();
  const sha256 = new Bun.CryptoHasher("sha256").update(content).digest("hex");
  const path = join(cache, "embed", `${basename(file)}-${sha256.slice(0, 16)}-${ZSTD_LEVEL}.zst`);
  if (!(await Bun.file(path).exists())) {
    say(`compressing ${basename(file)} (${megabytes(content.length)})`);
    await mkdir(dirname(path), { recursive: true });
    const packed = await promisify(zstdCompress)(content, { params: { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL } });
    const part = `${path}.${process.pid}.part`;
    await Bun.write(part, packed);
    await rename(part, path);
  }
  return { path, sha256 };
}

/** The module that stands for src/artifacts-embedded.ts in the executable. */
function artifactsModule(kernel: Packed, initramfs: Packed): string {
  const entry = (name: string, { sha256 }: Packed) => `${name}: { path: ${name}, sha256: "${sha256}", compression: "zstd" }`;
  return `import kernel from ${JSON.stringify(kernel.path)} with { type: "file" };
import initramfs from ${JSON.stringify(initramfs.path)} with { type: "file" };
export const embeddedArtifacts = async () => ({ ${entry("kernel", kernel)}, ${entry("initramfs", initramfs)} });`;
}

const NO_GUEST = `export const embeddedArtifacts = async () => { throw new Error("this executable was built without a guest (--no-guest)"); };`;

const embedArtifacts = (contents: string): BunPlugin => ({
  name: "artifacts",
  setup: (build) => void build.onLoad({ filter: /\/src\/artifacts-embedded\.ts$/ }, () => ({ contents, loader: "ts" })),
});

async function revision(): Promise<string> {
  const git = async (...args: string[]) => {
    const child = Bun.spawn(["git", "-C", root, ...args], { stdout: "pipe", stderr: "ignore" });
    const text = (await child.stdout.text()).trim();
    return (await child.exited) === 0 ? text : null;
  };
  const commit = await git("rev-parse", "--short=12", "HEAD").catch(() => null);
  if (commit === null) return "unknown"; // a source archive has no history
  const changes = await git("status", "--porcelain", "--untracked-files=no");
  return changes === "" ? commit : `${commit}-dirty`;
}

const { values } = parseArgs({ options: { out: { type: "string", default: join(root, "dist/dormouse") }, "no-guest": { type: "boolean", default: false } } });
const out = resolve(values.out);
const artifacts = values["no-guest"] ? NO_GUEST : artifactsModule(await pack(await built("kernel", "guest")), await pack(await built("guest")));

const define = {
  DORMOUSE_VERSION: JSON.stringify(manifest.version),
  DORMOUSE_REVISION: JSON.stringify(await revision()),
  "process.env.NODE_ENV": '"production"',
};

/**
 * The monitor as one module. Splitting would cut it along what it shares with the Workers and the daemon, and each of the dozen pieces
 * takes a process that has just started its time to find and load.
 */
async function monitorModule(): Promise<string> {
  const bundle = await Bun.build({ entrypoints: [join(root, "src/vmm/main.ts")], root, target: "bun", format: "esm", define });
  return bundle.outputs[0]!.text();
}

const embedMonitor = (contents: string): BunPlugin => ({
  name: "monitor",
  setup: (build) => void build.onLoad({ filter: /\/src\/vmm\/main\.ts$/ }, () => ({ contents, loader: "js" })),
});

// Built beside its place and renamed, so that a running executable is never written to.
const staging = join(dirname(out), `.build-${process.pid}`);
await mkdir(staging, { recursive: true });
say("bundling and compiling");
const result = await Bun.build({
  entrypoints: ["src/main.ts", ...Object.values(WORKERS)].map((path) => join(root, path)),
  root,
  target: "bun",
  format: "esm",
  bytecode: true,
  // Chunks keep a dynamic import lazy: `dormouse vmm` never loads the server's code.
  splitting: true,
  minify: { whitespace: true, syntax: true, identifiers: false },
  define,
  plugins: [embedArtifacts(artifacts), embedMonitor(await monitorModule())],
  // Nothing of the current directory may change what root runs.
  compile: { outfile: join(staging, "dormouse"), autoloadDotenv: false, autoloadBunfig: false, autoloadTsconfig: false, autoloadPackageJson: false },
  throw: false,
});
for (const log of result.logs) console.error(log);
if (!result.success) {
  await rm(staging, { recursive: true, force: true });
  die("cannot compile; see above");
}
await rename(join(staging, "dormouse"), out);
await rm(staging, { recursive: true, force: true });
say(`${out}: ${megabytes(Bun.file(out).size)}`);
