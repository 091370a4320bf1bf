import { expect, test } from "bun:test";
import { Rounds } from "../../src/host/background.ts";
import { ManualClock } from "../support/clock.ts";

test("Rounds: a round that throws is told of, and repeated; stop() ends them", () => {
  const clock = new ManualClock(0), told: unknown[] = [], at: number[] = [];
  let next: () => number | null = () => 10;
  const rounds = new Rounds(clock, 1_000, () => (at.push(clock.now()), next()), (error) => told.push(error));
  rounds.in(5);
  clock.advance(15);
  expect([at, told]).toEqual([[5, 15], []]);
  next = () => { throw "failed"; };
  clock.advance(1_020);
  next = () => null;
  clock.advance(10_000);
  expect([at, told]).toEqual([[5, 15, 25, 1_025, 2_025], ["failed", "failed"]]);
  rounds.now();
  next = () => (rounds.stop(), 1);
  rounds.now();
  rounds.in(1);
  expect([at.length, clock.waiting]).toEqual([7, 0]);
});

test("Rounds: whoever asks for a round replaces the one that was due", () => {
  const clock = new ManualClock(0), at: number[] = [];
  const rounds = new Rounds(clock, 1_000, () => (at.push(clock.now()), at.length < 3 ? 50 : null), () => {});
  rounds.in(100);
  rounds.in(7);
  clock.advance(20);
  rounds.now();
  clock.advance(1_000);
  expect([at, clock.waiting]).toEqual([[7, 20, 70], 0]);
});

test("what has come past all else is logged with its causes, and ends the process", async () => {
  for (const crash of [`setTimeout(() => { throw cause; }, 1)`, `Promise.reject(cause)`]) {
    const script = `
      import { endOnCrash } from ${JSON.stringify(`${import.meta.dir}/../../src/host/background.ts`)};
      import { createLogger } from ${JSON.stringify(`${import.meta.dir}/../../src/log.ts`)};
      endOnCrash(createLogger("error"));
      const cause = new Error("above", { cause: new Error("below") });
      setInterval(() => {}, 1000);
      ${crash};`;
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "ignore", stderr: "pipe" });
    const [said, code] = await Promise.all([child.stderr.text(), child.exited]);
    const { event, cause } = JSON.parse(said) as { event: string; cause: string };
    expect([code, event]).toEqual([70, "serve.crashed"]);
    expect(cause).toMatch(/above[^]* <- [^]*below/);
  }
});
