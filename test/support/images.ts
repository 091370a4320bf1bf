// The images that tests, the demo and the bench run: real servers, assembled from Debian packages, cached as OCI layouts.
// A recipe's hash names its folder in the cache: what is built once is used without network or root from then on.
import { existsSync } from "node:fs";
import { chmod, copyFile, link, mkdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fetchPackages, finishBase, unpackPackages } from "./debian.ts";
import { command } from "./command.ts";
import { OciLayout, type Compression, type Dialect, type ImageSettings, type Layer } from "./oci.ts";
import { cacheFolder, TempDir } from "./paths.ts";

/** Raised whenever the way in which layers are put together changes. */
const ASSEMBLER = 1;

/** A file of a layer: its text, or what it is. Paths have no leading slash. */
type Entry = string | { readonly text: string; readonly mode?: number } | { readonly symlink: string } | { readonly hardlink: string } | { readonly folder: number; readonly owner?: string };

interface Recipe {
  /** Lies on the layers of this image. */
  readonly base?: ImageName;
  /** Debian packages: one layer. */
  readonly packages?: readonly string[];
  /** Further layers, or files added to the layer of packages when there is just one. */
  readonly layers?: readonly Readonly<Record<string, Entry>>[];
  readonly compression?: readonly Compression[];
  readonly dialect?: Dialect;
  /** Lines of /etc/passwd and /etc/group. */
  readonly accounts?: { readonly passwd: string; readonly group: string };
  readonly config: ImageSettings;
}

const PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const page = (name: string): string => `<!doctype html><title>${name}</title><h1>It is ${name}, in a Dormouse</h1>\n`;

