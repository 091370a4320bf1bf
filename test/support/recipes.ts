// What the images are made of. A recipe's text is hashed: a change builds the image anew.
import { readFileSync } from "node:fs";
import type { Compression, Dialect, ImageSettings } from "./oci.ts";

export const imageNames = ["busybox", "debian", "nginx", "redis", "python", "layers", "bench", "soak"] as const;
export type ImageName = (typeof imageNames)[number];

/** A file of a layer: its text, or what it is. Paths have no leading slash. */
export type Entry = string | { readonly text: string; readonly mode?: number } | { readonly symlink: string } | { readonly hardlink: string } | { readonly folder: number; readonly owner?: string };

export interface Recipe {
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

export const recipes: Readonly<Record<ImageName, Recipe>> = {
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
  /** A program that notices what a sleep takes from it (soak.py), on port 8000. */
  soak: {
    base: "debian",
    packages: ["python3-minimal", "libpython3-stdlib"],
    layers: [{ "app/soak.py": readFileSync(new URL("soak.py", import.meta.url), "utf8") }],
    config: { Cmd: ["python3", "-u", "/app/soak.py"], Env: [PATH], ExposedPorts: { "8000/tcp": {} } },
  },
};
