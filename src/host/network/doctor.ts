// What else on this host keeps guests from the network: other makers' rules and settings. Only looks, never changes.
import { readFileSync } from "node:fs";
import { NF } from "../../ffi/abi/netfilter.ts";
import { NFT } from "../../ffi/abi/nf_tables.ts";
import { attributes, readBe32 } from "../../ffi/netlink/message.ts";
import { NftSocket, type ChainInfo, type RuleInfo } from "../../ffi/netlink/nftables.ts";
import { err, ok } from "neverthrow";
import { wrap, type Res } from "../../errors.ts";
import { TAP_PREFIX } from "./address.ts";
import { TABLE } from "./ruleset.ts";
import { readSysctl, sysctlInterfaces } from "./sysctl.ts";

export interface ForwardingFinding {
  readonly ok: boolean;
  /** One sentence. */
  readonly what: string;
  /** What to do about it; only where not ok. */
  readonly fix?: string;
}

/** One finding for each thing that drops guests' packets, or a single good one. Needs root. */
export function doctorForwarding(): Res<ForwardingFinding[]> {
  try {
    const found = [...foreignChains(), ...legacyTables(), ...settings()];
    return ok(found.length > 0 ? found : [{ ok: true, what: "no foreign rule drops forwarded packets" }]);
  } catch (error) {
    return err(wrap("host.network", "Cannot read the host's packet filter", error));
  }
}

function foreignChains(): ForwardingFinding[] {
  const nft = new NftSocket();
  try {
    const chains = nft.chains();
    const suspects = chains.filter((c) => c.hook === NF.NF_INET_FORWARD && c.type === "filter" && seesIpv4(c) && !isOurs(c));
    return suspects.flatMap((chain) => {
      const why = chain.policy === NF.NF_DROP ? "drops what no rule accepts (policy drop)" : nft.rules(chain).some(dropsAll) ? "ends with a rule that drops the rest" : null;
      if (why === null) return [];
      // An exception for our links is somewhere in the same table: in this chain or in one that it jumps to (Docker's DOCKER-USER).
      const excepted = chains.filter((c) => c.table === chain.table && c.family === chain.family).some((c) => nft.rules(c).some(namesOurLinks));
      return excepted ? [] : [{ ok: false, what: `the nftables chain ${nameOf(chain)} ${why}, guests' packets too`, fix: fixFor(chain) }];
    });
  } finally {
    nft.close();
  }
}

const seesIpv4 = (chain: ChainInfo): boolean => chain.family === NF.NFPROTO_IPV4 || chain.family === NF.NFPROTO_INET;
const isOurs = (chain: ChainInfo): boolean => chain.family === NF.NFPROTO_IPV4 && chain.table === TABLE;
const nameOf = (chain: ChainInfo): string => `${chain.family === NF.NFPROTO_INET ? "inet" : "ip"} ${chain.table} ${chain.name}`;

/** The names that iptables gives its table and chains; they want to be changed by iptables. */
function fixFor(chain: ChainInfo): string {
  if (chain.table === "filter" && chain.name === "FORWARD")
    return `iptables -I FORWARD -i ${TAP_PREFIX}+ -j ACCEPT; iptables -I FORWARD -o ${TAP_PREFIX}+ -j ACCEPT (with Docker: DOCKER-USER instead of FORWARD)`;
  if (chain.table === "firewalld") return `firewall-cmd --permanent --zone=trusted --add-interface='${TAP_PREFIX}+' && firewall-cmd --reload`;
  return `nft insert rule ${nameOf(chain)} iifname "${TAP_PREFIX}*" accept; nft insert rule ${nameOf(chain)} oifname "${TAP_PREFIX}*" accept`;
}

/** No condition in it, and drop or reject at its end. */
function dropsAll(rule: RuleInfo): boolean {
  const decisive = rule.expressions.filter((e) => e.name !== "counter" && e.name !== "log");
  const [only] = decisive;
  if (decisive.length !== 1 || only === undefined) return false;
  return only.name === "reject" || (only.name === "immediate" && verdictOf(only.data) === NF.NF_DROP);
}

/** The verdict that an immediate expression loads; -1 for another value. */
function verdictOf(data: Uint8Array): number {
  const immediate = attributes(attributes(data).get(NFT.NFTA_IMMEDIATE_DATA) ?? new Uint8Array());
  const verdict = immediate.get(NFT.NFTA_DATA_VERDICT);
  return verdict === undefined ? -1 : readBe32(attributes(verdict).get(NFT.NFTA_VERDICT_CODE), -1);
}

const namesOurLinks = (rule: RuleInfo): boolean => rule.expressions.some((e) => e.name === "cmp" && Buffer.from(e.data).includes(TAP_PREFIX));

/** The legacy iptables has a table of its own kind, which netlink does not show. */
function legacyTables(): ForwardingFinding[] {
  let names: string;
  try {
    names = readFileSync("/proc/self/net/ip_tables_names", "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
  if (!names.split("\n").includes("filter")) return [];
  return [{ ok: false, what: "legacy iptables has a filter table, whose rules may drop guests' packets", fix: `look at \`iptables-legacy -S FORWARD\`; where it drops: iptables-legacy -I FORWARD -i ${TAP_PREFIX}+ -j ACCEPT; iptables-legacy -I FORWARD -o ${TAP_PREFIX}+ -j ACCEPT` }];
}

function settings(): ForwardingFinding[] {
  const found: ForwardingFinding[] = [];
  if ((readSysctl("ipv4/conf/all/arp_ignore") ?? "0") !== "0")
    found.push({ ok: false, what: "net.ipv4.conf.all.arp_ignore keeps the host from answering guests that look for their gateway", fix: "sysctl -w net.ipv4.conf.all.arp_ignore=0 (and set it on single interfaces instead)" });
  if (readSysctl("ipv4/ip_forward") === "1") {
    const off = sysctlInterfaces().filter((link) => !["all", "default", "lo"].includes(link) && readSysctl(`ipv4/conf/${link}/forwarding`) === "0");
    for (const link of off) found.push({ ok: false, what: `forwarding is off for ${link}: answers to guests that come in by it are dropped`, fix: `sysctl -w net.ipv4.conf.${link}.forwarding=1` });
  }
  return found;
}
