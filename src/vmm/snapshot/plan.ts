// What of guest memory a new generation says and writes: from the pages that are the process's own and the chain that it runs over.
import { chainOf, coalesce, dataRuns, fit, MAX_MAPPINGS, overlay, within, type ChainExtent, type Content, type Extent } from "../../machine-state/extents.ts";

/** Generations that memory is mapped from, newest first; their ids, and where each page is. */
export interface Chain { readonly ids: readonly string[]; readonly extents: readonly ChainExtent[] }

export const NO_CHAIN: Chain = { ids: [], extents: [] };
export const chainFrom = (ids: readonly string[], maps: readonly (readonly Extent[])[]): Chain => ({ ids, extents: chainOf(maps) });

/** The page map of a delta over the chain that memory is mapped from. Zeroes over nothing need no word. */
export function planDelta(own: readonly Extent[], chain: Chain, ramPages: number): Extent[] {
  const zero = within(own.filter(({ content }) => content === "zero"), dataRuns(chain.extents));
  const data = own.filter(({ content }) => content === "data");
  return fit(overlay<Content>(data, zero), chain.extents, ramPages);
}

/** The page map of a generation over nothing: all that memory holds, wherever it is mapped from. */
export function planWhole(own: readonly Extent[], chain: Chain): Extent[] {
  const older = dataRuns(chain.extents).map(({ page, pages }): Extent => ({ page, pages, content: "data" }));
  const all = overlay<Content>(own, older).filter(({ content }) => content === "data");
  return coalesce(joined(all), MAX_MAPPINGS);
}

/** Neighbours of several files as one run. */
const joined = (extents: readonly Extent[]): Extent[] => overlay<Content>(extents, []);

export const pagesOf = (extents: readonly Extent[], content: Content): number =>
  extents.reduce((sum, extent) => sum + (extent.content === content ? extent.pages : 0), 0);
