// Instances on record: rows to Instance and back, references, transitions and phases. Every change is one transaction.
import type { Database } from "bun:sqlite";
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import type { AutoStandbyPolicy, SnapshotPolicy } from "../snapshots/service.ts";
import { snapshotOfImage } from "../snapshots/snapshots.ts";
import type { VolumeMount, VolumeOwner, VolumeService } from "../volumes/service.ts";
import type { Spawned } from "../vmm/spawn.ts";
import { decodeRow, encodeRow, type Row } from "./rows.ts";
import type { CreateInstance, Instance, InstanceState, ListFilter } from "./service.ts";
import { canHop, phaseOf } from "./states.ts";

/** What a transition may change besides the state. */
export interface Changes {
  readonly stateError?: string | null;
  readonly startedAt?: number | null;
  readonly stoppedAt?: number | null;
  readonly exitCode?: number | null;
  readonly exitMessage?: string | null;
  readonly savedGeneration?: string | null;
  readonly liveGeneration?: string | null;
}

/** What it sleeps on, and what its monitor runs over. */
export interface GenerationsOf { readonly saved: string | null; readonly live: string | null }

/** Whom a reference means. */
export interface Found { readonly id: string; readonly state: InstanceState }

/** A VMM on record, with the boot of the host that it belongs to. */
export interface ProcessRecord extends Spawned { readonly bootId: string }

const SELECT = `
  SELECT i.*, c.phase, c.since AS phase_since,
    (SELECT json_group_object(p.phase, p.total_ms) FROM instance_phases p WHERE p.instance_id = i.id) AS phases
  FROM instances i JOIN instance_current_phase c ON c.instance_id = i.id`;

/** An instance or a snapshot that was made from the image, which must not be removed then; null where there is none. */
export function userOfImage(db: Database, digest: string): string | null {
  const row = db.query<{ name: string }, [string]>("SELECT name FROM instances WHERE image_digest = ? LIMIT 1").get(digest);
  return row === null ? snapshotOfImage(db, digest) : `the instance ${row.name}`;
}

/** How people call an instance or a snapshot that is on record, for messages. */
export function nameOfOwner(db: Database, { kind, id }: { readonly kind: "instance" | "snapshot"; readonly id: string }): string {
  const row = db.query<{ name: string | null }, [string]>(`SELECT name FROM ${kind}s WHERE id = ?`).get(id);
  return `${kind} ${row?.name ?? id}`;
}

/** Who has which volumes: attached with the row that has them, and released with it. */
export type Attachments = Pick<VolumeService, "attach" | "detach" | "release" | "mountsOf">;
const ownerOf = (id: string): VolumeOwner => ({ kind: "instance", id });

/** Changes of state that are kept of each instance: a guest that restarts itself without end must not fill the disk. */
const KEPT_TRANSITIONS = 200;

const rethrow = (error: unknown): never => { throw error; };

export class Records {
  private readonly listeners = new Set<(instance: Instance) => void>();

  /** `failed` hears what a listener throws: what is committed is committed, whoever can't bear the news. */
  constructor(private readonly db: Database, private readonly volumes: Attachments, private readonly failed: (error: unknown) => void = rethrow) {}

  subscribe(listener: (instance: Instance) => void): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  /** Records it as Created. `instance.already_exists` where the name is taken. */
  insert(id: string, request: CreateInstance, imageDigest: string): Res<Instance> {
    const at = Date.now();
    return this.whole(() => this.insertFree(id, request, imageDigest, at).map(() => this.there(id))).map((made) => this.tell(made));
  }

  /** As insert(), for one that is nothing yet: unless kept() comes, it is deleted, by the next daemon if need be. */
  insertForming(id: string, request: CreateInstance, imageDigest: string): Res<Instance> {
    const at = Date.now();
    return this.whole(() => this.insertFree(id, request, imageDigest, at).map(() => (this.markRemoving(id), this.there(id)))).map((made) => this.tell(made));
  }

