// Where each Worker's code is: the .ts file in development, a path inside the executable when compiled.
// build.ts makes every file of this table an entry point and defines DORMOUSE_COMPILED.

/** Worker names and their files, relative to the repository's root. */
export const WORKERS = {
  /** One vCPU's KVM_RUN loop. */
  vcpu: "src/vmm/vcpu-worker.ts",
  /** Block requests of one VM, so that its main loop never waits on storage. */
  disk: "src/vmm/devices/block/worker.ts",
  /** epoll_wait on behalf of the daemon's main thread. */
  poller: "src/host/poller-worker.ts",
  /** Image layers to EROFS. */
  convert: "src/host/images/convert-worker.ts",
} as const;

export type WorkerName = keyof typeof WORKERS;

/** True in the executable; undefined when the sources run as they are. */
declare const DORMOUSE_COMPILED: boolean | undefined;

/** The root under which Bun shows a compiled executable's embedded entry points. */
const EMBEDDED_ROOT = "/$bunfs/root/";

/** What `new Worker()` takes for `name`. */
export function workerUrl(name: WorkerName): string {
  const path = WORKERS[name];
  if (typeof DORMOUSE_COMPILED !== "undefined" && DORMOUSE_COMPILED) return EMBEDDED_ROOT + path.replace(/\.ts$/, ".js");
  return new URL(`../${path}`, import.meta.url).href;
}
