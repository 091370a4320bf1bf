import { describe, expect, test } from "bun:test";
import { Api } from "../../src/cli/api.ts";
import { environment, memorySize, portMapping } from "../../src/cli/command.ts";
import { normalize, registryOf } from "../../src/cli/credentials.ts";
import { usageTable } from "../../src/cli/inspect.ts";
import { bytes, left, plain, span, table } from "../../src/cli/output.ts";
import { makeName } from "../../src/cli/run.ts";
import { describePorts, describeState } from "../../src/cli/states.ts";
import { DetachFilter } from "../../src/cli/terminal.ts";
import { parseSize } from "../../src/routes/format.ts";

describe("option values", () => {
  test("memorySize() takes Docker's and the API's spellings, and the API takes what it gives", () => {
    for (const [text, size] of [["512m", 512 * 2 ** 20], ["2g", 2 * 2 ** 30], ["1GB", 2 ** 30], ["512MB", 512 * 2 ** 20]] as const)
      expect(parseSize(memorySize(text), "size")._unsafeUnwrap()).toBe(size);
    for (const text of ["", "lots", "-1g", "1gigabyte", "512"]) expect(() => memorySize(text)).toThrow("such as");
  });

  test("portMapping() reads both sides, protocol, and one port for both", () => {
    expect(portMapping("8080:80")).toEqual([{ host_port: 8080, guest_port: 80, protocol: "tcp" }]);
    expect(portMapping("53:53/udp", portMapping("443"))).toEqual([
      { host_port: 443, guest_port: 443, protocol: "tcp" },
      { host_port: 53, guest_port: 53, protocol: "udp" },
    ]);
    for (const text of ["", "80:", "0:80", "80:65536", "80:80/sctp", "a:b", "1.2.3.4:80:80"]) expect(() => portMapping(text)).toThrow("HOST:GUEST");
  });

  test("environment() takes a bare name from ours, leaves out what isn't set, and keeps later values", () => {
    process.env["DORMOUSE_TEST_VALUE"] = "ours";
    expect(environment(["A=1", "B=x=y", "C=", "DORMOUSE_TEST_VALUE", "DORMOUSE_TEST_UNSET", "A=2"])).toEqual({ A: "2", B: "x=y", C: "", DORMOUSE_TEST_VALUE: "ours" });
    expect(() => environment(["=x"])).toThrow("no name");
  });

  test("makeName() makes a valid name of any reference", () => {
    const valid = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/;
    for (const image of ["nginx", "ghcr.io/a/My_App.x:1.2", "127.0.0.1:5000/x@sha256:abc", "___", `a/${"y".repeat(200)}`]) {
      const name = makeName(image);
      expect(name).toMatch(valid);
      expect(name.length).toBeLessThanOrEqual(63);
    }
    expect(makeName("docker.io/library/nginx:1.27")).toStartWith("nginx-");
  });

  test("registryOf() follows Docker's rule for the first component", () => {
    for (const [reference, registry] of [
      ["nginx", "docker.io"], ["library/nginx:1", "docker.io"], ["index.docker.io/library/nginx", "docker.io"],
      ["ghcr.io/a/b", "ghcr.io"], ["localhost/x", "localhost"], ["127.0.0.1:5000/x", "127.0.0.1:5000"],
    ] as const) expect(registryOf(reference)).toBe(registry);
    expect(normalize("https://index.docker.io/v1/")).toBe("docker.io");
  });
});

