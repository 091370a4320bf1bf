// Why a saved machine can't be used. Over the control socket the daemon's code for it travels in front of the message.

/**
 * `foreign`: no saved machine at all, or another one than was asked for. `newer`: written by a later version. `truncated`, `corrupted`:
 * damaged. `incompatible`: sound, but this host or these devices can't run it.
 */
export type Fault = "foreign" | "newer" | "truncated" | "corrupted" | "incompatible";

export class MachineStateError extends Error {
  override readonly name = "MachineStateError";
  constructor(readonly reason: Fault, message: string) {
    super(message);
  }
}

/** The code (src/errors.ts) that a caller of the API sees. */
export const codeOf = ({ reason }: MachineStateError): "snapshot.damaged" | "snapshot.incompatible" =>
  reason === "incompatible" || reason === "newer" ? "snapshot.incompatible" : "snapshot.damaged";

/** As the monitor answers it: `snapshot.damaged: Cannot … (truncated)`. */
export const faultMessage = (error: MachineStateError): string => `${codeOf(error)}: ${error.message} (${error.reason})`;
