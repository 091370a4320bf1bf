// What this executable is. build.ts defines the two names; sources that run as they are say "development".

declare const DORMOUSE_VERSION: string | undefined;
declare const DORMOUSE_REVISION: string | undefined;

/** `version` of package.json. */
export const VERSION = typeof DORMOUSE_VERSION === "undefined" ? "development" : DORMOUSE_VERSION;
/** The commit it was built from, with `-dirty` where the tree differed from it. */
export const REVISION = typeof DORMOUSE_REVISION === "undefined" ? "unknown" : DORMOUSE_REVISION;
