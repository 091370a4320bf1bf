// The files that a disk is made of, newest first: each but the oldest has a map of the blocks that it holds. A block is read from the
// newest layer that has it; the oldest has all that is left, and reads as zeroes where nothing was ever written.
import { fileSize } from "../../../ffi/fd.ts";
import { BlockMap } from "./block-map.ts";
import { headOf } from "./head.ts";

/** Descriptors belong to whoever opened them, and stay open as long as the disk. */
export interface Layer { readonly fd: number; readonly map: BlockMap | null }

/** Chains are merged long before this by the daemon; a packet brings no more than 253 descriptors. */
const MAX_LAYERS = 64;

export class Layers {
  private readonly stack: Layer[];
  /** Where locate() found the block. */
  fd = -1;

  /** `name` is for messages; throws where the layers don't fit each other. */
  constructor(name: string, readonly bytes: number, layers: readonly Layer[]) {
    this.stack = [...layers];
    if (layers.length > MAX_LAYERS) throw new Error(`Cannot use ${name}: it has ${layers.length} layers, and at most ${MAX_LAYERS} are possible`);
    for (let i = 0; layers.length > 1 && i < layers.length; i++) {
      const fault = this.misfit(layers[i]!, i < layers.length - 1);
      if (fault !== null) throw new Error(`Cannot use ${i === 0 ? name : `${name}.${i}`}: ${fault}`);
    }
  }

  /** What `boot` or `restore` brought as disk `index` of `count` layers (protocol.ts, DiskConfig); `take` gives descriptors by name. */
  static open(index: number, count: number, take: (name: string) => number): Layers {
    if (!Number.isInteger(count) || count < 1 || count > MAX_LAYERS) throw new Error(`disk${index} must have 1 to ${MAX_LAYERS} layers, not ${count}`);
    const nth = (what: string, i: number) => `${what}${index}${i === 0 ? "" : `.${i}`}`;
    const fds = Array.from({ length: count }, (_, i) => take(nth("disk", i)));
    const bytes = fileSize(fds[0]!);
    return new Layers(`disk${index}`, bytes, fds.map((fd, i) => ({ fd, map: i < count - 1 ? new BlockMap(nth("map", i), take(nth("map", i)), bytes) : null })));
  }

  get top(): Layer { return this.stack[0]!; }
  /** What the disk is known by, where it is one plain file; null otherwise, or where it can't be read. */
  get head(): string | null { return this.depth === 1 ? headOf(this.top.fd) : null; }
  get depth(): number { return this.stack.length; }

  /** Why `layer` can't be pushed, or null. */
  fault(layer: Layer): string | null {
    return this.stack.length >= MAX_LAYERS ? `it has ${MAX_LAYERS} already` : this.misfit(layer, true);
  }

  /** `layer` is what is written to from now on; the rest is only read. */
  push(layer: Layer): void { this.stack.unshift(layer); }

  private misfit(layer: Layer, mapped: boolean): string | null {
    const size = fileSize(layer.fd);
    if (mapped !== (layer.map !== null)) return mapped ? "its block map is missing" : "the oldest layer has no block map";
    return size === this.bytes ? null : `it has ${size} bytes, and the disk ${this.bytes}`;
  }

  /** Sets `fd` to the file that has `block`, and returns how many of the `limit` blocks from there on it has in a row. */
  locate(block: number, limit: number): number {
    const found = this.holder(block);
    this.fd = this.stack[found]!.fd;
    let count = 1;
    while (count < limit && this.holder(block + count) === found) count++;
    return count;
  }

  private holder(block: number): number {
    const last = this.stack.length - 1;
    for (let i = 0; i < last; i++) if (this.stack[i]!.map!.has(block)) return i;
    return last;
  }
}
