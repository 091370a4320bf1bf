// The image domain's service: names on record, the jobs that bring them, and what is thrown away afterwards.
import type { Database } from "bun:sqlite";
import { existsSync, mkdirSync } from "node:fs";
import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import { err, ok, ResultAsync } from "neverthrow";
import { DormouseError, fail, wrap, type AsyncRes, type Res } from "../../errors.ts";
import { rethrow, type Unheard } from "../background.ts";
import type { Trash } from "../trash.ts";
import { Contents } from "./contents.ts";
import { blobFiles, imageFiles, rootfsPath, type ImageFiles } from "./files.ts";
import { startJob, type Job, type JobContext } from "./jobs.ts";
import { IMAGE_LIMITS, type ImageLimits } from "./limits.ts";
import { inspectFile } from "./load/inspect.ts";
import { FileSource } from "./load/source.ts";
import { PLATFORM } from "./manifest.ts";
import { findRow } from "./lookup.ts";
import { newRow, Records, type NameRow } from "./records.ts";
import { formatReference, parseReference, type Reference } from "./reference.ts";
import { fromDockerConfig, fromRequest } from "./registry/credentials.ts";
import type { ManifestBytes } from "./registry/client.ts";
import { RegistrySource } from "./registry/source.ts";
import type { ImageRecord, ImageService, PullCredentials, PullRequest, ReadyImage } from "./service.ts";
import { Slots } from "./shared.ts";
import type { ImageSource } from "./source.ts";
import { recoverFiles, sweep } from "./sweep.ts";
import { recordOf } from "./view.ts";

export { imageMigrations } from "./migrations.ts";

export interface OpenImages {
  /** With this domain's migrations applied. */
  readonly db: Database;
  /** `…/images`; made where it is missing. */
  readonly dir: string;
  readonly trash: Trash;
  /** Whoever refers to the image of this manifest digest (`sha256:…`), in words; null where nobody does. */
  readonly userOf: (digest: string) => string | null;
  /** Docker's config.json; `$DOCKER_CONFIG/config.json` or `~/.docker/config.json` by default. */
  readonly dockerConfigPath?: string;
  /** Registries (`host[:port]`) reached by plain http; loopback ones always are. */
  readonly insecure?: readonly string[];
  readonly limits?: Partial<ImageLimits>;
  readonly failed?: Unheard;
}

/** Opens the domain, cleans up after a crash, and goes on with what was under way. `host.storage` where the folder can't be used. */
export function openImages(options: OpenImages): Res<ImageService> {
  try {
    mkdirSync(options.dir, { recursive: true, mode: 0o700 });
    const images = new Images(options, imageFiles(options.dir, options.trash));
    images.recover();
    return ok(images);
  } catch (error) {
    return err(wrap("host.storage", `Cannot open the images in ${options.dir}`, error));
  }
}

const defaultDockerConfig = (): string => join(process.env["DOCKER_CONFIG"] ?? join(homedir(), ".docker"), "config.json");

class Images implements ImageService {
  private readonly records: Records;
  private readonly limits: ImageLimits;
  private readonly jobs = new Map<string, Job>();
  private readonly context: JobContext;
  private readonly contents: Contents;
  private readonly closing = new AbortController();

  constructor(private readonly options: OpenImages, private readonly files: ImageFiles) {
    this.records = new Records(options.db);
    this.limits = { ...IMAGE_LIMITS, ...options.limits };
    this.contents = new Contents(this.records, files, this.limits);
    this.context = { records: this.records, contents: this.contents, slots: new Slots(this.limits.pulls, () => this.jobs.forEach((job) => job.changed())), jobs: this.jobs, onSettled: () => this.sweep(), failed: options.failed ?? rethrow };
  }

