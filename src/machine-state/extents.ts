// Page maps of memory generations: sorted, disjoint runs of pages. Pure logic, no memory is touched here.
// A generation says for each page of guest RAM: data (in its file, at the page's own offset), zero, or nothing: as in its
// base, and zero where it has none.

/** Where a run's bytes are. */
export type Content = "data" | "zero";

/** Pages [page, page + pages). */
export interface Extent<C = Content> { readonly page: number; readonly pages: number; readonly content: C }

/** Collects runs in ascending order and joins neighbours of the same content. */
export class ExtentBuilder<C> {
  readonly extents: Extent<C>[] = [];

  /** `page` must not lie before the end of the last run. */
  add(page: number, pages: number, content: C): void {
    if (pages === 0) return;
    const last = this.extents.at(-1);
    if (last !== undefined && page < last.page + last.pages) throw new RangeError("Cannot add an extent before the last one's end");
    if (last !== undefined && last.content === content && last.page + last.pages === page)
      this.extents[this.extents.length - 1] = { page: last.page, pages: last.pages + pages, content };
    else this.extents.push({ page, pages, content });
  }
}

/** A newer map over an older one: where the newer says nothing, the older counts. */
export function overlay<C>(newer: readonly Extent<C>[], older: readonly Extent<C>[]): Extent<C>[] {
  const out = new ExtentBuilder<C>();
  let at = 0; // everything before it is decided
  let i = 0;
  const addOlder = (until: number) => {
    for (; i < older.length; i++) {
      const { page, pages, content } = older[i]!;
      const from = Math.max(page, at), to = Math.min(page + pages, until);
      if (from < to) out.add(from, to - from, content);
      if (page + pages > until) return;
    }
  };
  for (const extent of newer) {
    addOlder(extent.page);
    out.add(extent.page, extent.pages, extent.content);
    at = extent.page + extent.pages;
  }
  addOlder(Number.POSITIVE_INFINITY);
  return out.extents;
}

/**
 * At most `limit` runs of data: the smallest gaps between them become data too (what lies in a gap is then written as it
 * is in memory, which is right for every page). Runs of zero that a gap swallows are gone; the others stay.
 */
export function coalesce(extents: readonly Extent[], limit: number): Extent[] {
  const data = extents.filter((extent) => extent.content === "data");
  if (data.length <= limit) return [...extents];
  const gaps = data.slice(1).map((extent, i) => extent.page - (data[i]!.page + data[i]!.pages));
  const threshold = gaps.toSorted((a, b) => a - b)[data.length - limit - 1]!;
  const joined: Extent[] = [];
  for (const extent of data) {
    const last = joined.at(-1);
    if (last !== undefined && extent.page - (last.page + last.pages) <= threshold)
      joined[joined.length - 1] = { page: last.page, pages: extent.page + extent.pages - last.page, content: "data" };
    else joined.push(extent);
  }
  return overlay(joined, extents.filter((extent) => extent.content === "zero"));
}

/** Those parts of `extents` that lie in one of `mask`; both sorted and disjoint. */
export function within<C>(extents: readonly Extent<C>[], mask: readonly Extent<unknown>[]): Extent<C>[] {
  const out = new ExtentBuilder<C>();
  let i = 0;
  for (const { page, pages, content } of extents) {
    while (i < mask.length && mask[i]!.page + mask[i]!.pages <= page) i++;
    for (let j = i; j < mask.length && mask[j]!.page < page + pages; j++) {
      const from = Math.max(page, mask[j]!.page), to = Math.min(page + pages, mask[j]!.page + mask[j]!.pages);
      out.add(from, to - from, content);
    }
  }
  return out.extents;
}

/** Runs of a chain that a restore maps at most: the kernel's max_map_count is 65,530, and each hole between two runs is a mapping too. */
export const MAX_MAPPINGS = 4096;

/** Where each page of a chain is: the index of the map (newest first) whose file has it, or NOWHERE: it is zero. */
export type ChainExtent = Extent<number>;
export const NOWHERE = -1;

export const chainOf = (maps: readonly (readonly Extent[])[]): ChainExtent[] =>
  maps.map((map, i) => map.map((extent): ChainExtent => ({ ...extent, content: extent.content === "data" ? i : NOWHERE })))
    .reduceRight<ChainExtent[]>((older, newer) => overlay(newer, older), []);

/** A chain's pages as one map. Over nothing (no `base`) pages of zero need no word. */
export function flatten(chain: readonly ChainExtent[], base: string | null): Extent[] {
  const out = new ExtentBuilder<Content>();
  for (const { page, pages, content } of chain) {
    if (content !== NOWHERE) out.add(page, pages, "data");
    else if (base !== null) out.add(page, pages, "zero");
  }
  return out.extents;
}

/** What a restore has to map: the runs of a chain that have data, one a file. */
export const dataRuns = (chain: readonly ChainExtent[]): ChainExtent[] => chain.filter(({ content }) => content !== NOWHERE);

/** `own` as a delta over `older`, with gaps filled and zeroes written out until the whole maps to at most `limit` runs. `ramPages` bounds it. */
export function fit(own: readonly Extent[], older: readonly ChainExtent[], ramPages: number, limit = MAX_MAPPINGS): Extent[] {
  const fits = (delta: readonly Extent[]) => {
    const newest = delta.map((extent): ChainExtent => ({ ...extent, content: extent.content === "data" ? Infinity : NOWHERE }));
    return dataRuns(overlay(newest, older)).length <= limit;
  };
  if (fits(own)) return [...own];
  const written = new ExtentBuilder<Content>();
  for (const { page, pages } of own) written.add(page, pages, "data");
  for (let runs = limit; runs >= 1; runs = Math.floor(runs / 2))
    for (const candidate of [coalesce(own, runs), coalesce(written.extents, runs)]) if (fits(candidate)) return candidate;
  return [{ page: 0, pages: ramPages, content: "data" }];
}

/** Bytes on disk: 12 a run, little endian: u32 page, u32 pages, u32 content (1 data, 2 zero). */
const RECORD = 12, DATA = 1, ZERO = 2;

export function encodeExtents(extents: readonly Extent[]): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(extents.length * RECORD));
  extents.forEach(({ page, pages, content }, i) => {
    view.setUint32(i * RECORD, page, true);
    view.setUint32(i * RECORD + 4, pages, true);
    view.setUint32(i * RECORD + 8, content === "data" ? DATA : ZERO, true);
  });
  return new Uint8Array(view.buffer);
}

/** Null where the bytes are not a map of at most `ramPages` pages: out of order, overlapping, outside, of unknown content. */
export function decodeExtents(bytes: Uint8Array, ramPages: number): Extent[] | null {
  if (bytes.length % RECORD !== 0) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const out: Extent[] = [];
  let end = 0;
  for (let at = 0; at < bytes.length; at += RECORD) {
    const page = view.getUint32(at, true), pages = view.getUint32(at + 4, true), content = view.getUint32(at + 8, true);
    if (page < end || pages === 0 || page + pages > ramPages || (content !== DATA && content !== ZERO)) return null;
    out.push({ page, pages, content: content === DATA ? "data" : "zero" });
    end = page + pages;
  }
  return out;
}
