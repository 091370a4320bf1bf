// Runs the tests, a process a file, and ends with the line `N passed, N failed`; started by scripts/test.
//   test.ts [PATTERN…]              those whose path has one of the patterns in it; all without a pattern
//   test.ts --guest-only --report DIR [PATTERN…]   those that need KVM, here; DIR/report.json has the counts so far and the file under way,
//                                                  DIR/output what that file has said
// DORMOUSE_LONG=1: tests that go round and round do so for hours.
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync, existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { probeKvm } from "../../src/host/doctor/probe.ts";

const repo = join(import.meta.dir, "../..");
const MINUTE = 60_000;
const LONG = process.env["DORMOUSE_LONG"] === "1" ? 20 : 1;
/**
 * Hang limits, far above what anything takes: a single test (bun's; those that go round and round have their own, by their rounds), a file (ours),
 * and the testbed with all of its files.
 */
const LIMITS = { unit: { testMs: 2 * MINUTE, fileMs: 5 * MINUTE }, guest: { testMs: 5 * MINUTE, fileMs: 25 * LONG * MINUTE } };
const TESTBED_LIMIT_MS = 70 * LONG * MINUTE;
type Kind = keyof typeof LIMITS;

interface Counts { passed: number; failed: number }
/** What the testbed's run leaves outside, written anew with each file: it also tells of a machine that died. */
interface Report extends Counts { readonly running: string | null }

const { values: options, positionals: patterns } = parseArgs({
  allowPositionals: true, options: { "guest-only": { type: "boolean" }, report: { type: "string" } },
});

const testFiles = (folder: string): string[] =>
  readdirSync(join(repo, folder), { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".test.ts")).map((name) => join(folder, name)).sort();
const wanted = (file: string): boolean => patterns.length === 0 || patterns.some((pattern) => file.includes(pattern));
const isGuest = (file: string): boolean => file.startsWith("test/guest/");

/** Sums of the root element of bun's JUnit report; null where there is none. */
function readReport(path: string): (Counts & { skipped: number }) | null {
  const root = existsSync(path) ? /<testsuites\b[^>]*>/.exec(readFileSync(path, "utf8"))?.[0] : undefined;
  if (root === undefined) return null;
  const attribute = (name: string): number => Number(new RegExp(`\\b${name}="(\\d+)"`).exec(root)?.[1] ?? 0);
  const failed = attribute("failures") + attribute("errors"), skipped = attribute("skipped");
  return { passed: attribute("tests") - failed - skipped, failed, skipped };
}

const indented = (text: string): string => text.trimEnd().replaceAll(/^/gm, "  | ");

/** `folder` gets the file's output and bun's report. */
async function runFile(file: string, kind: Kind, folder: string): Promise<Counts> {
  const { testMs, fileMs } = LIMITS[kind];
  const report = join(folder, "junit.xml"), output = join(folder, "output");
  rmSync(report, { force: true });
  const started = performance.now();
  const argv = ["bun", "test", `--timeout=${testMs}`, "--reporter=junit", `--reporter-outfile=${report}`, `./${file}`];
  // One file for both streams, so that what is said stays in order.
  const said = openSync(output, "w");
  const child = Bun.spawn(argv, { cwd: repo, stdin: "ignore", stdout: said, stderr: said });
  closeSync(said);
  let hung = false;
  const limit = setTimeout(() => { hung = true; child.kill("SIGKILL"); }, fileMs);
  const status = await child.exited;
  clearTimeout(limit);
  const read = readReport(report);
  const counts = read ?? { passed: 0, failed: 0, skipped: 0 };
  // A file that crashed, hung or found no test is a failure by itself.
  if (counts.failed === 0 && (status !== 0 || read === null || counts.passed + counts.skipped === 0)) counts.failed = 1;
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : "";
  console.log(`${counts.failed === 0 ? "ok  " : "FAIL"} ${file}: ${counts.passed} passed, ${counts.failed} failed${skipped} (${seconds} s)`);
  if (counts.failed > 0) console.log(indented(readFileSync(output, "utf8")) + (hung ? `\n  | killed after ${fileMs / 1000} s` : ""));
  return counts;
}

