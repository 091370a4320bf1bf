// create: → Created, and on in the background (Created → Initializing → Running, or → Stopped with the reason).
import { closeSync, mkdirSync, openSync, rmSync } from "node:fs";
import { availableParallelism, totalmem } from "node:os";
import { createId } from "../id.ts";
import { err, ok, ResultAsync } from "neverthrow";
import { fail, wrap, type AsyncRes, type Res } from "../../errors.ts";
import { checkImageSize, inMiB } from "../ext4-images.ts";
import { isLabel, LABEL_WORDS } from "../label.ts";
import { logPaths } from "../vmm/files.ts";
import type { Context } from "./context.ts";
import type { CreateInstance, Instance } from "./service.ts";
import { inBackground, startNow } from "./start.ts";

const MIB = 2 ** 20;
/** Our kernel and a small program fit; less ends in the guest's OOM killer before the program starts. */
const MIN_MEMORY = 64 * MIB;
/** The monitor's MP table and MSI routing are laid out for so many. */
const MAX_VCPUS = 16;

export function create(ctx: Context, request: CreateInstance): AsyncRes<Instance> {
  return check(ctx, request)
    .andThen(() => ctx.deps.images.ready(request.image))
    .andThen((image) => ctx.records.insert(createId(), request, image.record.digest))
    .asyncAndThen((instance) => new ResultAsync(prepare(ctx, instance)))
    .map((instance) => {
      inBackground(ctx, instance.id, ctx.lanes.run(instance.id, "start", () => startNow(ctx, instance.id)));
      return instance;
    });
}

/** Folder, empty logs, address and ports: what can fail for a reason that the caller can mend fails before the answer. */
export async function prepare(ctx: Context, instance: Instance): Promise<Res<Instance>> {
  const prepared = await reserve(ctx, instance);
  if (prepared.isOk()) {
    ctx.note(instance.id, `created as ${instance.name} from ${instance.image} (${instance.imageDigest})`);
    return prepared;
  }
  const released = await ctx.deps.network.release(instance.id);
  if (released.isErr()) ctx.deps.logger.warn("instance.release_failed", { instance: instance.id, error: released.error.message });
  rmSync(ctx.dir(instance.id), { recursive: true, force: true });
  ctx.records.delete(instance.id);
  return prepared;
}

async function reserve(ctx: Context, instance: Instance): Promise<Res<Instance>> {
  try {
    makeFolder(ctx.dir(instance.id));
  } catch (error) {
    return err(wrap("host.storage", `Cannot make the folder of instance ${instance.name}`, error));
  }
  if (!instance.network) return ok(instance);
  const lease = ctx.deps.network.allocate(instance.id);
  if (lease.isErr()) return err(lease.error);
  const published = await ctx.deps.network.publish(instance.id, instance.ports);
  return published.map(() => ctx.records.setAddress(instance.id, lease.value.ip, lease.value.mac));
}

/** With empty logs in it, so that a reader can follow them before the first word. */
function makeFolder(dir: string): void {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  for (const name of ["app", "vmm", "dormouse"] as const) for (const path of logPaths(dir, name)) closeSync(openSync(path, "a", 0o600));
}

export const checkName = (name: string): Res<void> => isLabel(name) ? ok() : fail("name.invalid", `Cannot name an instance ${JSON.stringify(name)}: a name is ${LABEL_WORDS}`);

function check(ctx: Context, request: CreateInstance): Res<void> {
  const host = ctx.deps.host ?? { memoryBytes: totalmem(), vcpus: availableParallelism() };
  const { name, memoryBytes, vcpus, overlayBytes } = request;
  const named = checkName(name);
  if (named.isErr()) return named;
  if (!Number.isSafeInteger(memoryBytes) || memoryBytes < MIN_MEMORY || memoryBytes % MIB !== 0) return fail("size.invalid", `Cannot give instance ${name} ${inMiB(memoryBytes)} of memory: it must be whole MiB, ${MIN_MEMORY / MIB} at least`);
  if (memoryBytes > host.memoryBytes) return fail("resources.insufficient", `Cannot give instance ${name} ${inMiB(memoryBytes)} of memory: this host has ${Math.floor(host.memoryBytes / MIB)} MiB`);
  if (!Number.isInteger(vcpus) || vcpus < 1 || vcpus > MAX_VCPUS) return fail("size.invalid", `Cannot give instance ${name} ${vcpus} CPUs: it must be 1 to ${MAX_VCPUS}`);
  if (vcpus > host.vcpus) return fail("resources.insufficient", `Cannot give instance ${name} ${vcpus} CPUs: this host has ${host.vcpus}`);
  const sized = checkImageSize(`instance ${name} a writable disk of`, overlayBytes);
  if (sized.isErr()) return sized;
  if (request.ports.length > 0 && !request.network) return fail("request.bad", `Cannot publish ports of instance ${name}: it has no network`);
  return checkCommand(request);
}

/** An argument and a variable are C strings in the guest, and a key ends at its first `=`. */
function checkCommand({ name, entrypoint, cmd, env }: CreateInstance): Res<void> {
  const words = [...(entrypoint ?? []), ...(cmd ?? []), ...Object.keys(env), ...Object.values(env)];
  if (words.some((word) => word.includes("\0"))) return fail("request.bad", `Cannot run instance ${name}: an argument or a variable holds a NUL byte`);
  const badKey = Object.keys(env).find((key) => key === "" || key.includes("="));
  return badKey === undefined ? ok() : fail("request.bad", `Cannot run instance ${name}: ${JSON.stringify(badKey)} is no name of a variable`);
}
