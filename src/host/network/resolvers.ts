// Which name servers guests are told. A loopback one (systemd-resolved's 127.0.0.53) is the host's alone.
import { readFileSync } from "node:fs";
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import { parseAddress } from "./address.ts";

/** resolv.conf(5), then the servers behind systemd-resolved's stub. */
const FILES = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/** The IPv4 servers of a resolv.conf that a guest can reach; guests have no IPv6. */
export function usableResolvers(text: string): string[] {
  const servers = text.split("\n").map((line) => /^\s*nameserver\s+(\S+)/.exec(line)?.[1] ?? "");
  return [...new Set(servers)].filter((server) => {
    const address = parseAddress(server);
    return address !== null && address >>> 24 !== 127 && address !== 0;
  });
}

/** The host's resolvers, from the first file that has a usable one; none where there is no such. */
export function hostResolvers(files: readonly string[] = FILES): string[] {
  for (const file of files) {
    let text: string;
    try {
      text = readFileSync(file, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") continue;
      throw error;
    }
    const found = usableResolvers(text);
    if (found.length > 0) return found;
  }
  return [];
}

/** Checks what `--dns` was given. */
export function parseResolvers(dns: readonly string[]): Res<string[]> {
  for (const server of dns) {
    const address = parseAddress(server);
    if (address === null) return fail("request.bad", `Cannot use ${JSON.stringify(server)} as a resolver: give an IPv4 address`);
    if (address >>> 24 === 127) return fail("request.bad", `Cannot use ${server} as a resolver: guests cannot reach the host's loopback; use the gateway address`);
  }
  return ok([...dns]);
}
