// A netlink socket: synchronous requests, dumps and nfnetlink transactions. The kernel handles a request inside of
// send(2) and has queued the answer when it returns, so nothing here ever waits.
import { E, errnoName } from "../abi/errno.ts";
import { NETLINK, nlmsgerr, nlmsghdr, sockaddr_nl } from "../abi/netlink.ts";
import { SYS } from "../abi/syscalls.ts";
import { closeFd } from "../fd.ts";
import { must, syscall } from "../syscall.ts";
import { align, attributes, decode, encode, readText, viewOf, type Message, type Received } from "./message.ts";

// asm-generic/socket.h, bits/socket.h
const AF_NETLINK = 16, SOCK_RAW = 3, SOCK_CLOEXEC = 0o2000000, SOL_SOCKET = 1, SO_SNDBUFFORCE = 32, SO_RCVBUFFORCE = 33, SOL_NETLINK = 270;
const MSG_DONTWAIT = 0x40, MSG_TRUNC = 0x20;
/** A dump's packets are at most 32 KiB (netlink_dump in the kernel); acknowledgements are far smaller. */
const RECEIVE_SIZE = 64 * 1024;
/** net.core.wmem_default is about this much; a larger transaction needs a larger send buffer. */
const SMALL_SEND = 64 * 1024;
const DUMP_ATTEMPTS = 10;

/** The kernel refused a request; `reason` is its own sentence, where it gave one. */
export class NetlinkError extends Error {
  override readonly name = "NetlinkError";
  constructor(readonly what: string, readonly errno: number, readonly reason: string) {
    super(`${what}: ${errnoName(errno)}${reason === "" ? "" : ` (${reason})`}`);
  }
}

/** Owns one socket of the network namespace that the thread was in when it was opened. */
export class NetlinkSocket {
  readonly fd: number;
  private seq = 1;
  private readonly buffer = new Uint8Array(RECEIVE_SIZE);

