// Test files, a process each, as many at a time as there are lanes.
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";

export const repo = join(import.meta.dir, "../..");
const MINUTE = 60_000;
const LONG = process.env["DORMOUSE_LONG"] === "1" ? 20 : 1;
/**
 * Hang limits, far above what anything takes: a single test (bun's; those that go round and round have their own, by their rounds) and a file (ours).
 */
const LIMITS = { unit: { testMs: 2 * MINUTE, fileMs: 5 * MINUTE }, guest: { testMs: 5 * MINUTE, fileMs: 25 * LONG * MINUTE } };
/** The testbed with all of its files. */
export const TESTBED_LIMIT_MS = 70 * LONG * MINUTE;
export type Kind = keyof typeof LIMITS;

/**
 * How many files at a time. A guest file has the testbed for itself: two at a time take two thirds of the time (14 to 18 minutes for all
 * tests), but beside other work on the machine the longest of them came near its hang limit (1,121 s of 1,500).
 */
const LANES = { unit: 2, guest: 1 };
/**
 * A network of its own for each guest file: a daemon makes what it likes of its host's. (Of control groups each takes those of its instances.)
 */
const APART = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"];

export interface Counts { readonly passed: number; readonly failed: number }
interface Running { readonly file: string; /** What it has said so far. */ readonly output: string }
export interface Progress extends Counts { /** Files, to their end. */ readonly done: number; readonly running: readonly Running[] }

const plus = (one: Counts, other: Counts): Counts => ({ passed: one.passed + other.passed, failed: one.failed + other.failed });
export const total = (counts: readonly Counts[]): Counts => counts.reduce(plus, { passed: 0, failed: 0 });

/** Each lane has a folder of its own in `folder`. `tell` hears of each file's begin and of the end. */
export async function runFiles(files: readonly string[], kind: Kind, folder: string, tell: (progress: Progress) => void = () => {}): Promise<Counts> {
  const waiting = [...files];
  const results: Counts[] = [], running = new Map<string, Running>();
  const changed = (): void => tell({ ...total(results), done: results.length, running: [...running.values()] });
  const lane = async (lane: string): Promise<void> => {
    mkdirSync(lane);
    for (let file; (file = waiting.shift()) !== undefined; ) {
      running.set(lane, { file, output: join(lane, "output") });
      changed();
      results.push(await runFile(file, kind, lane));
      running.delete(lane);
    }
  };
  await Promise.all(Array.from({ length: LANES[kind] }, (_, i) => lane(join(folder, `lane-${i}`))));
  changed();
  return total(results);
}

/** `folder` gets the file's output and bun's report. */
async function runFile(file: string, kind: Kind, folder: string): Promise<Counts> {
  const { testMs, fileMs } = LIMITS[kind];
  const report = join(folder, "junit.xml"), output = join(folder, "output");
  rmSync(report, { force: true });
  const started = performance.now();
  const argv = ["bun", "test", `--timeout=${testMs}`, "--reporter=junit", `--reporter-outfile=${report}`, `./${file}`];
  // One file for both streams, so that what is said stays in order.
  const said = openSync(output, "w");
  const child = Bun.spawn(kind === "guest" ? [...APART, ...argv] : argv, { cwd: repo, stdin: "ignore", stdout: said, stderr: said });
  closeSync(said);
  let hung = false;
  const limit = setTimeout(() => { hung = true; child.kill("SIGKILL"); }, fileMs);
  const status = await child.exited;
  clearTimeout(limit);
  const read = readReport(report);
  const { passed, skipped } = read ?? { passed: 0, skipped: 0 };
  // A file that crashed, hung or found no test is a failure by itself.
  const failed = read?.failed || (status !== 0 || read === null || passed + skipped === 0 ? 1 : 0);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const also = skipped > 0 ? `, ${skipped} skipped` : "";
  console.log(`${failed === 0 ? "ok  " : "FAIL"} ${file}: ${passed} passed, ${failed} failed${also} (${seconds} s)`);
  if (failed > 0) console.log(indented(readFileSync(output, "utf8")) + (hung ? `\n  | killed after ${fileMs / 1000} s` : ""));
  return { passed, failed };
}

/** Sums of the root element of bun's JUnit report; null where there is none. */
function readReport(path: string): (Counts & { readonly skipped: number }) | null {
  const root = existsSync(path) ? /<testsuites\b[^>]*>/.exec(readFileSync(path, "utf8"))?.[0] : undefined;
  if (root === undefined) return null;
  const attribute = (name: string): number => Number(new RegExp(`\\b${name}="(\\d+)"`).exec(root)?.[1] ?? 0);
  const failed = attribute("failures") + attribute("errors"), skipped = attribute("skipped");
  return { passed: attribute("tests") - failed - skipped, failed, skipped };
}

export const indented = (text: string): string => text.trimEnd().replaceAll(/^/gm, "  | ");
