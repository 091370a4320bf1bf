// nf_tables over nfnetlink: tables, chains, sets, elements and rules as messages, and the transactions that carry them.
import { NF } from "../abi/netfilter.ts";
import { NETLINK } from "../abi/netlink.ts";
import { NFT } from "../abi/nf_tables.ts";
import { nfgenmsg, NFNL } from "../abi/nfnetlink.ts";
import { attr, attributeList, attributes, be32, message, nest, readBe32, readText, text, viewOf, type Message, type Received } from "./message.ts";
import type { Expression } from "./expressions.ts";
import { NetlinkSocket } from "./socket.ts";

const CREATE = NETLINK.NLM_F_CREATE | NETLINK.NLM_F_ACK;
/** An attribute holds 64 KiB; this many of our largest elements (68 bytes) stay well under it. */
const ELEMENTS_A_MESSAGE = 500;

/** Header of every nfnetlink message. */
export function nfHeader(family: number, resource = 0): Uint8Array {
  const header = new Uint8Array(nfgenmsg.size);
  header[nfgenmsg.at.nfgen_family] = family;
  header[nfgenmsg.at.version] = NFNL.NFNETLINK_V0;
  viewOf(header).setUint16(nfgenmsg.at.res_id, resource);
  return header;
}

const nft = (type: number, flags: number, family: number, ...parts: readonly Uint8Array[]): Message =>
  message((NFNL.NFNL_SUBSYS_NFTABLES << 8) | type, flags, nfHeader(family), ...parts);

export interface BaseChain { readonly type: "filter" | "nat"; readonly hook: number; readonly priority: number }
export interface SetShape { readonly keyType: number; readonly keyLength: number; readonly dataType?: number; readonly dataLength?: number }
export interface Element { readonly key: Uint8Array; readonly data?: Uint8Array }

/** Messages about one IPv4 table by name. */
export class TableMessages {
  private nextSetId = 1;
  constructor(readonly table: string) {}

  /** Makes the table unless it is there. */
  add(): Message { return nft(NFT.NFT_MSG_NEWTABLE, CREATE, NF.NFPROTO_IPV4, attr(NFT.NFTA_TABLE_NAME, text(this.table)), attr(NFT.NFTA_TABLE_FLAGS, be32(0))); }

  /** Deletes the table with all that is in it; refused with ENOENT where it is not there. */
  delete(): Message { return nft(NFT.NFT_MSG_DELTABLE, NETLINK.NLM_F_ACK, NF.NFPROTO_IPV4, attr(NFT.NFTA_TABLE_NAME, text(this.table))); }

  /** A base chain with policy accept. */
  chain(name: string, base: BaseChain): Message {
    return nft(NFT.NFT_MSG_NEWCHAIN, CREATE, NF.NFPROTO_IPV4,
      attr(NFT.NFTA_CHAIN_TABLE, text(this.table)), attr(NFT.NFTA_CHAIN_NAME, text(name)),
      nest(NFT.NFTA_CHAIN_HOOK, attr(NFT.NFTA_HOOK_HOOKNUM, be32(base.hook)), attr(NFT.NFTA_HOOK_PRIORITY, be32(base.priority >>> 0))),
      attr(NFT.NFTA_CHAIN_POLICY, be32(NF.NF_ACCEPT)), attr(NFT.NFTA_CHAIN_TYPE, text(base.type)));
  }

  /** A set, or a map where `shape` has data. The types only tell `nft list` how to print. */
  set(name: string, shape: SetShape): Message {
    const map = shape.dataLength === undefined ? [] : [attr(NFT.NFTA_SET_DATA_TYPE, be32(shape.dataType ?? 0)), attr(NFT.NFTA_SET_DATA_LEN, be32(shape.dataLength))];
    return nft(NFT.NFT_MSG_NEWSET, CREATE, NF.NFPROTO_IPV4,
      attr(NFT.NFTA_SET_TABLE, text(this.table)), attr(NFT.NFTA_SET_NAME, text(name)),
      attr(NFT.NFTA_SET_FLAGS, be32(map.length > 0 ? NFT.NFT_SET_MAP : 0)),
      attr(NFT.NFTA_SET_KEY_TYPE, be32(shape.keyType)), attr(NFT.NFTA_SET_KEY_LEN, be32(shape.keyLength)), ...map,
      attr(NFT.NFTA_SET_ID, be32(this.nextSetId++)));
  }