  /** What a dead daemon left: half-written files go, pulls begin again, records whose file is gone say so. */
  recover(): void {
    recoverFiles(this.files, this.records);
    for (const row of this.records.names()) {
      if (row.status === "ready" || row.status === "failed") continue;
      const source = this.recoveredSource(row);
      if (source.isOk()) this.start(row, source.value);
      else this.records.putName(row.previous === "" ? { ...row, status: "failed", error: source.error.message } : { ...row, status: "ready", digest: row.previous, previous: "", error: source.error.message });
    }
    if (this.jobs.size === 0) this.sweep();
  }

  private recoveredSource(row: NameRow): Res<ImageSource> {
    if (row.private) return fail("image.pull_failed", `Cannot go on with the pull of ${row.name}: the daemon ended while it ran, and the request's credentials are not kept; pull it again`);
    if (row.origin.kind === "registry") return parseReference(row.name).andThen((ref) => this.registrySource(ref));
    return ok(new FileSource(row.origin, row.name, this.files, this.limits));
  }

  private registrySource(ref: Reference, credentials?: PullCredentials): Res<RegistrySource> {
    try {
      const used = credentials === undefined ? fromDockerConfig(this.options.dockerConfigPath ?? defaultDockerConfig(), ref.host) : fromRequest(credentials);
      return ok(new RegistrySource(ref, { credentials: used, insecure: this.options.insecure ?? [], limits: this.limits, files: this.files }));
    } catch (error) {
      return err(wrap("registry.unauthorized", `Cannot get credentials for ${ref.host}`, error));
    }
  }

  pull(request: PullRequest): AsyncRes<ImageRecord> {
    const platform = request.platform ?? PLATFORM;
    if (platform !== PLATFORM) return ResultAsync.fromSafePromise(Promise.resolve()).andThen(() => fail("platform.invalid", `Cannot pull ${request.name} for ${JSON.stringify(platform)}: only ${PLATFORM} runs here`));
    const ref = parseReference(request.name);
    if (ref.isErr()) return ResultAsync.fromSafePromise(Promise.resolve()).andThen(() => err(ref.error));
    return ResultAsync.fromPromise(this.pullReference(ref.value, request), (error) => wrap("image.pull_failed", `Cannot pull ${request.name}`, error));
  }

  /** Throws DormouseError. */
  private async pullReference(ref: Reference, request: PullRequest): Promise<ImageRecord> {
    const name = formatReference(ref);
    await this.calledOff(name);
    const known = this.records.name(name);
    const tags = request.tags ?? known?.tags ?? {};
    if (known !== null && request.tags !== undefined) this.records.putName({ ...known, tags });
    if (this.jobs.has(name)) return this.view(this.records.name(name)!);
    const source = unwrap(this.registrySource(ref, request.credentials));
    // What a digest names never changes: nobody needs to be asked.
    const immutable = ref.digest === null ? null : this.readyDigest(ref.digest);
    if (immutable !== null) return this.adopt(name, immutable, ref.digest!, tags);
    if (known?.status === "ready" && this.contents.isReady(known.digest)) {
      const top = await this.lookUp(source, name);
      if (top.digest === known.resolved || top.digest === known.digest) return this.view(this.records.name(name) ?? known);
      // Someone else may have begun while the registry was asked.
      await this.calledOff(name);
      if (this.jobs.has(name)) return this.view(this.records.name(name)!);
    }
    const row = newRow(name, tags, this.records.name(name), request.credentials !== undefined);
    this.records.putName(row);
    this.start(row, source);
    return this.view(row);
  }

  /** Resolves once no job is under way for a name that was removed meanwhile: what begins now must not meet it. */
  private async calledOff(name: string): Promise<void> {
    for (let job = this.jobs.get(name); job !== undefined && this.records.name(name) === null; job = this.jobs.get(name)) await job.done;
  }

  private async lookUp(source: RegistrySource, name: string): Promise<ManifestBytes> {
    const patience = AbortSignal.timeout(this.limits.lookUpMs);
    try {
      return await source.lookUp(AbortSignal.any([this.closing.signal, patience]));
    } catch (error) {
      if (!patience.aborted) throw error;
      throw new DormouseError("registry.unreachable", `Cannot see whether ${name} has changed: its registry did not answer within ${this.limits.lookUpMs / 1000} s; what was pulled before is still ready`, { cause: error });
    }
  }

