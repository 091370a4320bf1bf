// What the lifecycle routes answer: the instance as it is after the verb, and success for a repeat that is there already.
import type { Res } from "../../errors.ts";
import type { Instance, InstanceState } from "../../host/instances/service.ts";
import type { TargetState } from "../../host/snapshots/service.ts";
import type { ApiDeps } from "../deps.ts";
import { orThrow } from "../errors.ts";
import { forgiveRepeat } from "../repeat.ts";
import { instanceView } from "./view.ts";

/** The verb's outcome; a repeat is forgiven where the instance is in one of the `reached` states already. */
export function lifecycle({ instances }: ApiDeps, request: Request, ref: string, reached: readonly InstanceState[], result: Res<Instance>): Response {
  const outcome = forgiveRepeat(request, result, () => {
    const now = instances.get(ref);
    return now.isOk() && reached.includes(now.value.state) ? now.value : null;
  });
  return Response.json(instanceView(orThrow(outcome)));
}

/** Of these, a fork has what its source has. */
const INHERITED = ["imageDigest", "memoryBytes", "vcpus", "overlayBytes", "env", "entrypoint", "cmd", "network", "tty", "openStdin", "volumes"] as const satisfies (keyof Instance)[];
const SETTLED: readonly InstanceState[] = ["Running", "Standby", "Stopped"];

interface WantedFork {
  readonly name: string;
  /** Reference of the instance it descends from, directly or by a snapshot. */
  readonly source: string;
  /** Nothing older than what was forked can be the fork. */
  readonly since: number;
  readonly targetState: TargetState | null;
}

/** The outcome of a fork, as 201; a repeat is forgiven where the instance of that name can only be the fork it asks for. */
export function forked({ instances }: ApiDeps, request: Request, result: Res<Instance>, wanted: () => WantedFork | null): Response {
  const outcome = forgiveRepeat(request, result, () => {
    const fork = wanted();
    if (fork === null) return null;
    const there = instances.get(fork.name).unwrapOr(null);
    const source = instances.get(fork.source).unwrapOr(null);
    if (there === null || source === null || there.id === source.id || there.name !== fork.name) return null;
    const descends = there.createdAt >= fork.since && INHERITED.every((field) => Bun.deepEquals(there[field], source[field]));
    const arrived = fork.targetState === null ? SETTLED.includes(there.state) : there.state === fork.targetState;
    return descends && arrived ? there : null;
  });
  return Response.json(instanceView(orThrow(outcome)), { status: 201 });
}