/** `report`: a folder that is seen from outside a testbed, or null. */
async function runFiles(files: readonly string[], kind: Kind, report: string | null = null): Promise<Counts> {
  const sum = { passed: 0, failed: 0 };
  const folder = report ?? mkdtempSync(join(tmpdir(), "dormouse-tests-"));
  const tell = (running: string | null): void => {
    if (report !== null) writeFileSync(join(report, "report.json"), JSON.stringify({ ...sum, running } satisfies Report));
  };
  try {
    for (const file of files) {
      tell(file);
      const { passed, failed } = await runFile(file, kind, folder);
      sum.passed += passed;
      sum.failed += failed;
    }
    tell(null);
  } finally {
    if (report === null) rmSync(folder, { recursive: true });
  }
  return sum;
}

async function outer(argv: readonly string[]): Promise<number> {
  return await Bun.spawn([...argv], { cwd: repo, stdin: "ignore", stdout: "inherit", stderr: "inherit" }).exited;
}

/** What guest tests use, made where there is a network and room: the executable and the images. */
async function prepareGuestTests(): Promise<boolean> {
  return (await outer(["bun", "run", "build"])) === 0 && (await outer(["bun", "scripts/lib/images.ts"])) === 0;
}

async function runGuestTests(files: readonly string[]): Promise<Counts> {
  if (files.length === 0) return { passed: 0, failed: 0 };
  if (!(await prepareGuestTests())) {
    console.log(`FAIL test/guest: what its ${files.length} files need cannot be built`);
    return { passed: 0, failed: files.length };
  }
  const probe = probeKvm();
  if (probe.able) return runFiles(files, "guest");
  console.log(`no usable KVM here (${probe.found}): ${files.length} files run in the testbed`);
  return runInTestbed(files);
}

/** A testbed that dies or hangs has told its console's last lines by itself; here, which file it was with and what that had said. */
async function runInTestbed(files: readonly string[]): Promise<Counts> {
  const out = mkdtempSync(join(tmpdir(), "dormouse-report-"));
  try {
    const limit = String(TESTBED_LIMIT_MS / 1000);
    const status = await outer(["scripts/testbed", "--out", out, "--timeout", limit, "--", "bun", "scripts/lib/test.ts", "--guest-only", "--report", out, ...patterns]);
    const path = join(out, "report.json");
    if (!existsSync(path)) {
      console.log(`FAIL test/guest: the testbed ended with status ${status} before the first file`);
      return { passed: 0, failed: files.length };
    }
    const { passed, failed, running } = JSON.parse(readFileSync(path, "utf8")) as Report;
    if (running === null) return { passed, failed };
    const output = join(out, "output");
    const left = files.length - files.indexOf(running);
    console.log(`FAIL ${running}: the testbed ended with status ${status} in the middle of it; ${left - 1} files did not run`);
    if (existsSync(output)) console.log(indented(readFileSync(output, "utf8")));
    return { passed, failed: failed + left };
  } finally {
    rmSync(out, { recursive: true });
  }
}

const files = testFiles("test").filter(wanted);
const guestFiles = files.filter(isGuest);
const counts = { passed: 0, failed: 0 };
const add = ({ passed, failed }: Counts): void => { counts.passed += passed; counts.failed += failed; };
if (options["guest-only"]) add(await runFiles(guestFiles, "guest", options.report ?? null));
else {
  add(await runFiles(files.filter((file) => !isGuest(file)), "unit"));
  add(await runGuestTests(guestFiles));
}
if (options.report === undefined) console.log(`${counts.passed} passed, ${counts.failed} failed`);
process.exitCode = counts.failed > 0 || counts.passed === 0 ? 1 : 0;
