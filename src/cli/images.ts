// pull, load, images, rmi.
import { resolve } from "node:path";
import type { Command } from "commander";
import type { Image } from "./api.ts";
import { apiCommand, apiOf, show } from "./command.ts";
import { each } from "./each.ts";
import { ago, bytes, shorten, table } from "./output.ts";
import { pullImage, settle } from "./pull.ts";

export function addImageCommands(program: Command): void {
  apiCommand(program, "pull <image>", "Pull an image and make it ready to run")
    .option("-q, --quiet", "print nothing but the digest")
    .action(async (name: string, options: { quiet?: boolean }, command: Command) => {
      const image = await pullImage(apiOf(command), name, options.quiet === true);
      show(command, image, ({ digest }) => digest);
    });

  apiCommand(program, "load <path>", "Make an image of an OCI layout folder or a `docker save` tar on the daemon's host")
    .option("--name <reference>", "record it under this name (default: its own)")
    .option("-q, --quiet", "print nothing but the name")
    .action(async (path: string, options: { name?: string; quiet?: boolean }, command: Command) => {
      const api = apiOf(command);
      const image = await settle(api, await api.load(resolve(path), options.name), options.quiet === true);
      show(command, image, ({ name }) => name);
    });

  apiCommand(program, "images", "List images")
    .option("-q, --quiet", "print names only")
    .action(async (options: { quiet?: boolean }, command: Command) => {
      const images = await apiOf(command).images();
      show(command, images, () => (options.quiet ? images.map(({ name }) => name).join("\n") : imageTable(images)));
    });

  apiCommand(program, "rmi <image...>", "Remove images")
    .action((names: string[], _: unknown, command: Command) => each(names, command, async (api, name) => {
      await api.removeImage(name);
      return name;
    }));
}

const shortDigest = (digest: string): string => digest.replace(/^sha256:/, "").slice(0, 12);

const imageTable = (images: readonly Image[]): string =>
  table(
    ["NAME", "DIGEST", "STATUS", "CREATED", "SIZE"],
    images.map((image) => [
      image.name,
      shortDigest(image.digest),
      image.status === "failed" ? shorten(`failed: ${image.error ?? "unknown"}`) : image.status,
      ago(image.created_at),
      image.size_bytes == null ? "" : bytes(image.size_bytes),
    ]),
  );
