// Runs the tests, a process a file, and ends with the line `N passed, N failed`; started by scripts/test.
//   test.ts [PATTERN…]              those whose path has one of the patterns in it; all without a pattern
//   test.ts --guest-only --report FILE [PATTERN…]   those that need KVM, here; the counts go to FILE
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync, existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { parseArgs } from "node:util";
import { probeKvm } from "../../src/host/doctor/probe.ts";

const repo = join(import.meta.dir, "../..");
/** Hang limits, far above what anything takes: a single test (bun's) and a file (ours). */
const LIMITS = { unit: { testMs: 120_000, fileMs: 600_000 }, guest: { testMs: 600_000, fileMs: 1_800_000 } };
type Kind = keyof typeof LIMITS;

export interface Counts { passed: number; failed: number }

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

async function runFile(file: string, kind: Kind, folder: string): Promise<Counts> {
  const { testMs, fileMs } = LIMITS[kind];
  const report = join(folder, "junit.xml");
  rmSync(report, { force: true });
  const started = performance.now();
  const argv = ["bun", "test", `--timeout=${testMs}`, "--reporter=junit", `--reporter-outfile=${report}`, `./${file}`];
  // One pipe for both, so that what is said stays in order.
  const child = Bun.spawn(["sh", "-c", 'exec "$@" 2>&1', "sh", ...argv], { cwd: repo, stdin: "ignore", stdout: "pipe", stderr: "inherit" });
  let hung = false;
  const limit = setTimeout(() => { hung = true; child.kill("SIGKILL"); }, fileMs);
  const [output, status] = await Promise.all([child.stdout.text(), child.exited]);
  clearTimeout(limit);
  const read = readReport(report);
  const counts = read ?? { passed: 0, failed: 0, skipped: 0 };
  // A file that crashed, hung or found no test is a failure by itself.
  if (counts.failed === 0 && (status !== 0 || read === null || counts.passed + counts.skipped === 0)) counts.failed = 1;
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : "";
  console.log(`${counts.failed === 0 ? "ok  " : "FAIL"} ${file}: ${counts.passed} passed, ${counts.failed} failed${skipped} (${seconds} s)`);
  if (counts.failed > 0) console.log(output.trimEnd().replaceAll(/^/gm, "  | ") + (hung ? `\n  | killed after ${fileMs / 1000} s` : ""));
  return counts;
}

async function runFiles(files: readonly string[], kind: Kind): Promise<Counts> {
  const sum = { passed: 0, failed: 0 };
  const folder = mkdtempSync(join(tmpdir(), "dormouse-tests-"));
  try {
    for (const file of files) {
      const { passed, failed } = await runFile(file, kind, folder);
      sum.passed += passed;
      sum.failed += failed;
    }
  } finally {
    rmSync(folder, { recursive: true });
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
  const out = mkdtempSync(join(tmpdir(), "dormouse-report-"));
  const report = join(out, "report.json");
  try {
    const status = await outer(["scripts/testbed", "--out", out, "--", "bun", "scripts/lib/test.ts", "--guest-only", "--report", report, ...patterns]);
    if (existsSync(report)) return JSON.parse(readFileSync(report, "utf8")) as Counts;
    console.log(`FAIL test/guest: the testbed ended with status ${status} and no report`);
    return { passed: 0, failed: files.length };
  } finally {
    rmSync(out, { recursive: true });
  }
}

const files = testFiles("test").filter(wanted);
const guestFiles = files.filter(isGuest);
const counts = { passed: 0, failed: 0 };
const add = ({ passed, failed }: Counts): void => { counts.passed += passed; counts.failed += failed; };
if (options["guest-only"]) add(await runFiles(guestFiles, "guest"));
else {
  add(await runFiles(files.filter((file) => !isGuest(file)), "unit"));
  add(await runGuestTests(guestFiles));
}
if (options.report !== undefined) writeFileSync(options.report, JSON.stringify(counts));
else console.log(`${counts.passed} passed, ${counts.failed} failed`);
process.exitCode = counts.failed > 0 || counts.passed === 0 ? 1 : 0;
