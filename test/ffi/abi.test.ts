// Every table in src/ffi/abi against gcc and the kernel's headers (linux-libc-dev): sizes, offsets, constants, ioctl numbers.
// Tables are found by their shape: layouts of struct(); objects of numbers. The name of an object of numbers says what it holds:
// `SYS` system-call numbers, a lower-case struct's name offsets in that struct, anything else constants by their own names.
import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { command } from "../support/command.ts";
import { repo, TempDir } from "../support/paths.ts";
import type { Layout } from "../../src/ffi/abi/layout.ts";

const folder = join(repo, "src/ffi/abi");
const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;
const isLayout = (value: unknown): value is Layout<string> => isObject(value) && "c" in value && "at" in value;
const isNumbers = (value: unknown): value is Record<string, number | bigint> =>
  isObject(value) && Object.values(value).length > 0 && Object.values(value).every((v) => typeof v === "number" || typeof v === "bigint");

/** The C expression that a table's entry stands for. */
function expression(table: string, name: string): string {
  if (table === "SYS") return `__NR_${name}`;
  if (table !== "ioctls" && /^[a-z]/.test(table)) return `offsetof(struct ${table}, ${name})`;
  return name;
}

interface Expected { readonly headers: Set<string>; readonly values: Map<string, number | bigint> }

function expectations(module: Record<string, unknown>): Expected {
  const headers = new Set<string>(), values = new Map<string, number | bigint>();
  if (typeof module["header"] === "string") headers.add(module["header"]);
  for (const [table, value] of Object.entries(module)) {
    if (isLayout(value)) {
      headers.add(value.header);
      values.set(`sizeof(${value.c})`, value.size);
      for (const [field, offset] of Object.entries(value.at)) values.set(`offsetof(${value.c}, ${field})`, offset);
    } else if (isNumbers(value)) for (const [name, number] of Object.entries(value)) values.set(expression(table, name), number);
  }
  return { headers, values };
}

/** What the kernel's headers use without including it (sockets, _IOC, netlink), and one more half of a pair that a table covers. */
const PREAMBLE = ["stdio.h", "stddef.h", "sys/socket.h", "sys/ioctl.h", "linux/netlink.h", "linux/virtio_config.h"];

/** What the compiler says about each expression, as unsigned 64-bit numbers. */
async function compiled({ headers, values }: Expected): Promise<bigint[]> {
  using dir = new TempDir("abi");
  const includes = [...PREAMBLE, ...headers].map((h) => `#include <${h}>`);
  const prints = [...values.keys()].map((e) => `printf("%llu\\n", (unsigned long long)(${e}));`);
  await Bun.write(dir.join("abi.c"), [...includes, "int main(void) {", ...prints, "return 0; }"].join("\n"));
  await command(["gcc", "-D_GNU_SOURCE", "-o", dir.join("abi"), dir.join("abi.c")]);
  return (await command([dir.join("abi")])).trim().split("\n").map(BigInt);
}

for (const file of readdirSync(folder).filter((name) => name.endsWith(".ts") && name !== "layout.ts").sort()) {
  const module: Record<string, unknown> = await import(join(folder, file));
  const expected = expectations(module);
  test(`${file} agrees with ${[...expected.headers].join(", ")}`, async () => {
    expect(expected.values.size).toBeGreaterThan(0);
    const found = await compiled(expected);
    const differing = [...expected.values].flatMap(([name, ours], i) => {
      // An `int` of ours may be an `unsigned` of theirs: 32 bits count, unless ours has more.
      const bits = ours >= -(2 ** 31) && ours < 2 ** 32 ? 32 : 64;
      const theirs = BigInt.asUintN(bits, found[i]!);
      return BigInt.asUintN(bits, BigInt(ours)) === theirs ? [] : [`${name}: ${ours} here, ${theirs} in the header`];
    });
    expect(differing).toEqual([]);
  });
}
