// A real registry for tests and the demo: Debian's docker-registry on loopback, at a port of the kernel's choice.
import { existsSync } from "node:fs";
import { mkdir, rename, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { command } from "./command.ts";
import { fetchPackages } from "./debian.ts";
import { cacheFolder, TempDir } from "./paths.ts";

const LOG_TAIL = 64 * 1024;

export interface Credentials { readonly username: string; readonly password: string }

/** Debian's docker-registry, unpacked into the cache: installed, it would run as a service of this machine. Its path. */
export async function registryProgram(say: (text: string) => void = () => {}): Promise<string> {
  const folder = join(cacheFolder, "tools/docker-registry");
  const program = join(folder, "usr/bin/docker-registry");
  if (existsSync(program)) return program;
  say("fetching docker-registry");
  const deb = (await fetchPackages(["docker-registry"])).find((path) => basename(path).startsWith("docker-registry_"));
  if (deb === undefined) throw new Error("Cannot fetch docker-registry: apt-get names no such package");
  await mkdir(join(cacheFolder, "tools"), { recursive: true });
  using temp = new TempDir("tool", join(cacheFolder, "tools"));
  await command(["dpkg-deb", "-x", deb, temp.join("root")]);
  await rename(temp.join("root"), folder).catch((error: unknown) => { if (!existsSync(program)) throw error; });
  return program;
}

/** A running registry; its storage goes away with it. */
export class Registry {
  private constructor(readonly port: number, private readonly child: Bun.Subprocess, private readonly folder: TempDir, private readonly said: string[]) {}

  /** `127.0.0.1:PORT`, the first part of references to its images. */
  get host(): string { return `127.0.0.1:${this.port}`; }

  /** The end of its log. */
  get log(): string { return this.said.join(""); }

  /** With `credentials`, it wants basic authentication. */
  static async start(options: { credentials?: Credentials } = {}): Promise<Registry> {
    const folder = new TempDir("registry");
    await mkdir(folder.join("storage"));
    const auth = options.credentials ? await basicAuth(folder, options.credentials) : "";
    await writeFile(folder.join("config.yml"), `version: 0.1
log: {accesslog: {disabled: true}, level: info}
storage: {filesystem: {rootdirectory: ${folder.join("storage")}}, delete: {enabled: true}}
http: {addr: "127.0.0.1:0"}
${auth}`);
    const child = Bun.spawn([await registryProgram(), "serve", folder.join("config.yml")], { stdin: "ignore", stdout: "ignore", stderr: "pipe", env: { ...process.env, OTEL_TRACES_EXPORTER: "none" } });
    const log: string[] = [];
    const port = await listeningPort(child.stderr, log);
    if (port !== null) return new Registry(port, child, folder, log);
    child.kill();
    folder[Symbol.dispose]();
    throw new Error(`Cannot start docker-registry:\n${log.join("")}`);
  }

  /** Ends it at once, as a crash would. */
  async stop(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.child.exited;
    this.folder[Symbol.dispose]();
  }
  async [Symbol.asyncDispose](): Promise<void> { await this.stop(); }
}

async function basicAuth(folder: TempDir, { username, password }: Credentials): Promise<string> {
  const hash = await Bun.password.hash(password, { algorithm: "bcrypt", cost: 4 });
  await writeFile(folder.join("htpasswd"), `${username}:${hash}\n`);
  return `auth: {htpasswd: {realm: dormouse, path: ${folder.join("htpasswd")}}}\n`;
}

/** The port that its log names, or null if it ends before. Reads the log to its end, so that the registry never waits for us. */
function listeningPort(stream: ReadableStream<Uint8Array>, log: string[]): Promise<number | null> {
  return new Promise((found) => {
    const read = async (): Promise<void> => {
      const decoder = new TextDecoder();
      let text = "";
      for await (const chunk of stream) {
        text = (text + decoder.decode(chunk, { stream: true })).slice(-LOG_TAIL);
        log[0] = text;
        const port = /listening on 127\.0\.0\.1:(\d+)/.exec(text)?.[1];
        if (port !== undefined) found(Number(port));
      }
      found(null);
    };
    void read();
  });
}
