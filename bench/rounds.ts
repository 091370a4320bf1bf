// Rounds of a bench that has the same guest under one monitor after the other.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { monitors, type Monitor } from "./guest.ts";
import { say } from "./metric.ts";

/** A figure of each round. */
export type Rounds<Name> = (monitor: Monitor, name: Name) => readonly number[];

/** A guest of each monitor in its turn, with a folder of its own below `dir`. */
export async function inTurns<Name extends string>(dir: string, rounds: number, figures: Readonly<Record<Name, { readonly unit: string }>>, measure: (monitor: Monitor, folder: string) => Promise<Record<Name, number>>): Promise<Rounds<Name>> {
  const taken: Record<Monitor, Record<Name, number>[]> = { ours: [], QEMU: [] };
  for (let round = 0; round < rounds; round++)
    for (const monitor of monitors) {
      const folder = join(dir, `${monitor}-${round}`);
      mkdirSync(folder);
      const values = await measure(monitor, folder);
      say(`${monitor}: ${(Object.keys(figures) as Name[]).map((name) => `${name} ${values[name].toFixed(0)} ${figures[name].unit}`).join(", ")}`);
      taken[monitor].push(values);
    }
  return (monitor, name) => taken[monitor].map((values) => values[name]);
}
