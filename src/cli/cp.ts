// cp: files between here and an instance, as docker cp has it.
import { realpathSync } from "node:fs";
import { basename } from "node:path";
import type { Command } from "commander";
import type { Api } from "./api.ts";
import { apiCommand, apiOf, wantsJson } from "./command.ts";
import { copyIn, copyOut } from "./copy-connection.ts";
import { LocalSink } from "./copy-from.ts";
import { sendTree } from "./copy-to.ts";
import { CliError, systemReason, usage } from "./fail.ts";
import { note, plain, printJson } from "./output.ts";
import { TarSink } from "./tar.ts";
import { sendTar } from "./untar.ts";

export interface GuestPath { readonly instance: string; readonly path: string }

interface Done { readonly bytes: number; readonly skipped: readonly string[] }

export function addCopyCommand(program: Command): void {
  apiCommand(program, "cp <source> <destination>", "Copy files: one side is INSTANCE:PATH, the other a path here, or - for a tar stream")
    .option("-L, --follow-link", "copy what SOURCE leads to, where it is a symlink")
    .addHelpText("after", "\nInto a folder that is there, or under the destination's own name. SOURCE/. copies what is in a folder without the folder itself.\nA tar stream that comes in may be compressed (gzip, zstd); its hard links are left out, and named.\nA path here that has a colon in its name is written with ./ before it.")
    .action((source: string, destination: string, flags: { followLink?: boolean }, self: Command) => cp(source, destination, flags.followLink === true, self));
}

/** `INSTANCE:PATH`; null for a path here, which begins with a slash or dot where it has a colon. */
export function guestPath(text: string): GuestPath | null {
  const at = text.indexOf(":");
  if (at < 0 || /^[./]/.test(text)) return null;
  const instance = text.slice(0, at), path = text.slice(at + 1);
  if (instance === "" || path === "") throw usage(`Cannot use ${JSON.stringify(text)}: it is not INSTANCE:PATH, and a path here with a colon in it begins with ./`);
  return { instance, path };
}

/** What the source is called where it goes; null where only what is in it goes there. */
export function nameOf(path: string): string | null {
  if (/(^|\/)\.\.?\/*$/.test(path)) return null;
  return basename(path) || null;
}

async function cp(source: string, destination: string, follow: boolean, self: Command): Promise<void> {
  const from = guestPath(source), to = guestPath(destination);
  if (from !== null && to !== null) throw usage("Cannot copy from one instance to another: copy to here first");
  const skipped: string[] = [];
  const skip = (path: string, why: string) => {
    skipped.push(path);
    note(`dormouse: left out ${plain(path)}: ${plain(why)}`);
  };
  const api = apiOf(self);
  let bytes: number;
  if (from !== null) bytes = await toHere(api, from, destination, follow, skip);
  else if (to !== null) bytes = await toGuest(api, source, to, follow, skip);
  else throw usage("Cannot copy: neither side is INSTANCE:PATH");
  if (wantsJson(self) && destination !== "-") printJson({ bytes, skipped } satisfies Done);
}

type Skip = (path: string, why: string) => void;

async function toHere(api: Api, { instance, path }: GuestPath, destination: string, follow: boolean, skip: Skip): Promise<number> {
  if (destination === "-" && process.stdout.isTTY) throw usage("Cannot write a tar stream to a terminal: redirect it to a file or a program");
  const sink = destination === "-" ? new TarSink(nameOf(path), skip) : new LocalSink({ path: destination, name: nameOf(path) }, skip);
  await copyOut(api, instance, { direction: "from", guest_path: path, follow_source: follow }, sink);
  return sink.bytes;
}

async function toGuest(api: Api, source: string, to: GuestPath, follow: boolean, skip: Skip): Promise<number> {
  if (source === "-") return unpacked(api, to, skip);
  const local = follow ? followed(source) : source;
  const target = await targetOf(api, to, nameOf(source));
  return copyIn(api, to.instance, { direction: "to", guest_path: target }, (sender) => sendTree(local, sender, skip));
}

/** Owners, modes and times are the archive's. */
async function unpacked(api: Api, { instance, path }: GuestPath, skip: Skip): Promise<number> {
  if (process.stdin.isTTY) throw usage("Cannot read a tar stream from a terminal: redirect a file or a program to it");
  const there = await api.stat(instance, path);
  if (there.is_dir !== true) throw new CliError(`Cannot unpack to ${instance}:${path}: ${there.error ?? "there is no such folder; make it first"}`, "copy_failed");
  return copyIn(api, instance, { direction: "to", guest_path: path, make_parents: true }, (sender) => sendTar(Bun.stdin.stream(), sender, skip));
}

/** Into a folder that is there, or the path itself; whether the folders above it are there, the guest says. */
async function targetOf(api: Api, { instance, path }: GuestPath, name: string | null): Promise<string> {
  const there = await api.stat(instance, path);
  if (there.error) throw new CliError(`Cannot copy to ${instance}:${path}: ${there.error}`, "copy_failed");
  if (there.is_dir === true) return name === null ? path : `${path.replace(/\/+$/, "")}/${name}`;
  return path;
}

function followed(path: string): string {
  try {
    return realpathSync(path);
  } catch (cause) {
    throw new CliError(`Cannot read ${path}: ${systemReason(cause)}`, "copy_failed");
  }
}