  /** Part of the transaction that makes it somebody. */
  kept(id: string): void {
    this.db.query("UPDATE instances SET removing = 0 WHERE id = ?").run(id);
  }

  nameFree(name: string): Res<void> {
    if (this.db.query("SELECT 1 FROM instances WHERE name = ?").get(name) === null) return ok();
    return fail("instance.already_exists", `Cannot create an instance with the name ${name}: there is one already; choose another name, or delete that one`);
  }

  private insertFree(id: string, request: CreateInstance, imageDigest: string, at: number): Res<void> {
    return this.nameFree(request.name).andThen(() => {
      const row = encodeRow(id, request, imageDigest, at);
      const keys = Object.keys(row);
      this.db.query(`INSERT INTO instances (${keys.join(", ")}) VALUES (${keys.map(() => "?").join(", ")})`).run(...Object.values(row));
      this.db.query("INSERT INTO instance_current_phase VALUES (?, ?, ?)").run(id, phaseOf("Created"), at);
      this.db.query("INSERT INTO instance_transitions (instance_id, from_state, to_state, at) VALUES (?, NULL, 'Created', ?)").run(id, at);
      return this.volumes.attach(ownerOf(id), request.volumes).map(() => undefined);
    });
  }

  /** A transaction of which an Err leaves nothing. */
  private whole<T>(work: () => Res<T>): Res<T> {
    let refused: Res<T> | null = null;
    try {
      return this.db.transaction(() => {
        const result = work();
        if (result.isOk()) return result;
        refused = result;
        throw result.error;
      }).immediate();
    } catch (error) {
      if (refused !== null) return refused;
      throw error;
    }
  }

  attachVolume(id: string, mount: VolumeMount): Res<Instance> { return this.volumes.attach(ownerOf(id), [mount]).map(() => this.changed(id)); }

  detachVolume(id: string, ref: string): Res<Instance> { return this.volumes.detach(ownerOf(id), ref).map(() => this.changed(id)); }

  /** Part of a transaction: it has those of `from` instead of its own. Throws where they can't be had. */
  takeVolumes(id: string, from: VolumeOwner): void {
    this.volumes.release(ownerOf(id));
    const taken = this.volumes.attach(ownerOf(id), this.volumes.mountsOf(from));
    if (taken.isErr()) throw taken.error;
  }

  /** A small part of what find() takes: for what happens to many, or while somebody waits. */
  stateOf(id: string): InstanceState | null {
    return this.db.query<{ state: InstanceState }, [string]>("SELECT state FROM instances WHERE id = ?").get(id)?.state ?? null;
  }

  find(id: string): Instance | null {
    const row = this.db.query<Row, [string]>(`${SELECT} WHERE i.id = ?`).get(id);
    return row === null ? null : this.decode(row);
  }

  private decode(row: Row): Instance { return decodeRow(row, this.volumes.mountsOf(ownerOf(row.id)), Date.now()); }

  /** As idOf(). */
  get(ref: string): Res<Instance> { return this.idOf(ref).map(({ id }) => this.find(id)!); }

  /** Exact id, exact name, then unique id prefix. */
  idOf(ref: string): Res<Found> {
    // One after the other: to order what one query finds takes SQLite longer than both.
    const exact = this.db.query<Found, [string]>("SELECT id, state FROM instances WHERE id = ?").get(ref) ?? this.db.query<Found, [string]>("SELECT id, state FROM instances WHERE name = ?").get(ref);
    if (exact !== null) return ok(exact);
    // Ids are lower-case letters and digits; anything else can't be a prefix, nor a pattern of LIKE.
    const matches = /^[a-z0-9]+$/.test(ref) ? this.db.query<Found, [string]>("SELECT id, state FROM instances WHERE id LIKE ? || '%' LIMIT 2").all(ref) : [];
    if (matches.length > 1) return fail("name.ambiguous", `Cannot tell which instance ${ref} means: more than one id begins so; give more of it`);
    if (matches.length === 0) return fail("instance.not_found", `Cannot find the instance ${ref}: no instance has this name or id, and no id begins so`);
    return ok(matches[0]!);
  }

