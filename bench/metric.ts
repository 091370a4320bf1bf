// What a bench answers with: figures by name, each with its unit and, where there is one, its goal.
export interface Metric { readonly median: number; readonly unit: string; readonly goal: number | null; readonly met: boolean | null; readonly runs: number }
export type Metrics = Record<string, Metric>;

/** What `bun run bench NAME` imports from NAME.ts. */
export interface Bench {
  run(): Promise<Metrics>;
  /** Boots Linux: needs dist/dormouse and a KVM that can; goes to the testbed where there is none. */
  readonly needsKvm?: boolean;
  /** Builds what run() reads from the cache, outside the testbed. */
  prepare?(): Promise<void>;
}

export const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length === 0 ? Number.NaN : sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
};

/** The nearest rank: the largest of few. */
export const percentile = (values: readonly number[], percent: number): number => values.toSorted((a, b) => a - b)[Math.max(0, Math.ceil((values.length * percent) / 100) - 1)] ?? Number.NaN;

/** A figure without a goal. */
export const figure = (values: readonly number[], unit: string, digits = 1): Metric =>
  ({ median: Number(median(values).toFixed(digits)), unit, goal: null, met: null, runs: values.length });

/** A figure that must be at most, or at least, `goal`. */
export function judged(values: readonly number[], unit: string, rule: "at most" | "at least", goal: number, digits = 2): Metric {
  const value = median(values);
  return { median: Number(value.toFixed(digits)), unit, goal, met: rule === "at most" ? value <= goal : value >= goal, runs: values.length };
}

/** Ratio of two medians, against a goal. */
export const ratio = (ours: readonly number[], theirs: readonly number[], rule: "at most" | "at least", goal: number): Metric =>
  ({ ...judged([median(ours) / median(theirs)], "ours/QEMU", rule, goal), runs: ours.length });

/** Progress, for people: on standard error, so that --json stays clean. */
export const say = (text: string): void => void process.stderr.write(`\x1b[2m[bench]\x1b[0m ${text}\n`);
