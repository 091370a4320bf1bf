// Ingresses on record: rows to Ingress and back. Every change is one transaction.
import type { Database } from "bun:sqlite";
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import { shapeOf } from "./hostname.ts";
import type { CreateIngress, Ingress, IngressRule } from "./service.ts";

interface Row { id: string; name: string; tags: string; created_at: number }
interface RuleRow {
  ingress_id: string; position: number; hostname: string; shape: string; port: number; instance: string; target_port: number;
  tls: number; redirect_http: number; auth_header: string | null; auth_value: string | null;
}

export class Records {
  constructor(private readonly db: Database) {}

  /** Oldest first. */
  list(): Ingress[] {
    return this.db.query<Row, []>("SELECT * FROM ingresses ORDER BY created_at, id").all().map((row) => this.read(row));
  }

  /** Exact id, exact name, then unique id prefix. */
  get(ref: string): Res<Ingress> {
    const exact = this.db.query<Row, [string, string, string]>("SELECT * FROM ingresses WHERE id = ? OR name = ? ORDER BY id = ? DESC LIMIT 1").get(ref, ref, ref);
    if (exact !== null) return ok(this.read(exact));
    // Ids are small letters and digits; anything else can't be a prefix, nor a pattern of LIKE.
    const matches = /^[a-z0-9]+$/.test(ref) ? this.db.query<Row, [string]>("SELECT * FROM ingresses WHERE id LIKE ? || '%' LIMIT 2").all(ref) : [];
    if (matches.length > 1) return fail("name.ambiguous", `Cannot tell which ingress ${ref} means: more than one id begins so; give more of it`);
    if (matches.length === 0) return fail("ingress.not_found", `Cannot find the ingress ${ref}: no ingress has this name or id, and no id begins so`);
    return ok(this.read(matches[0]!));
  }

  nameTaken(name: string): boolean {
    return this.db.query("SELECT 1 FROM ingresses WHERE name = ?").get(name) !== null;
  }

  /** The name of the ingress that has this host name on this port. */
  holderOf({ hostname, port }: IngressRule): string | null {
    const sql = "SELECT name FROM ingress_rules JOIN ingresses ON id = ingress_id WHERE port = ? AND shape = ?";
    return this.db.query<{ name: string }, [number, string]>(sql).get(port, shapeOf(hostname))?.name ?? null;
  }

  insert(id: string, { name, tags, rules }: CreateIngress): Ingress {
    const createdAt = Date.now();
    this.db.transaction(() => {
      this.db.query("INSERT INTO ingresses VALUES (?, ?, ?, ?)").run(id, name, JSON.stringify(tags), createdAt);
      rules.forEach((rule, position) =>
        this.db.query("INSERT INTO ingress_rules VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)").run(
          id, position, rule.hostname, shapeOf(rule.hostname), rule.port, rule.instance, rule.targetPort,
          rule.tls ? 1 : 0, rule.redirectHttp ? 1 : 0, rule.auth?.header ?? null, rule.auth?.value ?? null,
        ));
    }).immediate();
    return { id, name, tags, rules, createdAt };
  }

  delete(id: string): void {
    this.db.query("DELETE FROM ingresses WHERE id = ?").run(id);
  }

  private read(row: Row): Ingress {
    const rules = this.db.query<RuleRow, [string]>("SELECT * FROM ingress_rules WHERE ingress_id = ? ORDER BY position").all(row.id);
    return { id: row.id, name: row.name, tags: JSON.parse(row.tags) as Record<string, string>, createdAt: row.created_at, rules: rules.map(readRule) };
  }
}

const readRule = (row: RuleRow): IngressRule => ({
  hostname: row.hostname, port: row.port, instance: row.instance, targetPort: row.target_port, tls: row.tls === 1, redirectHttp: row.redirect_http === 1,
  auth: row.auth_header === null || row.auth_value === null ? null : { header: row.auth_header, value: row.auth_value },
});