  /** The ready manifest that `digest` names, itself or as an index; null where there is none. */
  private readyDigest(digest: string): string | null {
    const candidates = [digest, ...this.records.names().filter((row) => row.resolved === digest).map((row) => row.digest)];
    return candidates.find((one) => this.contents.isReady(one)) ?? null;
  }

  /** Records a name for a digest that is ready already. */
  private adopt(name: string, digest: string, resolved: string, tags: Readonly<Record<string, string>>): ImageRecord {
    const row: NameRow = { ...newRow(name, tags, null, false), status: "ready", digest, resolved, createdAt: this.records.name(name)?.createdAt ?? Date.now() };
    this.records.putName(row);
    return this.view(row);
  }

  private start(row: NameRow, source: ImageSource): void {
    const job = startJob(this.context, row.name, source);
    this.jobs.set(row.name, job);
  }

  load(path: string, name?: string): AsyncRes<ImageRecord> {
    return ResultAsync.fromPromise(this.loadFile(path, name), (error) => wrap("image.convert_failed", `Cannot load ${path}`, error));
  }

  /** Throws DormouseError. */
  private async loadFile(path: string, given: string | undefined): Promise<ImageRecord> {
    if (!isAbsolute(path)) throw new DormouseError("request.bad", `Cannot load ${path}: the path must be absolute, because the daemon has a directory of its own`);
    const wanted = given === undefined ? null : formatReference(unwrap(parseReference(given)));
    const found = await inspectFile(path, wanted, this.files, this.limits, this.closing.signal);
    const rows = found.names.map((name): NameRow => ({ ...newRow(name, {}, this.records.name(name), false), origin: { kind: "file", path, pick: found.pick } }));
    try {
      const busy = rows.find(({ name }) => this.jobs.has(name));
      if (busy !== undefined) throw new DormouseError("conflict", `Cannot load ${path}: ${busy.name} is being pulled; wait for it, or remove it first`);
      for (const row of rows) {
        found.tree.retain();
        this.records.putName(row);
        this.start(row, new FileSource({ path, pick: found.pick }, row.name, this.files, this.limits, found.tree));
      }
    } finally {
      found.tree.release();
    }
    return this.view(rows[0]!);
  }

  list(filter?: { tags?: Readonly<Record<string, string>> }): ImageRecord[] {
    const wanted = Object.entries(filter?.tags ?? {});
    return this.records.names().filter((row) => wanted.every(([key, value]) => row.tags[key] === value)).map((row) => this.view(row));
  }

  get(name: string): Res<ImageRecord> {
    return this.find(name).map((row) => this.view(row));
  }

  private find(name: string): Res<NameRow> {
    return findRow(this.records, name);
  }

  private view(row: NameRow): ImageRecord {
    return recordOf(row, this.records.content(row.digest), this.jobs.get(row.name) ?? null);
  }

  ready(name: string): Res<ReadyImage> {
    return this.find(name).andThen((row) => {
      // While a newer digest is on its way, the one that was ready serves.
      const digest = row.status === "ready" ? row.digest : row.previous;
      const content = digest === "" ? null : this.records.content(digest);
      if (content === null) return fail("image.not_ready", `Cannot use ${row.name}: it is ${row.status}${row.error === null ? "" : ` (${row.error})`}`);
      const path = rootfsPath(this.files, digest);
      if (!existsSync(path)) return fail("image.not_ready", `Cannot use ${row.name}: its file ${path} is gone; pull it again`);
      const record = recordOf({ ...row, status: "ready", digest }, content, null);
      return ok({ record, config: content.config, rootfsPath: path });
    });
  }

  remove(name: string): AsyncRes<void> {
    return ResultAsync.fromPromise(this.removeNames(name), (error) => wrap("host.storage", `Cannot remove ${name}`, error));
  }

