// Why a saved machine can't be used. Over the control socket the reason travels in front of the message.

export const FAULTS = ["foreign", "newer", "truncated", "corrupted", "incompatible"] as const;
/**
 * `foreign`: no saved machine at all, or another one than was asked for. `newer`: written by a later version. `truncated`, `corrupted`:
 * damaged. `incompatible`: sound, but this host or these devices can't run it.
 */
export type Fault = (typeof FAULTS)[number];

export class MachineStateError extends Error {
  override readonly name = "MachineStateError";
  constructor(readonly reason: Fault, message: string) {
    super(message);
  }
}

/** As the monitor answers it: `corrupted: Cannot …`. */
export const faultMessage = (error: MachineStateError): string => `${error.reason}: ${error.message}`;

/** The reason and message of such an answer; null where it is another error's. */
export function faultOf(answer: string): { readonly reason: Fault; readonly message: string } | null {
  const reason = FAULTS.find((fault) => answer.startsWith(`${fault}: `));
  return reason === undefined ? null : { reason, message: answer.slice(reason.length + 2) };
}
