// Where each Worker's code is: the .ts file in development, a path inside the executable when compiled.
// build.ts makes every file of this table an entry point of the executable.

/** Worker names and their files, relative to the repository's root. */
export const WORKERS = {
  /** Block requests of one VM, so that its main loop never waits on storage. */
  disk: "src/vmm/devices/block/worker.ts",
  /** epoll_wait on behalf of the daemon's main thread. */
  poller: "src/host/poller-worker.ts",
  /** Image layers to EROFS. */
  convert: "src/host/images/convert-worker.ts",
  /** Archives that volumes are made from, into folders. */
  unpack: "src/host/volumes/archive/worker.ts",
  /** A saved machine's memory, compressed or decompressed. */
  compress: "src/host/snapshots/compression/worker.ts",
  /** Saved machines that are deltas over one another, made one. */
  merge: "src/host/snapshots/merging/worker.ts",
} as const;

export type WorkerName = keyof typeof WORKERS;

/** The root under which a compiled executable shows its embedded entry points. */
const EMBEDDED_ROOT = "/$bunfs/root/";

/** What `new Worker()` takes for `name`. */
export function workerUrl(name: WorkerName): string {
  const path = WORKERS[name];
  // import.meta.url of a nested module says nothing useful once compiled, so the embedded path is spelled out.
  if (Bun.isStandaloneExecutable) return EMBEDDED_ROOT + path.replace(/\.ts$/, ".js");
  return new URL(`../${path}`, import.meta.url).href;
}