  /** Oldest first. */
  list(filter: ListFilter = {}): Instance[] {
    const rows = filter.state === undefined
      ? this.db.query<Row, []>(`${SELECT} ORDER BY i.created_at, i.id`).all()
      : this.db.query<Row, [string]>(`${SELECT} WHERE i.state = ? ORDER BY i.created_at, i.id`).all(filter.state);
    const wanted = Object.entries(filter.tags ?? {});
    return rows.map((row) => this.decode(row)).filter((one) => wanted.every(([key, value]) => one.tags[key] === value));
  }

  /**
   * Moves to `state` with `changes`; the same state again only applies them. Throws where the table of hops forbids it: a bug.
   * `also` is part of the transaction. What throws has changed nothing.
   */
  transition(id: string, state: InstanceState, reason: string | null, changes: Changes = {}, also: () => void = () => {}): Instance {
    return this.tell(this.db.transaction(() => {
      this.change(id, state, reason, changes);
      also();
      return this.there(id);
    }).immediate());
  }

  /** As transition(), as part of a larger transaction: whoever listens is told() once that is committed. */
  change(id: string, state: InstanceState, reason: string | null, changes: Changes): void {
    const before = this.stateOf(id);
    if (before === null) throw new Error(`instance ${id} is not on record`);
    if (before !== state) this.hop(id, before, state, reason);
    this.update(id, { stateError: null, ...changes });
  }

  /** What change() did is committed. */
  told(id: string): void {
    try {
      this.changed(id);
    } catch (error) {
      this.failed(error);
    }
  }

  generationsOf(id: string): GenerationsOf {
    return this.db.query<GenerationsOf, [string]>("SELECT saved_generation AS saved, live_generation AS live FROM instances WHERE id = ?").get(id) ?? { saved: null, live: null };
  }

  setPolicies(id: string, change: { readonly autoStandby?: AutoStandbyPolicy | null; readonly snapshotPolicy?: SnapshotPolicy | null }): Instance {
    const text = (value: object | null) => value && JSON.stringify(value);
    this.db.transaction(() => {
      if (change.autoStandby !== undefined) this.db.query("UPDATE instances SET auto_standby = ? WHERE id = ?").run(text(change.autoStandby), id);
      if (change.snapshotPolicy !== undefined) this.db.query("UPDATE instances SET snapshot_policy = ? WHERE id = ?").run(text(change.snapshotPolicy), id);
    }).immediate();
    return this.changed(id);
  }

  private hop(id: string, from: InstanceState, to: InstanceState, reason: string | null): void {
    if (!canHop(from, to)) throw new Error(`instance ${id} can't go from ${from} to ${to}`);
    const at = Date.now();
    this.db.query("UPDATE instances SET state = ? WHERE id = ?").run(to, id);
    this.db.query("INSERT INTO instance_transitions (instance_id, from_state, to_state, at, reason) VALUES (?, ?, ?, ?, ?)").run(id, from, to, at, reason);
    this.db.query("DELETE FROM instance_transitions WHERE instance_id = ?1 AND seq <= (SELECT seq FROM instance_transitions WHERE instance_id = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)").run(id, KEPT_TRANSITIONS);
    // A clock that was set back must not make a phase negative.
    this.db.query(`
      INSERT INTO instance_phases SELECT instance_id, phase, max(0, ? - since) FROM instance_current_phase WHERE instance_id = ?
      ON CONFLICT DO UPDATE SET total_ms = total_ms + excluded.total_ms`).run(at, id);
    this.db.query("UPDATE instance_current_phase SET phase = ?, since = ? WHERE instance_id = ?").run(phaseOf(to), at, id);
  }

