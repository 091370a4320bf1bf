// What bounds a pull: sizes that a registry may claim, patience with it, and how much happens at once.
import { CONVERT_LIMITS, type ConvertLimits } from "./convert.ts";

export interface ImageLimits extends ConvertLimits {
  readonly maxManifestBytes: number;
  readonly maxConfigBytes: number;
  readonly maxLayers: number;
  /** Sum of an image's layers as they are downloaded. */
  readonly maxDownloadBytes: number;
  /** Images pulled at the same time; the rest wait in a queue. */
  readonly pulls: number;
  readonly layersAtOnce: number;
  readonly conversions: number;
  /** Layers are kept for other images up to this sum, oldest out first. */
  readonly layerCacheBytes: number;
  readonly maxRedirects: number;
  /** Attempts without progress before a request is given up, and the first pause between two of them (it doubles). */
  readonly attempts: number;
  readonly retryDelayMs: number;
  /** A server that says nothing for this long has failed the attempt. */
  readonly stallMs: number;
  /** A caller who asks whether a ready image is still the newest waits this long for the registry. */
  readonly lookUpMs: number;
}

export const IMAGE_LIMITS: ImageLimits = {
  ...CONVERT_LIMITS,
  maxManifestBytes: 4 << 20,
  maxConfigBytes: 8 << 20,
  maxLayers: 512,
  maxDownloadBytes: 64 * 2 ** 30,
  pulls: 3,
  layersAtOnce: 3,
  conversions: 1,
  layerCacheBytes: 2 ** 30,
  maxRedirects: 5,
  attempts: 6,
  retryDelayMs: 250,
  stallMs: 60_000,
  lookUpMs: 15_000,
};
