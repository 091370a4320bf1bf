// What an exchange is about, and the client that it speaks with.
import type { Answer } from "./answer.ts";
import type { Framing } from "./framing.ts";
import type { RequestHead } from "./head.ts";
import type { Caller } from "./headers.ts";

/** The client's side, as an exchange needs it. */
export interface ClientSide {
  /** False: stop until clientDrained(). */
  write(bytes: Uint8Array): boolean;
  pause(): void;
  resume(): void;
  /** So many bytes of the request's body are kept until there is a connection. */
  hold(bytes: number): void;
  /** What came after the request's body: of the next request. */
  keep(bytes: Uint8Array): void;
  /** What was kept: it is for the tunnel. */
  takeKept(): Uint8Array;
  /** The exchange is over; `keepAlive` false: so is the connection. */
  done(keepAlive: boolean): void;
  /** An answer of ours instead of the target's; ends the exchange. */
  answer(answer: Answer, keepAlive: boolean): void;
  /** The target's answer broke off: so does ours. */
  breakOff(): void;
  shutdown(): void;
}

/** What is asked, of whom. */
export interface Ask {
  readonly head: RequestHead;
  /** Origin-form. */
  readonly target: string;
  readonly framing: Framing;
  readonly caller: Caller;
  readonly instanceId: string;
  readonly port: number;
  readonly keepAlive: boolean;
  readonly secret: string | null;
}
