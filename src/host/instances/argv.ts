// Which program an instance runs, by Docker's rules, and how the guest is to be told of it.
import type { ImageConfig } from "../images/service.ts";

type Command = { readonly entrypoint: readonly string[] | null; readonly cmd: readonly string[] | null };

/**
 * Entrypoint then cmd. The instance's own values go before the image's; an entrypoint of its own (also an empty one)
 * drops the image's cmd, as `docker run --entrypoint` does.
 */
export function argvOf(instance: Command, image: Command): string[] {
  const cmd = instance.cmd ?? (instance.entrypoint === null ? image.cmd : null);
  return [...(instance.entrypoint ?? image.entrypoint ?? []), ...(cmd ?? [])];
}

const INITS = ["/sbin/init", "/bin/init", "/usr/sbin/init", "/init"];

/** Programs that expect to be the init of a whole system: they become PID 1 and are stopped their own way. */
export const isSystemInit = (argv: readonly string[]): boolean =>
  argv[0] !== undefined && (INITS.includes(argv[0]) || argv[0] === "systemd" || argv[0].endsWith("/systemd"));

/** The image's environment with the instance's over it, `K=V`, each key once. */
export function envOf(image: ImageConfig, instance: Readonly<Record<string, string>>): string[] {
  const merged = new Map<string, string>();
  for (const entry of image.env) {
    const at = entry.indexOf("=");
    if (at > 0) merged.set(entry.slice(0, at), entry.slice(at + 1));
  }
  for (const [key, value] of Object.entries(instance)) merged.set(key, value);
  return [...merged].map(([key, value]) => `${key}=${value}`);
}
