// What lies between a WebSocket and the guest's session that it carries: frames that came too early, and a client that lags.

type Frame = string | Uint8Array;
interface Session { pause(): void; resume(): void; close(): void }

export class SessionLink<S extends Session> {
  session: S | null = null;
  /** The client takes no more for now; the session is paused, or will be as soon as it is there. */
  private clientFull = false;
  /** Frames that came while the session was being opened; few, as the socket is paused then. */
  private early: Frame[] = [];

  /** A frame of the client's: for `take` at once, or by begin(). */
  came(data: string | Buffer, take: (session: S, frame: Frame) => void): void {
    if (this.session !== null) take(this.session, data);
    else this.early.push(typeof data === "string" ? data : Uint8Array.from(data));
  }

  /** The session is there. Answers with what came before. */
  begin(session: S): readonly Frame[] {
    this.session = session;
    if (this.clientFull) session.pause();
    return this.early.splice(0);
  }

  /** `status` of a send. -1: taken, but the client lags. 0: the connection is gone, and close() follows. */
  sent(status: number): void {
    if (status !== -1 || this.clientFull) return;
    this.clientFull = true;
    this.session?.pause();
  }

  /** The client takes more again. */
  drained(): void {
    if (!this.clientFull) return;
    this.clientFull = false;
    this.session?.resume();
  }

  /** Idempotent. */
  end(): void {
    this.early = [];
    this.session?.close();
  }
}
