// From a resolved manifest to a ready root file system: one flight a digest, its blobs shared with other flights.
import { join } from "node:path";
import { readFileSync } from "node:fs";
import { DormouseError } from "../../errors.ts";
import type { ConvertJob } from "./convert.ts";
import { runConversion } from "./convert-run.ts";
import { blobPath, publish, rootfsPath, sizeOf, type ImageFiles } from "./files.ts";
import type { ImageLimits } from "./limits.ts";
import { parseConfig, type Descriptor, type ParsedConfig } from "./manifest.ts";
import type { Records } from "./records.ts";
import { SharedFlights, Slots } from "./shared.ts";
import { storeBlob, type ImageSource, type Resolved } from "./source.ts";

/** What a flight is at; shared by all names that wait for it. */
export interface Phase { readonly status: "pulling" | "converting"; readonly doneBytes: number; readonly totalBytes: number }

interface State { phase: Phase; readonly watchers: Set<(phase: Phase) => void> }

export class Contents {
  private readonly flights = new SharedFlights<void>();
  private readonly blobs = new SharedFlights<void>();
  private readonly states = new Map<string, State>();
  private readonly conversions: Slots;
  /** Digests of blobs that a flight needs, and how many flights do. */
  private readonly pins = new Map<string, number>();

  constructor(private readonly records: Records, private readonly files: ImageFiles, private readonly limits: ImageLimits) {
    this.conversions = new Slots(limits.conversions);
  }

  isPinned(digest: string): boolean {
    return this.pins.has(digest);
  }

  isReady(digest: string): boolean {
    return this.records.content(digest) !== null && sizeOf(rootfsPath(this.files, digest)) !== null;
  }

  /** Resolves once the digest is ready; `onPhase` is told what goes on, whoever started it. */
  async ensure(source: ImageSource, image: Resolved, signal: AbortSignal, onPhase: (phase: Phase) => void): Promise<void> {
    if (this.isReady(image.digest)) return;
    const state = this.states.get(image.digest) ?? { phase: { status: "pulling", doneBytes: 0, totalBytes: 0 }, watchers: new Set() };
    this.states.set(image.digest, state);
    state.watchers.add(onPhase);
    try {
      onPhase(state.phase);
      await this.flights.join(image.digest, signal, (inner) => this.make(source, image, inner, (phase) => this.tell(state, phase)));
    } finally {
      state.watchers.delete(onPhase);
      if (state.watchers.size === 0) this.states.delete(image.digest);
    }
  }

  private tell(state: State, phase: Phase): void {
    state.phase = phase;
    for (const watcher of state.watchers) watcher(phase);
  }

  private async make(source: ImageSource, image: Resolved, signal: AbortSignal, onPhase: (phase: Phase) => void): Promise<void> {
    const pinned = [image.digest, image.manifest.config.digest, ...image.manifest.layers.map((layer) => layer.digest)];
    for (const digest of pinned) this.pins.set(digest, (this.pins.get(digest) ?? 0) + 1);
    try {
      const config = await this.pull(source, image, signal, onPhase);
      await this.conversions.run(signal, () => this.convert(source, image, config, signal, onPhase));
    } finally {
      for (const digest of pinned) {
        const left = this.pins.get(digest)! - 1;
        if (left > 0) this.pins.set(digest, left);
        else this.pins.delete(digest);
      }
    }
  }

  private async pull(source: ImageSource, image: Resolved, signal: AbortSignal, onPhase: (phase: Phase) => void): Promise<ParsedConfig> {
    const { config, layers } = image.manifest;
    if (config.size > this.limits.maxConfigBytes) throw new DormouseError("image.too_large", `Cannot use ${image.what}: its configuration takes ${config.size} bytes, more than ${this.limits.maxConfigBytes}`);
    await storeBlob(this.files, image.digest, image.manifestBytes);
    await this.blobs.join(config.digest, signal, (inner) => source.bring(config, inner, () => {}));
    const parsed = parseConfig(readFileSync(blobPath(this.files, config.digest)), image.what);
    if (parsed.diffIds.length !== layers.length)
      throw new DormouseError("registry.protocol", `Cannot use ${image.what}: it has ${layers.length} layers, and its configuration names ${parsed.diffIds.length}`);
    await this.pullLayers(source, layers, signal, onPhase);
    return parsed;
  }

  private async pullLayers(source: ImageSource, layers: readonly Descriptor[], signal: AbortSignal, onPhase: (phase: Phase) => void): Promise<void> {
    const unique = [...new Map(layers.map((layer) => [layer.digest, layer])).values()];
    const totalBytes = unique.reduce((sum, layer) => sum + layer.size, 0);
    const done = new Map<string, number>();
    const slots = new Slots(this.limits.layersAtOnce);
    // The first failure calls the other layers off.
    const failed = new AbortController();
    const all = AbortSignal.any([signal, failed.signal]);
    const bring = async (layer: Descriptor): Promise<void> => {
      const onBytes = (bytes: number): void => {
        done.set(layer.digest, bytes);
        onPhase({ status: "pulling", doneBytes: done.values().reduce((sum, one) => sum + one, 0), totalBytes });
      };
      await this.blobs.join(layer.digest, all, (inner) => source.bring(layer, inner, onBytes));
      onBytes(layer.size);
    };
    const attempts = unique.map((layer) => slots.run(all, () => bring(layer)).catch((error: unknown) => {
      failed.abort(error);
      throw error;
    }));
    await Promise.allSettled(attempts);
    await Promise.all(attempts);
  }

  private async convert(source: ImageSource, image: Resolved, config: ParsedConfig, signal: AbortSignal, onPhase: (phase: Phase) => void): Promise<void> {
    const layers = image.manifest.layers.map((layer, index) => ({ path: blobPath(this.files, layer.digest), diffId: config.diffIds[index]! }));
    const totalBytes = layers.reduce((sum, layer) => sum + (sizeOf(layer.path) ?? 0), 0);
    const hex = image.digest.slice(image.digest.indexOf(":") + 1);
    const job: ConvertJob = { layers, output: join(this.files.tmp, `${hex}.erofs`), uuidSeed: hex, label: hex.slice(0, 12), limits: this.limits };
    onPhase({ status: "converting", doneBytes: 0, totalBytes });
    const result = await runConversion(job, this.files.trash, signal, (doneBytes) => onPhase({ status: "converting", doneBytes, totalBytes }));
    await publish(job.output, rootfsPath(this.files, image.digest));
    this.records.putContent({
      digest: image.digest, configDigest: image.manifest.config.digest, repository: source.repository, platform: config.platform,
      config: config.config, layers: image.manifest.layers.map((layer) => layer.digest), sizeBytes: result.sizeBytes, createdAt: Date.now(),
    });
  }
}