  /** Adds elements; those that are there already are fine where their data is the same (EEXIST otherwise). */
  addElements(set: string, elements: readonly Element[]): Message[] { return this.elements(NFT.NFT_MSG_NEWSETELEM, CREATE, set, elements); }

  /** Removes elements; refused with ENOENT where one is missing. */
  deleteElements(set: string, elements: readonly Element[]): Message[] { return this.elements(NFT.NFT_MSG_DELSETELEM, NETLINK.NLM_F_ACK, set, elements); }

  /** Appends a rule; `comment` is what `nft list` shows behind it. */
  rule(chain: string, comment: string, ...expressions: readonly Expression[]): Message {
    return nft(NFT.NFT_MSG_NEWRULE, CREATE | NETLINK.NLM_F_APPEND, NF.NFPROTO_IPV4,
      attr(NFT.NFTA_RULE_TABLE, text(this.table)), attr(NFT.NFTA_RULE_CHAIN, text(chain)),
      nest(NFT.NFTA_RULE_EXPRESSIONS, ...expressions.map((e) => nest(NFT.NFTA_LIST_ELEM, attr(NFT.NFTA_EXPR_NAME, text(e.name)), nest(NFT.NFTA_EXPR_DATA, ...e.data)))),
      attr(NFT.NFTA_RULE_USERDATA, commentData(comment)));
  }

  private elements(type: number, flags: number, set: string, elements: readonly Element[]): Message[] {
    const messages: Message[] = [];
    for (let i = 0; i < elements.length; i += ELEMENTS_A_MESSAGE) {
      const list = elements.slice(i, i + ELEMENTS_A_MESSAGE).map((e) =>
        nest(NFT.NFTA_LIST_ELEM, nest(NFT.NFTA_SET_ELEM_KEY, attr(NFT.NFTA_DATA_VALUE, e.key)),
          ...(e.data === undefined ? [] : [nest(NFT.NFTA_SET_ELEM_DATA, attr(NFT.NFTA_DATA_VALUE, e.data))])));
      messages.push(nft(type, flags, NF.NFPROTO_IPV4, attr(NFT.NFTA_SET_ELEM_LIST_TABLE, text(this.table)),
        attr(NFT.NFTA_SET_ELEM_LIST_SET, text(set)), nest(NFT.NFTA_SET_ELEM_LIST_ELEMENTS, ...list)));
    }
    return messages;
  }
}

/** User data as the nft tool keeps a rule's comment (libnftnl/udata.h): type 0, length with its NUL, the text. */
function commentData(comment: string): Uint8Array {
  const bytes = text(comment);
  return Buffer.concat([new Uint8Array([0, bytes.length]), bytes]);
}

export interface ChainInfo {
  readonly family: number;
  readonly table: string;
  readonly name: string;
  /** Undefined for a chain without a hook. */
  readonly hook: number | undefined;
  readonly priority: number;
  /** NF_ACCEPT or NF_DROP. */
  readonly policy: number;
  readonly type: string;
}
export interface RuleInfo { readonly expressions: readonly { readonly name: string; readonly data: Uint8Array }[] }

/** Owns one nfnetlink socket for nf_tables. Methods throw NetlinkError where the kernel refuses. */
export class NftSocket {
  private readonly socket = new NetlinkSocket(NETLINK.NETLINK_NETFILTER);

  /** All of the messages or none of them. */
  commit(what: string, messages: readonly Message[]): void {
    if (messages.length === 0) return;
    const edge = (type: number) => message(type, 0, nfHeader(NF.NFPROTO_UNSPEC, NFNL.NFNL_SUBSYS_NFTABLES));
    this.socket.transact(what, [edge(NFNL.NFNL_MSG_BATCH_BEGIN), ...messages, edge(NFNL.NFNL_MSG_BATCH_END)]);
  }