  constructor(protocol: number) {
    this.fd = must("Cannot open a netlink socket", SYS.socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    const on = new Int32Array([1]);
    // Without these the kernel repeats the whole request in an error and says no reason.
    for (const option of [NETLINK.NETLINK_CAP_ACK, NETLINK.NETLINK_EXT_ACK])
      must("Cannot set up a netlink socket", SYS.setsockopt, this.fd, SOL_NETLINK, option, on, 4);
    must("Cannot size a netlink socket", SYS.setsockopt, this.fd, SOL_SOCKET, SO_RCVBUFFORCE, new Int32Array([1 << 20]), 4);
  }

  /** One request that the kernel acknowledges; throws NetlinkError where it refuses. */
  request(what: string, m: Message): void {
    this.transact(what, [{ ...m, flags: m.flags | NETLINK.NLM_F_ACK }]);
  }

  /** Like `request`, but errors in `allowed` are fine; false where one of them came. */
  tryRequest(what: string, m: Message, ...allowed: readonly number[]): boolean {
    try {
      this.request(what, m);
      return true;
    } catch (error) {
      if (error instanceof NetlinkError && allowed.includes(error.errno)) return false;
      throw error;
    }
  }

  /** Sends messages in one packet; each with NLM_F_ACK must be answered. The first refusal is thrown. */
  transact(what: string, messages: readonly Message[]): void {
    const first = this.send(what, messages);
    const awaited = new Set(messages.flatMap((m, i) => ((m.flags & NETLINK.NLM_F_ACK) !== 0 ? [first + i] : [])));
    let refusal: NetlinkError | undefined;
    while (awaited.size > 0) {
      const packet = this.receive(what, refusal);
      if (packet === null) break;
      for (const m of decode(packet)) {
        if (m.type !== NETLINK.NLMSG_ERROR || m.seq < first) continue;
        refusal ??= refusalOf(what, m);
        awaited.delete(m.seq);
      }
    }
    if (refusal !== undefined) throw refusal;
  }

  /** The one thing that a request asks for; null where the kernel answers with an error in `allowed`. */
  get(what: string, m: Message, ...allowed: readonly number[]): Received | null {
    const seq = this.send(what, [m]);
    for (;;) {
      for (const answer of decode(this.receive(what) ?? new Uint8Array())) {
        if (answer.seq !== seq) continue;
        if (answer.type !== NETLINK.NLMSG_ERROR) return answer;
        const refusal = refusalOf(what, answer) ?? new NetlinkError(what, E.EPROTO, "answered by an empty error");
        if (allowed.includes(refusal.errno)) return null;
        throw refusal;
      }
    }
  }

  /** All that the kernel lists for a request, asked again where the list changed while it was read. */
  dump(what: string, m: Message): Received[] {
    for (let attempt = 1; ; attempt++) {
      const { found, interrupted } = this.dumpOnce(what, m);
      if (!interrupted || attempt === DUMP_ATTEMPTS) return found;
    }
  }

  close(): void {
    closeFd(this.fd);
  }

  private dumpOnce(what: string, m: Message): { found: Received[]; interrupted: boolean } {
    const seq = this.send(what, [{ ...m, flags: m.flags | NETLINK.NLM_F_DUMP }]);
    const found: Received[] = [];
    let interrupted = false;
    for (;;) {
      for (const answer of decode(this.receive(what) ?? new Uint8Array())) {
        if (answer.seq !== seq) continue;
        interrupted ||= (answer.flags & NETLINK.NLM_F_DUMP_INTR) !== 0;
        if (answer.type === NETLINK.NLMSG_DONE) return { found, interrupted };
        if (answer.type === NETLINK.NLMSG_ERROR) throw refusalOf(what, answer) ?? new NetlinkError(what, E.EPROTO, "a dump was answered by an empty error");
        found.push(answer);
      }
    }
  }

  /** The sequence number of the first message. */
  private send(what: string, messages: readonly Message[]): number {
    const first = this.seq;
    this.seq += messages.length;
    const packet = encode(messages, first);
    if (packet.length > SMALL_SEND)
      must(what, SYS.setsockopt, this.fd, SOL_SOCKET, SO_SNDBUFFORCE, new Int32Array([packet.length + SMALL_SEND]), 4);
    const kernel = new Uint8Array(sockaddr_nl.size);
    viewOf(kernel).setUint16(sockaddr_nl.at.nl_family, AF_NETLINK, true);
    must(what, SYS.sendto, this.fd, packet, packet.length, 0, kernel, kernel.length);
    return first;
  }

  /** A copy of the next packet. With a refusal at hand silence is fine (null): the rest of a transaction is not answered then. */
  private receive(what: string, refusal?: NetlinkError): Uint8Array | null {
    for (;;) {
      const n = syscall(SYS.recvfrom, this.fd, this.buffer, this.buffer.length, MSG_DONTWAIT | MSG_TRUNC, 0, 0);
      if (n === -E.EINTR) continue;
      if (n === -E.EAGAIN && refusal !== undefined) return null;
      if (n < 0) throw new NetlinkError(what, -n, "the kernel sent no answer");
      if (n > this.buffer.length) throw new NetlinkError(what, E.EMSGSIZE, `an answer of ${n} bytes`);
      return this.buffer.slice(0, n);
    }
  }
}

/** What a NLMSG_ERROR says; undefined where it acknowledges. */
function refusalOf(what: string, m: Received): NetlinkError | undefined {
  const view = viewOf(m.body);
  const errno = -view.getInt32(nlmsgerr.at.error, true);
  if (errno === 0) return undefined;
  if ((m.flags & NETLINK.NLM_F_ACK_TLVS) === 0) return new NetlinkError(what, errno, "");
  const echoed = (m.flags & NETLINK.NLM_F_CAPPED) !== 0 ? nlmsghdr.size : align(view.getUint32(nlmsgerr.at.msg, true));
  const reason = readText(attributes(m.body.subarray(nlmsgerr.at.msg + echoed)).get(NETLINK.NLMSGERR_ATTR_MSG));
  return new NetlinkError(what, errno, reason);
}

