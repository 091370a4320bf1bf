import { describe, expect, test } from "bun:test";
import { checkName, formatDuration, formatSize, parseDuration, parseSize, parseSpan, SPAN_MAX_MS } from "../../src/routes/format.ts";

const MiB = 1024 ** 2;
const GiB = 1024 ** 3;

describe("parseSize()", () => {
  test.each([
    ["512MB", 512 * MiB], ["1GB", GiB], ["50G", 50 * GiB], ["2g", 2 * GiB], ["10GiB", 10 * GiB], ["1gb", GiB], ["4096", 4096], ["7B", 7], ["0", 0], ["3 GB", 3 * GiB],
  ])("%s is %d bytes", (text, bytes) => {
    expect(parseSize(text, "size")._unsafeUnwrap()).toBe(bytes);
  });
  test.each(["lots", "", "-1GB", "1.5GB", "1Gb", "512Mb", "GB", "1XB", "9999999P", "1GB2"])("%p is refused", (text) => {
    const { code, details } = parseSize(text, "size")._unsafeUnwrapErr();
    expect({ code, details }).toEqual({ code: "size.invalid", details: { field: "size" } });
  });
});

describe("formatSize()", () => {
  test("uses the largest whole unit, and parses back to the same value", () => {
    expect([0, 1, 512 * MiB, GiB, 1536 * MiB, 1000, 10 * GiB].map(formatSize)).toEqual(["0B", "1B", "512MB", "1GB", "1536MB", "1000B", "10GB"]);
    for (const bytes of [0, 1, 1023, 1024, 3 * MiB, 1536 * MiB, 7 * GiB + 1, 5 * 1024 * GiB]) {
      expect(parseSize(formatSize(bytes), "size")._unsafeUnwrap()).toBe(bytes);
    }
  });
});

describe("parseDuration()", () => {
  test.each([
    ["1h30m", 5_400_000], ["500ms", 500], ["0s", 0], ["0", 0], ["1.5s", 1500], [".5m", 30_000], ["2m", 120_000], ["100us", 0.1], ["+1s", 1000],
  ])("%s is %d ms", (text, ms) => {
    expect(parseDuration(text, "timeout")._unsafeUnwrap()).toBeCloseTo(ms, 9);
  });
  test.each(["", "5", "s", "1d", "-1s", "1h 30m", "abc", "1s2"])("%p is refused", (text) => {
    expect(parseDuration(text, "timeout")._unsafeUnwrapErr().code).toBe("request.bad");
  });
});

describe("parseSpan() and formatDuration()", () => {
  test("whole milliseconds within limits", () => {
    const ms = (text: string, min = 0) => parseSpan(text, "delay", min).match((value) => value, (error) => error.code);
    expect([ms("0s"), ms("1ns"), ms("1.1s"), ms("1h30m"), ms("87600h")]).toEqual([0, 1, 1100, 5_400_000, SPAN_MAX_MS]);
    expect([ms("0s", 1), ms("59.9s", 60_000), ms("87600h1s"), ms("soon")]).toEqual(Array(4).fill("request.bad"));
  });
  test("the shortest form, which parses back to the same value", () => {
    expect([0, 1, 999, 1000, 12_345, 60_000, 5_400_000, 86_400_000, 3_600_001].map(formatDuration)).toEqual(["0s", "1ms", "999ms", "1s", "12.345s", "1m", "1h30m", "24h", "1h0.001s"]);
    for (const ms of [0, 1, 17, 1001, 59_999, 61_001, 3_599_999, 90_061_007, SPAN_MAX_MS]) expect(parseSpan(formatDuration(ms), "delay", 0)._unsafeUnwrap()).toBe(ms);
  });
});

describe("checkName()", () => {
  test.each(["a", "web-1", "0", "a".repeat(63)])("takes %s", (name) => expect(checkName(name)._unsafeUnwrap()).toBe(name));
  test.each(["", "-a", "a-", "Web", "a_b", "a.b", "a".repeat(64), "é"])("refuses %p", (name) => expect(checkName(name)._unsafeUnwrapErr().code).toBe("name.invalid"));
});
