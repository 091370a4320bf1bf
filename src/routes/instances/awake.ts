// An instance that can be spoken to: before a WebSocket's upgrade, so that the answer can still say why not.
import { DormouseError } from "../../errors.ts";
import type { Instance } from "../../host/instances/service.ts";
import { obstacle } from "../../host/instances/states.ts";
import type { ApiDeps } from "../deps.ts";
import { orThrow } from "../errors.ts";

/** One that sleeps is woken, where its policy lets a request do that; the wake's error is the answer otherwise. `what` follows on "Cannot". */
export async function awake({ instances, live }: ApiDeps, request: Request, ref: string, what: string): Promise<Instance> {
  const found = orThrow(instances.get(ref));
  if (found.state === "Standby") live.keep(request);
  const instance = found.state === "Standby" ? orThrow(await instances.wake(found.id)) : found;
  const { name, state } = instance, wrong = obstacle(instance, "exec");
  if (wrong !== null) throw new DormouseError("instance.invalid_state", `Cannot ${what} instance ${name}: it is ${wrong}`, { details: { state } });
  return instance;
}
