// What all commands share: their options, the client, and how values are read.
import { isIP } from "node:net";
import { Command, InvalidArgumentError } from "commander";
import { Api, DEFAULT_HOST, type PortMapping } from "./api.ts";
import { usage } from "./fail.ts";
import { print, printJson } from "./output.ts";

export interface Common { readonly host?: string; readonly json?: boolean }

/** One command line's own state: there is one a process. */
export const outcome = {
  /** What the process ends with once the command has run; set by `run`, `exec` and `doctor`. */
  status: 0,
  /** The command's name, once it is known. */
  command: "",
  /** What tells how the command is used, once its options are read. */
  help: "",
  /** Errors go out as JSON too. */
  json: false,
};

/** A command that speaks to the daemon: `--host` and `--json` may stand after its name as well as before. */
export function apiCommand(program: Command, nameAndArgs: string, description: string): Command {
  return program
    .command(nameAndArgs)
    .description(description)
    .option("--host <url>", `address of the API (DORMOUSE_HOST; default ${DEFAULT_HOST})`)
    .option("--json", "print JSON, for programs");
}

/** The client that the options and the environment name. */
export function apiOf(command: Command): Api {
  const { host } = command.optsWithGlobals<Common>();
  return new Api(host ?? (process.env["DORMOUSE_HOST"] || DEFAULT_HOST));
}

/** `dormouse snapshot create`. */
export const pathOf = (command: Command): string => [...(command.parent === null ? [] : [pathOf(command.parent)]), command.name()].join(" ");

/** Where the right use of `command` is told. */
export const helpOf = (command: Command): string => `See \`${pathOf(command)} --help\`.`;

export const wantsJson = (command: Command): boolean => command.optsWithGlobals<Common>().json === true;

/** Prints `value` for programs, or what `text` makes of it for people. */
export function show<T>(command: Command, value: T, text: (value: T) => string): void {
  if (wantsJson(command)) return printJson(value);
  const lines = text(value);
  if (lines !== "") print(lines);
}

/** For options that repeat. */
export const collect = (value: string, before: readonly string[] = []): string[] => [...before, value];

/** Of `--tag KEY=VALUE`. */
export function tagsOf(pairs: readonly string[] = []): Record<string, string> {
  return Object.fromEntries(pairs.map((pair) => {
    const at = pair.indexOf("=");
    if (at < 1) throw usage(`Cannot read the tag ${JSON.stringify(pair)}: it must be KEY=VALUE.`);
    return [pair.slice(0, at), pair.slice(at + 1)];
  }));
}

/** An address of this host; names are not looked up. */
export function ipAddress(text: string): string {
  if (isIP(text) === 0) throw new InvalidArgumentError("It must be an IP address, such as 0.0.0.0 or 127.0.0.1.");
  return text;
}

export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max) throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
    return value;
  };
}

/** `512m`, `2g` as Docker writes them, or the API's `512MB`, `2GB`: as the API takes them. */
export function memorySize(text: string): string {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt])i?b?$/i.exec(text);
  if (match === null) throw new InvalidArgumentError("It must be a size such as 512m, 1g or 2GB.");
  return `${match[1]}${match[2]?.toUpperCase()}B`;
}

/** `HOST:GUEST[/tcp|udp]`, or `PORT` for the same on both sides. */
export function portMapping(text: string, before: readonly PortMapping[] = []): PortMapping[] {
  const match = /^(?:(\d+):)?(\d+)(?:\/(tcp|udp))?$/.exec(text);
  const guest = Number(match?.[2]), host = Number(match?.[1] ?? match?.[2]);
  const valid = (port: number) => port >= 1 && port <= 65535;
  if (match === null || !valid(guest) || !valid(host)) throw new InvalidArgumentError("It must be HOST:GUEST or HOST:GUEST/udp, with ports from 1 to 65535.");
  return [...before, { host_port: host, guest_port: guest, protocol: match[3] === "udp" ? "udp" : "tcp" }];
}

/** `-e K=V` and `-e K` (from our own environment, left out where it isn't set there, as Docker does it). */
export function environment(pairs: readonly string[] = []): Record<string, string> {
  const env: Record<string, string> = {};
  for (const pair of pairs) {
    const at = pair.indexOf("=");
    const name = at < 0 ? pair : pair.slice(0, at);
    const value = at < 0 ? process.env[pair] : pair.slice(at + 1);
    if (name === "") throw usage(`Cannot set ${JSON.stringify(pair)} in the environment: it has no name; write NAME=VALUE, or NAME for its value here`);
    if (value !== undefined) env[name] = value;
  }
  return env;
}

/** Option values out of a closed list, in any case of letters: what `values` has for them. */
export function oneOf<V>(values: Readonly<Record<string, V>>): (text: string) => V {
  return (text) => {
    const found = values[text.toLowerCase()];
    if (found === undefined) throw new InvalidArgumentError(`It must be one of ${Object.keys(values).join(", ")}.`);
    return found;
  };
}