export const recipes = {
  /** BusyBox's web server on port 80: one static program. Docker's media types. */
  busybox: {
    dialect: "docker",
    packages: ["busybox-static"],
    layers: [{ "www/index.html": page("busybox"), "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n", tmp: { folder: 0o1777 }, root: { folder: 0o700 } }],
    config: { Entrypoint: ["/bin/busybox"], Cmd: ["httpd", "-f", "-v", "-p", "80", "-h", "/www"], Env: [PATH], ExposedPorts: { "80/tcp": {} } },
  },
  /** A small Debian with the usual tools; runs bash. */
  debian: {
    packages: ["base-files", "base-passwd", "bash", "coreutils", "dash", "findutils", "grep", "sed", "mawk", "libc-bin", "hostname", "procps", "iproute2", "netcat-openbsd", "util-linux", "mount"],
    config: { Cmd: ["/bin/bash"], Env: [PATH] },
  },
  nginx: {
    base: "debian",
    packages: ["nginx-light"],
    layers: [{
      "var/www/html/index.html": page("nginx"),
      "var/log/nginx/access.log": { symlink: "/dev/stdout" }, "var/log/nginx/error.log": { symlink: "/dev/stderr" },
      "etc/nginx/sites-enabled/default": "server { listen 80 default_server; root /var/www/html; }\n",
    }],
    config: { Cmd: ["nginx", "-g", "daemon off;"], Env: [PATH], ExposedPorts: { "80/tcp": {} }, StopSignal: "SIGQUIT" },
  },
  redis: {
    base: "debian",
    packages: ["redis-server"],
    accounts: { passwd: "redis:x:999:999::/data:/usr/sbin/nologin", group: "redis:x:999:" },
    layers: [{ data: { folder: 0o755, owner: "999:999" } }],
    config: {
      Entrypoint: ["redis-server"], Cmd: ["--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/data"], Env: [PATH],
      User: "redis", WorkingDir: "/data", Volumes: { "/data": {} }, ExposedPorts: { "6379/tcp": {} },
    },
  },
  /** A web server in Python on port 8000: answers with its own name and the request's path. Layers in zstd. */
  python: {
    base: "debian",
    packages: ["python3-minimal", "libpython3-stdlib"],
    compression: ["zstd"],
    layers: [{
      "app/server.py": `import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"python at {self.path} says {os.environ['GREETING']}\\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
print("listening on 8000", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
`,
    }],
    config: { Cmd: ["python3", "-u", "server.py"], WorkingDir: "/app", Env: [PATH, "GREETING=hello"], User: "nobody:nogroup", ExposedPorts: { "8000/tcp": {} } },
  },
  /**
   * Layers that hide each other: whiteouts, an opaque folder, hard and symbolic links, a type that changes; VOLUME, USER, ENTRYPOINT with CMD.
   * Gzip, zstd and plain. `/check` inside says what a correct file system has, line by line.
   */
  layers: {
    base: "debian",
    compression: ["gzip", "zstd", "none"],
    accounts: { passwd: "app:x:1234:2345:App:/home/app:/bin/bash", group: "app:x:2345:\nextra:x:3456:app" },
    layers: [
      {
        "l/kept": "one\n", "l/removed": "one\n", "l/replaced": "one\n", "l/opaque/old": "one\n", "l/gone/deep/file": "one\n", "l/becomes-folder": "one\n",
        "l/hard-a": "linked\n", "l/hard-b": { hardlink: "l/hard-a" }, "l/soft": { symlink: "hard-a" }, "home/app": { folder: 0o700, owner: "1234:2345" },
      },
      {
        "l/.wh.removed": "", "l/.wh.gone": "", "l/replaced": "two\n", "l/opaque/.wh..wh..opq": "", "l/opaque/new": "two\n",
        "l/.wh.becomes-folder": "", "vol": { folder: 0o755, owner: "1234:2345" }, "vol/seed": "seed\n",
      },
      {
        "l/becomes-folder/file": "three\n", "l/setuid": { text: "#!/bin/sh\n", mode: 0o4755 },
        "check": { text: `#!/bin/bash
cd /l
echo "kept $(<kept)"; echo "replaced $(<replaced)"; echo "soft $(<soft)"; echo "links $(stat -c %h hard-b)"
echo "folder $(<becomes-folder/file)"; echo "opaque $(echo opaque/*)"; echo "setuid $(stat -c %a setuid)"
for f in removed gone; do [ -e $f ] && echo "$f is there" || echo "$f is gone"; done
echo "volume $(</vol/seed) $(stat -c %u:%g /vol)"; echo "id $(id -u):$(id -g) $(id -G)"; echo "home $HOME"; echo "args $*"
`, mode: 0o755 },
      },
    ],
    config: { Entrypoint: ["/check"], Cmd: ["a", "b c"], Env: [PATH], User: "app", Volumes: { "/vol": {} }, WorkingDir: "/vol", Labels: { "dormouse.test": "layers" } },
  },
  /** What the bench runs in the guest. */
  bench: {
    base: "debian",
    packages: ["fio", "iperf3"],
    config: { Cmd: ["sleep", "infinity"], Env: [PATH] },
  },
} as const satisfies Record<string, Recipe>;
export type ImageName = keyof typeof recipes;

/** What `/check` of the `layers` image prints, with its own CMD. */
export const layersCheck = [
  "kept one", "replaced two", "soft linked", "links 2", "folder three", "opaque opaque/new", "setuid 4755", "removed is gone", "gone is gone",
  "volume seed 1234:2345", "id 1234:2345 2345 3456", "home /home/app", "args a b c",
].join("\n") + "\n";

const recipe = (name: ImageName): Recipe => recipes[name];
const allPackages = (name: ImageName): string[] => {
  const { base, packages = [] } = recipe(name);
  return [...(base ? allPackages(base) : []), ...packages];
};
const recipeChain = (name: ImageName): Recipe[] => {
  const own = recipe(name);
  return own.base ? [...recipeChain(own.base), own] : [own];
};

const folderOf = (name: ImageName): string => {
  const hash = new Bun.CryptoHasher("sha256").update(JSON.stringify([ASSEMBLER, recipeChain(name)])).digest("hex").slice(0, 16);
  return join(cacheFolder, "images", `${name}-${hash}`);
};

const flights = new Map<ImageName, Promise<OciLayout>>();

/** The image as an OCI layout in the cache; built (seconds, as root, needs Debian's mirrors) when it is not there. `say`: progress. */
export function image(name: ImageName, say: (text: string) => void = () => {}): Promise<OciLayout> {
  const flight = flights.get(name) ?? build(name, say);
  flights.set(name, flight);
  return flight;
}