  private update(id: string, changes: Changes): void {
    const columns = { state_error: changes.stateError, started_at: changes.startedAt, stopped_at: changes.stoppedAt, exit_code: changes.exitCode, exit_message: changes.exitMessage, saved_generation: changes.savedGeneration, live_generation: changes.liveGeneration };
    const given = Object.entries(columns).filter((pair): pair is [string, string | number | null] => pair[1] !== undefined);
    if (given.length > 0) this.db.query(`UPDATE instances SET ${given.map(([key]) => `${key} = ?`).join(", ")} WHERE id = ?`).run(...given.map(([, value]) => value), id);
  }

  /** The command of `start`: kept for the starts after it too. */
  setCommand(id: string, override: { entrypoint?: readonly string[]; cmd?: readonly string[] }): void {
    if (override.entrypoint !== undefined) this.db.query("UPDATE instances SET entrypoint = ? WHERE id = ?").run(JSON.stringify(override.entrypoint), id);
    if (override.cmd !== undefined) this.db.query("UPDATE instances SET cmd = ? WHERE id = ?").run(JSON.stringify(override.cmd), id);
  }

  setAddress(id: string, ip: string, mac: string): Instance {
    this.db.query("UPDATE instances SET ip = ?, mac = ? WHERE id = ?").run(ip, mac, id);
    return this.changed(id);
  }

  /** Outlives this daemon at once, and the host not before the next write: no process outlives its host either, and every wake would wait for the storage. */
  setProcess(id: string, process: ProcessRecord): void {
    this.db.run("PRAGMA synchronous = NORMAL");
    try {
      this.db.query("INSERT OR REPLACE INTO instance_processes VALUES (?, ?, ?, ?)").run(id, process.pid, process.start, process.bootId);
    } finally {
      this.db.run("PRAGMA synchronous = FULL");
    }
  }

  clearProcess(id: string): void {
    this.db.query("DELETE FROM instance_processes WHERE instance_id = ?").run(id);
  }

  process(id: string): ProcessRecord | null {
    return this.db.query<ProcessRecord, [string]>("SELECT pid, start_ticks AS start, boot_id AS bootId FROM instance_processes WHERE instance_id = ?").get(id);
  }

  /** From here on the instance is being deleted; the next daemon goes on with it. */
  markRemoving(id: string): void {
    this.db.query("UPDATE instances SET removing = 1 WHERE id = ? AND removing = 0").run(id);
  }

  removing(): string[] {
    return this.db.query<{ id: string }, []>("SELECT id FROM instances WHERE removing = 1").all().map((row) => row.id);
  }

  /** Whoever listens hears of one that is Stopped: it does nothing any more. */
  delete(id: string): void {
    const last = this.db.transaction(() => {
      const instance = this.find(id);
      this.db.query("DELETE FROM instances WHERE id = ?").run(id);
      this.volumes.release(ownerOf(id));
      return instance;
    }).immediate();
    if (last !== null) this.tell({ ...last, state: "Stopped", removing: true });
  }

  transitions(id: string): { from: InstanceState | null; to: InstanceState; at: number; reason: string | null }[] {
    return this.db.query<{ from: InstanceState | null; to: InstanceState; at: number; reason: string | null }, [string]>(
      "SELECT from_state AS \"from\", to_state AS \"to\", at, reason FROM instance_transitions WHERE instance_id = ? ORDER BY seq").all(id);
  }

  private there(id: string): Instance {
    const instance = this.find(id);
    if (instance === null) throw new Error(`instance ${id} is not on record`);
    return instance;
  }

  private changed(id: string): Instance { return this.tell(this.there(id)); }

  private tell(instance: Instance): Instance {
    for (const listener of [...this.listeners]) {
      try {
        listener(instance);
      } catch (error) {
        this.failed(error);
      }
    }
    return instance;
  }
}
