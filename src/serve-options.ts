// What `dormouse serve` can be told. The command line fills it (flags over DORMOUSE_* environment over these defaults);
// a file of its own, so that reading the options loads neither server nor domains.

export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface ServeOptions {
  /** `host:port` of the API; loopback only. `--listen`, `DORMOUSE_LISTEN`. Port 0 takes a free one, which the log names. */
  readonly listen: string;
  /** Folder of all state. `--data-dir`, `DORMOUSE_DATA_DIR`. */
  readonly dataDir: string;
  /** Addresses of guests, CIDR; null takes the network domain's default. `--range`, `DORMOUSE_RANGE`. */
  readonly range: string | null;
  /** Resolvers for guests; empty takes the host's, loopback ones left out. `--dns` (repeats), `DORMOUSE_DNS` (commas). */
  readonly dns: readonly string[];
  /** Address that the ports of ingresses listen on. `--ingress-address`, `DORMOUSE_INGRESS_ADDRESS`. */
  readonly ingressAddress: string;
  /** How many started, idle monitors wait for the next start or wake; 0 for none. `--vmm-pool`, `DORMOUSE_VMM_POOL`. */
  readonly vmmPool: number;
  /** Removes all that Dormouse made of the host's network, and ends. `--teardown`. */
  readonly teardown: boolean;
  /** `--log-level`, `DORMOUSE_LOG_LEVEL`. */
  readonly logLevel: LogLevel;
}

export const SERVE_DEFAULTS: ServeOptions = {
  listen: "127.0.0.1:4973",
  dataDir: "/var/lib/dormouse",
  range: null,
  dns: [],
  ingressAddress: "0.0.0.0",
  vmmPool: 2,
  teardown: false,
  logLevel: "info",
};