async function build(name: ImageName, say: (text: string) => void): Promise<OciLayout> {
  const folder = folderOf(name);
  if (existsSync(folder)) return OciLayout.open(folder);
  const own = recipe(name);
  const base = own.base ? await image(own.base, say) : null;
  say(`building the image ${name}`);
  await mkdir(join(cacheFolder, "images"), { recursive: true });
  using temp = new TempDir("image", join(cacheFolder, "images"));
  const layout = await OciLayout.create(temp.join("layout"));
  const layers = [...(base ? await baseLayers(base, layout) : []), ...(await ownLayers(name, layout, temp))];
  await layout.finish(layers, own.config, own.dialect);
  // Another process may have been faster: its image is as good.
  await rename(layout.folder, folder).catch((error: unknown) => { if (!existsSync(folder)) throw error; });
  return OciLayout.open(folder);
}

async function baseLayers(base: OciLayout, layout: OciLayout): Promise<Layer[]> {
  const manifest: { layers: Layer["descriptor"][]; config: { digest: string } } = JSON.parse(await readFile(base.blobPath((await base.manifest()).digest), "utf8"));
  const config: { rootfs: { diff_ids: string[] } } = JSON.parse(await readFile(base.blobPath(manifest.config.digest), "utf8"));
  for (const { digest } of manifest.layers) await copyFile(base.blobPath(digest), layout.blobPath(digest));
  return manifest.layers.map((descriptor, i) => ({ descriptor, diffId: config.rootfs.diff_ids[i]! }));
}

async function ownLayers(name: ImageName, layout: OciLayout, temp: TempDir): Promise<Layer[]> {
  const { base, packages, layers = [], compression = ["gzip"], dialect, accounts } = recipe(name);
  const files = layers.length > 0 ? layers : [{}];
  const made: Layer[] = [];
  for (const [i, entries] of files.entries()) {
    const root = temp.join(`layer-${i}`);
    await mkdir(root);
    if (i === 0 && packages) await unpackPackages(await fetchPackages(packages, base ? allPackages(base) : []), root);
    if (i === 0 && name === "busybox") await linkApplets(root);
    if (i === 0 && base === undefined && name !== "busybox") await finishBase(root);
    if (i === 0 && accounts) await addAccounts(root, accounts);
    for (const [path, entry] of Object.entries(entries)) await writeEntry(root, path, entry);
    made.push(await layout.addFolder(root, compression[i % compression.length], dialect));
    await rm(root, { recursive: true });
  }
  return made;
}

async function linkApplets(root: string): Promise<void> {
  const applets = (await command([join(root, "bin/busybox"), "--list"])).trim().split("\n");
  for (const applet of applets) if (applet !== "busybox") await symlink("busybox", join(root, "usr/bin", applet));
}

/** The base's accounts with more at the end: as `adduser` would leave them. */
async function addAccounts(root: string, { passwd, group }: { passwd: string; group: string }): Promise<void> {
  await mkdir(join(root, "etc"), { recursive: true });
  for (const [file, lines] of [["passwd", passwd], ["group", group]] as const) {
    const template = await readFile(`/usr/share/base-passwd/${file}.master`, "utf8");
    await writeFile(join(root, "etc", file), `${template.trimEnd()}\n${lines}\n`);
  }
}

async function writeEntry(root: string, path: string, entry: Entry): Promise<void> {
  const target = join(root, path);
  await mkdir(dirname(target), { recursive: true });
  if (typeof entry === "string") return void (await replace(target, entry, 0o644));
  if ("text" in entry) return void (await replace(target, entry.text, entry.mode ?? 0o644));
  await rm(target, { force: true, recursive: !("folder" in entry) });
  if ("symlink" in entry) return void (await symlink(entry.symlink, target));
  if ("hardlink" in entry) return void (await link(join(root, entry.hardlink), target));
  await mkdir(target, { recursive: true });
  await chmod(target, entry.folder);
  if (entry.owner) await command(["chown", entry.owner, target]);
}

async function replace(target: string, text: string, mode: number): Promise<void> {
  await rm(target, { force: true });
  await writeFile(target, text);
  await chmod(target, mode);
}