  /** By digest, all names of it go. Throws DormouseError. */
  private async removeNames(name: string): Promise<void> {
    const row = unwrap(this.find(name));
    const byName = this.records.name(row.name) !== null && parseReference(name).map(formatReference).unwrapOr("") === row.name;
    const going = byName ? [row] : this.records.names().filter((other) => other.digest === row.digest || other.name === row.name);
    const names = new Set(going.map((one) => one.name));
    for (const digest of new Set([...going, row].flatMap((one) => [one.digest, one.previous]).filter((digest) => digest !== ""))) {
      const stays = this.records.names().some((other) => !names.has(other.name) && (other.digest === digest || other.previous === digest));
      const user = stays ? null : this.options.userOf(digest);
      if (user !== null) throw new DormouseError("image.in_use", `Cannot remove ${row.name}: ${user} uses it, and must be deleted first`, { details: { digest } });
    }
    for (const gone of names) this.records.deleteName(gone);
    const jobs = [...names].flatMap((gone) => this.jobs.get(gone) ?? []);
    for (const job of jobs) job.cancel(new DormouseError("image.not_found", `The image ${row.name} was removed while it was being pulled`));
    await Promise.all(jobs.map((job) => job.done));
    this.sweep();
  }

  tag(name: string, target: string): Res<ImageRecord> {
    return this.find(name).andThen((row) => parseReference(target).andThen((ref): Res<ImageRecord> => {
      const to = formatReference(ref);
      if (ref.digest !== null) return fail("request.bad", `Cannot tag ${row.name} as ${target}: a tag can't be a digest`);
      if (row.status !== "ready") return fail("image.not_ready", `Cannot tag ${row.name}: it is ${row.status}`);
      if (this.jobs.has(to)) return fail("conflict", `Cannot tag ${row.name} as ${to}: that name is being pulled`);
      const tagged: NameRow = { ...row, name: to, createdAt: Date.now(), error: null, private: false, previous: "" };
      this.records.putName(tagged);
      this.sweep();
      return ok(this.view(tagged));
    }));
  }

  settled(name: string, onChange?: (record: ImageRecord) => void): AsyncRes<ImageRecord> {
    return ResultAsync.fromPromise(this.waitFor(name, onChange), (error) => wrap("internal", `Cannot wait for ${name}`, error));
  }

  private async waitFor(name: string, onChange: ((record: ImageRecord) => void) | undefined): Promise<ImageRecord> {
    const row = unwrap(this.find(name));
    const job = this.jobs.get(row.name);
    const watcher = (): void => {
      const now = this.records.name(row.name);
      if (now !== null) onChange?.(this.view(now));
    };
    job?.watchers.add(watcher);
    await job?.done;
    job?.watchers.delete(watcher);
    if (this.closing.signal.aborted) throw this.closing.signal.reason;
    return unwrap(this.get(row.name));
  }

  usage(): { blobBytes: number; rootfsBytes: number; images: number } {
    const contents = this.records.contents();
    const sum = (sizes: readonly number[]): number => sizes.reduce((total, size) => total + size, 0);
    return { blobBytes: sum(blobFiles(this.files).map((blob) => blob.size)), rootfsBytes: sum(contents.map((content) => content.sizeBytes)), images: contents.length };
  }

  private sweep(): void {
    if (this.closing.signal.aborted) return;
    sweep({ records: this.records, files: this.files, contents: this.contents, limits: this.limits, userOf: this.options.userOf, busy: this.jobs.size > 0 });
  }

  async close(): Promise<void> {
    const reason = new DormouseError("image.not_ready", "The daemon is stopping; the pull goes on when it is back");
    this.closing.abort(reason);
    const jobs = [...this.jobs.values()];
    for (const job of jobs) job.cancel(reason);
    await Promise.all(jobs.map((job) => job.done));
  }
}

/** Inside of this class errors are thrown; its methods turn them into Results again. */
function unwrap<T>(result: Res<T>): T {
  if (result.isErr()) throw result.error;
  return result.value;
}