describe("what people read", () => {
  test("table() lines up columns and shows control characters instead of obeying them", () => {
    expect(table(["ID", "NAME"], [["1", "a\x1b[31mb"], ["12345", ""]])).toBe("ID     NAME\n1      a\\x1b[31mb\n12345");
    expect(plain("two\nlines")).toBe("two lines");
  });

  test("bytes() and span() choose readable units", () => {
    expect([0, 999, 1000, 1_234_000, 142_300_000, 1_050_000_000, 999_600].map(bytes)).toEqual(["0B", "999B", "1.00KB", "1.23MB", "142MB", "1.05GB", "1.00MB"]);
    expect([0, 1000, 59_999, 60_000, 3_600_000, 86_400_000 * 3, -5].map(span)).toEqual(["less than a second", "1 second", "59 seconds", "1 minute", "1 hour", "3 days", "less than a second"]);
  });

  test("left() counts down to the second", () => {
    const now = Date.parse("2026-01-01T00:00:00Z");
    expect(["2026-01-01T00:04:58.961Z", "2026-01-01T01:00:00Z", "2026-01-02T01:02:03Z", "2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z"].map((time) => left(time, now))).toEqual(["4m59s", "1h", "25h2m3s", "0s", "0s"]);
  });

  test("describeState() tells how long, and how it ended", () => {
    const base = { id: "i", name: "n", image: "x", created_at: "2026-01-01T00:00:00Z" };
    const now = Date.parse("2026-01-01T01:00:00Z");
    expect(describeState({ ...base, state: "Running", started_at: "2026-01-01T00:57:00Z" }, now)).toBe("Up 3 minutes");
    expect(describeState({ ...base, state: "Stopped", exit_code: 137, stopped_at: "2026-01-01T00:00:00Z" }, now)).toBe("Exited (137) 1 hour ago");
    expect(describeState({ ...base, state: "Stopped", exit_code: null, exit_message: "no kernel", stopped_at: null }, now)).toBe("Stopped: no kernel");
    expect(describeState({ ...base, state: "Initializing" }, now)).toBe("Initializing");
    expect(describePorts([{ host_port: 53, guest_port: 5353, protocol: "udp" }])).toBe("53->5353/udp");
  });

  test("usageTable() shows sizes as sizes, counts as counts, and their sum", () => {
    const usage = { images: { count: 2, blob_bytes: 500_000, rootfs_bytes: 1_500_000 }, instances: { count: 3, disk_bytes: 4_000_000 }, snapshots: { count: 0, disk_bytes: 0 }, shared_disk_bytes: 1_000_000, volumes: { count: 1, disk_bytes: 3_000_000 }, saved_memory_bytes: 2_000_000, free_bytes: 10 };
    expect(usageTable(usage).split("\n").map((line) => line.split(/ {2,}/))).toEqual([
      ["WHAT", "COUNT", "SIZE"], ["images", "2", "1.50MB"], ["their layers, as pulled", "500KB"], ["instances' disks and logs", "3", "4.00MB"], ["snapshots' disks", "0", "0B"],
      ["disks shared by these", "1.00MB"], ["volumes", "1", "3.00MB"], ["saved memory", "2.00MB"], ["in all", "12.0MB"], ["free", "10B"],
    ]);
  });
});

describe("DetachFilter", () => {
  const pass = (...chunks: string[]) => {
    const filter = new DetachFilter();
    let sent = "";
    for (const chunk of chunks) {
      const { bytes: through, left } = filter.pass(Buffer.from(chunk));
      sent += Buffer.from(through).toString();
      if (left) return { sent, left };
    }
    return { sent, left: false };
  };
  test("pass() leaves at ctrl-p ctrl-q, also in two chunks", () => {
    expect(pass("ab\x10\x11c")).toEqual({ sent: "ab", left: true });
    expect(pass("ab\x10", "\x11")).toEqual({ sent: "ab", left: true });
  });
  test("pass() loses no key that was meant for the program", () => {
    expect(pass("\x10a\x11")).toEqual({ sent: "\x10a\x11", left: false });
    expect(pass("\x10\x10", "b")).toEqual({ sent: "\x10\x10b", left: false });
  });
});

test("an answer that breaks off is the connection's fault, and not that of somebody who is no daemon", async () => {
  using server = Bun.listen({ port: 0, hostname: "127.0.0.1", socket: { data: (socket) => void socket.end("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n \r\n") } });
  const address = `http://127.0.0.1:${server.port}`;
  expect(await new Api(address).wait("web", "Running").catch((error: unknown) => error)).toMatchObject({ code: "connection", message: `Cannot go on: the daemon at ${address} broke the connection off; its log says more` });
});
