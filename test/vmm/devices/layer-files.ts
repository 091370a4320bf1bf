// Layers of a disk as files, for tests: sparse files of one size with empty maps, opened as the daemon opens them.
import { closeSync, ftruncateSync, openSync, writeFileSync, writeSync } from "node:fs";
import { mapHeader, mapLayout } from "../../../src/block-map.ts";
import { Layers } from "../../../src/vmm/devices/block/layers.ts";

export interface LayerPaths { readonly path: string; readonly map: string | null }

/** Makes an empty layer; `map: false` for the oldest. */
export function makeLayer(path: string, bytes: number, map: boolean): LayerPaths {
  const size = (at: string, length: number, head: Uint8Array) => {
    writeFileSync(at, "");
    const fd = openSync(at, "r+");
    ftruncateSync(fd, length);
    writeSync(fd, head, 0, head.length, 0);
    closeSync(fd);
  };
  size(path, bytes, new Uint8Array(0));
  if (map) size(`${path}.map`, mapLayout(bytes).fileBytes, mapHeader(bytes));
  return { path, map: map ? `${path}.map` : null };
}

/** Opens a stack, newest first; `close` closes its descriptors. */
export function openLayers(stack: readonly LayerPaths[]): { layers: Layers; close: () => void } {
  const fds: number[] = [];
  const open = (path: string, mode: "r" | "r+") => {
    const fd = openSync(path, mode);
    fds.push(fd);
    return fd;
  };
  const named = new Map<string, () => number>();
  stack.forEach((layer, i) => {
    const suffix = i === 0 ? "" : `.${i}`, mode = i === 0 ? "r+" : "r";
    named.set(`disk0${suffix}`, () => open(layer.path, mode));
    if (layer.map !== null) named.set(`map0${suffix}`, () => open(layer.map!, mode));
  });
  return { layers: Layers.open(0, stack.length, (name) => named.get(name)!()), close: () => fds.splice(0).forEach((fd) => closeSync(fd)) };
}
