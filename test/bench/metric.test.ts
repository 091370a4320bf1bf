import { expect, test } from "bun:test";
import { figure, judged, median, percentile, ratio } from "../../bench/metric.ts";
import { repo } from "../support/paths.ts";

test("median() takes the middle, or the mean of the two in the middle", () => {
  expect(median([9, 1, 5])).toBe(5);
  expect(median([4, 1, 3, 2])).toBe(2.5);
  expect(median([])).toBeNaN();
});

test("percentile() takes the nearest rank", () => {
  const values = Array.from({ length: 25 }, (_, i) => i + 1);
  expect([percentile(values, 50), percentile(values, 95), percentile(values, 99), percentile([7], 99)]).toEqual([13, 24, 25, 7]);
  expect(percentile([], 50)).toBeNaN();
});

test("judged() says whether the goal is met, by the figure before rounding", () => {
  expect(judged([12.004], "MiB", "at most", 12)).toEqual({ median: 12, unit: "MiB", goal: 12, met: false, runs: 1 });
  expect(judged([0.996], "ours/QEMU", "at least", 1)).toEqual({ median: 1, unit: "ours/QEMU", goal: 1, met: false, runs: 1 });
  expect(judged([1, 2, 3], "x", "at least", 2)).toEqual({ median: 2, unit: "x", goal: 2, met: true, runs: 3 });
});

test("ratio() compares medians and counts the rounds", () => {
  expect(ratio([90, 80, 400], [100, 100, 100], "at most", 0.9)).toEqual({ median: 0.9, unit: "ours/QEMU", goal: 0.9, met: true, runs: 3 });
});

test("figure() has no goal", () => {
  expect(figure([1.26, 1.26], "ms")).toEqual({ median: 1.3, unit: "ms", goal: null, met: null, runs: 2 });
});

test("a name that is no bench is refused with the list", async () => {
  const child = Bun.spawn([process.execPath, "bench/main.ts", "speed"], { cwd: repo, stdout: "pipe", stderr: "pipe" });
  const [out, error, status] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect({ out, error, status }).toEqual({ out: "", error: "usage: bun run bench NAME [--json]; NAME is one of boot, memory, disk, net, virtqueue, exits, convert, api, wake, wake-scale, restore-native, standby, fork, density\n", status: 2 });
});
