// Disks as files, for tests: written and read block by block, as a monitor with these layers would.
import { closeSync, openSync, readSync, statSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { mapLayout } from "../../../src/block-map.ts";
import { Disks, diskMigrations } from "../../../src/host/disks/disks.ts";
import type { DiskLayer } from "../../../src/host/disks/service.ts";
import { openStore, type Store } from "../../../src/host/store/store.ts";
import { trashIn } from "../../support/trash.ts";

export const BLOCK = 4096, BYTES = 64 * BLOCK;

export async function openDisks(dataDir: string, onStep?: (step: string) => void): Promise<{ disks: Disks; store: Store }> {
  const store = openStore(join(dataDir, "dormouse.db"), diskMigrations)._unsafeUnwrap();
  const disks = (await Disks.open({ db: store.db, dataDir, trash: trashIn(dataDir), ...(onStep === undefined ? {} : { onStep }) }))._unsafeUnwrap();
  return { disks, store };
}

/** An instance's disk as earlier versions made it. */
export function makePlain(path: string, value: number): void {
  writeFileSync(path, "");
  truncateSync(path, BYTES);
  write([{ path, map: null }], 0, value);
}

/** A monitor's descriptors of the newest layer: what it writes goes there, whatever the names do. */
export class Writer {
  private readonly fd: number;
  private readonly mapFd: number;
  constructor({ path, map }: DiskLayer) {
    this.fd = openSync(path, "r+");
    this.mapFd = map === null ? -1 : openSync(map, "r+");
  }
  write(block: number, value: number): void {
    writeSync(this.fd, new Uint8Array(BLOCK).fill(value), 0, BLOCK, block * BLOCK);
    if (this.mapFd >= 0) this.mark(block);
  }
  /** Leaves a hole that is here. Only where nothing was written to this layer yet. */
  mark(block: number): void {
    const { nowAt } = mapLayout(BYTES), byte = new Uint8Array(1), at = nowAt + (block >>> 3);
    readSync(this.mapFd, byte, 0, 1, at);
    byte[0]! |= 1 << (block & 7);
    writeSync(this.mapFd, byte, 0, 1, at);
  }
  close(): void {
    closeSync(this.fd);
    if (this.mapFd >= 0) closeSync(this.mapFd);
  }
}

export function write(files: readonly DiskLayer[], block: number, value: number): void {
  const writer = new Writer(files[0]!);
  writer.write(block, value);
  writer.close();
}

/** The first byte of each block. */
export function content(files: readonly DiskLayer[]): number[] {
  const byte = new Uint8Array(1);
  const at = (path: string, offset: number) => {
    const fd = openSync(path, "r");
    byte[0] = 0;
    readSync(fd, byte, 0, 1, offset);
    closeSync(fd);
    return byte[0]!;
  };
  return Array.from({ length: BYTES / BLOCK }, (_, block) => {
    const holder = files.find(({ map }) => map === null || (at(map, mapLayout(BYTES).nowAt + (block >>> 3)) & (1 << (block & 7))) !== 0);
    return at(holder!.path, block * BLOCK);
  });
}

/** What content() is where these blocks have these values and the rest nothing. */
export const blocks = (values: Record<number, number>): number[] => Array.from({ length: BYTES / BLOCK }, (_, block) => values[block] ?? 0);

export const blocksOf = (path: string): number => statSync(path).blocks * 512;