  /** Names of the IPv4 tables. */
  tables(): string[] {
    return this.dump("Cannot list nftables tables", NFT.NFT_MSG_GETTABLE, NF.NFPROTO_IPV4).map((m) => readText(attributesOf(m).get(NFT.NFTA_TABLE_NAME)));
  }

  /** Chains of all families. */
  chains(): ChainInfo[] {
    return this.dump("Cannot list nftables chains", NFT.NFT_MSG_GETCHAIN, NF.NFPROTO_UNSPEC).map(chainOf);
  }

  rules(chain: ChainInfo): RuleInfo[] {
    const parts = [attr(NFT.NFTA_RULE_TABLE, text(chain.table)), attr(NFT.NFTA_RULE_CHAIN, text(chain.name))];
    return this.dump("Cannot list nftables rules", NFT.NFT_MSG_GETRULE, chain.family, ...parts)
      .map(attributesOf)
      // Kernels before 4.7 ignore the filter, so it is asked again here.
      .filter((found) => readText(found.get(NFT.NFTA_RULE_TABLE)) === chain.table && readText(found.get(NFT.NFTA_RULE_CHAIN)) === chain.name)
      .map(ruleOf);
  }

  /** Keys of a set's elements. */
  elements(table: string, set: string): Uint8Array[] {
    const parts = [attr(NFT.NFTA_SET_ELEM_LIST_TABLE, text(table)), attr(NFT.NFTA_SET_ELEM_LIST_SET, text(set))];
    return this.dump("Cannot list nftables elements", NFT.NFT_MSG_GETSETELEM, NF.NFPROTO_IPV4, ...parts)
      .flatMap((m) => attributeList(attributesOf(m).get(NFT.NFTA_SET_ELEM_LIST_ELEMENTS) ?? new Uint8Array()))
      .map(([, element]) => attributes(attributes(element).get(NFT.NFTA_SET_ELEM_KEY) ?? new Uint8Array()).get(NFT.NFTA_DATA_VALUE) ?? new Uint8Array());
  }

  close(): void {
    this.socket.close();
  }

  private dump(what: string, type: number, family: number, ...parts: readonly Uint8Array[]): Received[] {
    return this.socket.dump(what, nft(type, 0, family, ...parts));
  }
}

const attributesOf = (m: Received): Map<number, Uint8Array> => attributes(m.body.subarray(nfgenmsg.size));

function chainOf(m: Received): ChainInfo {
  const found = attributesOf(m);
  const hook = found.get(NFT.NFTA_CHAIN_HOOK);
  const hooked = attributes(hook ?? new Uint8Array());
  return {
    family: m.body[nfgenmsg.at.nfgen_family] ?? 0,
    table: readText(found.get(NFT.NFTA_CHAIN_TABLE)),
    name: readText(found.get(NFT.NFTA_CHAIN_NAME)),
    hook: hook === undefined ? undefined : readBe32(hooked.get(NFT.NFTA_HOOK_HOOKNUM)),
    priority: readBe32(hooked.get(NFT.NFTA_HOOK_PRIORITY)) | 0,
    policy: readBe32(found.get(NFT.NFTA_CHAIN_POLICY), NF.NF_ACCEPT),
    type: readText(found.get(NFT.NFTA_CHAIN_TYPE)),
  };
}

function ruleOf(found: Map<number, Uint8Array>): RuleInfo {
  const list = attributeList(found.get(NFT.NFTA_RULE_EXPRESSIONS) ?? new Uint8Array());
  return {
    expressions: list.map(([, element]) => {
      const parts = attributes(element);
      return { name: readText(parts.get(NFT.NFTA_EXPR_NAME)), data: parts.get(NFT.NFTA_EXPR_DATA) ?? new Uint8Array() };
    }),
  };
}
