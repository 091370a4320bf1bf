// The table `ip dormouse` in the kernel: made whole, changed by elements, and made anew where somebody else has changed it.
import { E } from "../../ffi/abi/errno.ts";
import type { Message } from "../../ffi/netlink/message.ts";
import { NftSocket, TableMessages } from "../../ffi/netlink/nftables.ts";
import { NetlinkError } from "../../ffi/netlink/socket.ts";
import { DormouseError } from "../../errors.ts";
import { replaceTable, TABLE, type RulesetOptions } from "./ruleset.ts";

/** Owns one nfnetlink socket. */
export class Rules {
  private readonly nft = new NftSocket();

  /** `asRecorded`: what the table should be now. */
  constructor(private readonly asRecorded: () => RulesetOptions, private readonly log: (line: string) => void) {}

  apply(): void {
    try {
      this.nft.commit("Cannot install the nftables table dormouse", replaceTable(this.asRecorded()));
    } catch (error) {
      if (error instanceof NetlinkError && (error.errno === E.ENOENT || error.errno === E.ENOTSUP))
        throw new DormouseError("host.network", `${error.message}: the host's kernel lacks nf_tables with NAT (CONFIG_NF_TABLES_IPV4, NFT_NAT, NFT_MASQ, NFT_CT, NFT_FIB_IPV4, NFT_REJECT_IPV4)`, { cause: error });
      throw error;
    }
  }

  /** A change of elements, which the record has already; where the table or an element is not as it should be (somebody flushed it), all of it is made anew. */
  commit(what: string, messages: readonly Message[]): void {
    try {
      this.nft.commit(what, messages);
    } catch (error) {
      if (!(error instanceof NetlinkError) || (error.errno !== E.ENOENT && error.errno !== E.EEXIST)) throw error;
      this.log("the nftables table dormouse was changed by somebody else; made anew");
      this.apply();
    }
  }

  /** Idempotent. */
  remove(): void {
    if (this.nft.tables().includes(TABLE)) this.nft.commit("Cannot remove the nftables table dormouse", [new TableMessages(TABLE).delete()]);
  }

  close(): void {
    this.nft.close();
  }
}
