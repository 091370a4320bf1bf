// The netlink, netfilter and TUN tables against the C compiler and the kernel's headers.
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Layout } from "../../src/ffi/abi/layout.ts";
import * as filter from "../../src/ffi/abi/filter.ts";
import * as iff from "../../src/ffi/abi/if.ts";
import * as ifAddr from "../../src/ffi/abi/if_addr.ts";
import * as ifLink from "../../src/ffi/abi/if_link.ts";
import * as ifTun from "../../src/ffi/abi/if_tun.ts";
import * as neighbour from "../../src/ffi/abi/neighbour.ts";
import * as netfilter from "../../src/ffi/abi/netfilter.ts";
import * as netlink from "../../src/ffi/abi/netlink.ts";
import * as nfTables from "../../src/ffi/abi/nf_tables.ts";
import * as nfnetlink from "../../src/ffi/abi/nfnetlink.ts";
import * as ctCommon from "../../src/ffi/abi/nf_conntrack_common.ts";
import * as ctTcp from "../../src/ffi/abi/nf_conntrack_tcp.ts";
import * as conntrack from "../../src/ffi/abi/nfnetlink_conntrack.ts";
import * as rtnetlink from "../../src/ffi/abi/rtnetlink.ts";
import { CT_STATE } from "../../src/ffi/netlink/expressions.ts";

const modules: readonly Record<string, unknown>[] = [filter, iff, ifAddr, ifLink, ifTun, neighbour, netfilter, netlink, nfTables, nfnetlink, conntrack, ctCommon, ctTcp, rtnetlink];
const isLayout = (value: unknown): value is Layout<string> => typeof value === "object" && value !== null && "c" in value && "at" in value;

/** C expressions and the values that our tables have for them. */
function expectations(): Map<string, number> {
  const all = new Map<string, number>();
  for (const value of modules.flatMap((m) => Object.values(m))) {
    if (isLayout(value)) {
      all.set(`sizeof(${value.c})`, value.size);
      for (const [field, offset] of Object.entries(value.at)) all.set(`offsetof(${value.c}, ${field})`, offset);
    } else if (typeof value === "object" && value !== null) {
      for (const [name, number] of Object.entries(value)) all.set(name, Number(number));
    }
  }
  all.set("NF_CT_STATE_BIT(IP_CT_ESTABLISHED)", CT_STATE.ESTABLISHED);
  all.set("NF_CT_STATE_BIT(IP_CT_RELATED)", CT_STATE.RELATED);
  all.set("NF_CT_STATE_BIT(IP_CT_NEW)", CT_STATE.NEW);
  all.set("NF_CT_STATE_INVALID_BIT", CT_STATE.INVALID);
  return all;
}

test("tables agree with the kernel's headers", async () => {
  const expected = expectations();
  const dir = mkdtempSync(join(tmpdir(), "dormouse-abi-"));
  try {
    const headers = [...new Set([...modules.map((m) => String(m["header"]))])];
    // linux/if.h must come after sys/socket.h, which defines struct sockaddr.
    const source = ["#include <stdio.h>", "#include <stddef.h>", "#include <sys/socket.h>", "#include <sys/ioctl.h>", ...headers.map((h) => `#include <${h}>`), "int main(void) {",
      ...[...expected.keys()].map((e) => `printf("%lld\\n", (long long)(unsigned int)(${e}));`), "}"].join("\n");
    writeFileSync(join(dir, "abi.c"), source);
    const gcc = Bun.spawnSync(["gcc", "-o", join(dir, "abi"), join(dir, "abi.c")], { stderr: "pipe" });
    expect(gcc.stderr.toString()).toBe("");
    const values = Bun.spawnSync([join(dir, "abi")]).stdout.toString().trim().split("\n").map(Number);
    expect(Object.fromEntries([...expected.keys()].map((e, i) => [e, values[i]]))).toEqual(Object.fromEntries(expected));
  } finally {
    rmSync(dir, { recursive: true });
  }
});
