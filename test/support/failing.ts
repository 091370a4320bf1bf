// A database that fails: whatever is asked of it throws until it is disposed of.
import type { Database } from "bun:sqlite";

export const FAILURE = "disk I/O error";

export function failing(db: Database): Disposable {
  const fail = () => { throw new Error(FAILURE); };
  const own = ["query", "run", "transaction"] as const;
  // The class's own methods are hidden by these, and come back as they go.
  for (const name of own) Object.defineProperty(db, name, { value: fail, configurable: true });
  return { [Symbol.dispose]: () => own.forEach((name) => Reflect.deleteProperty(db, name)) };
}
