// One line of the doctor's table.

export interface Row {
  /** What was looked at; stable, for programs. */
  readonly check: string;
  /** `fail`: guests can't run. `warn`: they run, but something is slower or missing. */
  readonly status: "ok" | "warn" | "fail";
  readonly found: string;
  /** What to do; null where the status is ok. */
  readonly advice: string | null;
}

export const ok = (check: string, found: string): Row => ({ check, status: "ok", found, advice: null });
export const warn = (check: string, found: string, advice: string): Row => ({ check, status: "warn", found, advice });
export const bad = (check: string, found: string, advice: string): Row => ({ check, status: "fail", found, advice });
