// Where what the system-call layer and SQLite throw becomes an error of this domain.
import { err, ResultAsync } from "neverthrow";
import { wrap, type AsyncRes, type Res } from "../../errors.ts";
import { E } from "../../ffi/abi/errno.ts";
import { NetlinkError } from "../../ffi/netlink/socket.ts";

/** Runs what is synchronous underneath; whatever it throws becomes `host.network`. */
export function attempt<T>(what: string, body: () => Res<T>): AsyncRes<T> {
  let result: Res<T>;
  try {
    result = body();
  } catch (error) {
    const hint = error instanceof NetlinkError && error.errno === E.EPERM ? " (root or CAP_NET_ADMIN is needed)" : "";
    result = err(wrap("host.network", what + hint, error));
  }
  return new ResultAsync(Promise.resolve(result));
}
