// Which rule a request's port and host name mean. Literal names come first, then patterns with the fewest captures.
import { asCapture, capturesOf, isPattern, matchHost } from "./hostname.ts";
import type { Ingress, IngressRule, Route } from "./service.ts";

interface PortRules { readonly literal: Map<string, IngressRule>; readonly patterns: IngressRule[] }

export class RouteTable {
  private readonly byPort = new Map<number, PortRules>();

  constructor(ingresses: readonly Ingress[]) {
    for (const rule of ingresses.flatMap((one) => one.rules)) {
      const rules = this.byPort.get(rule.port) ?? { literal: new Map<string, IngressRule>(), patterns: [] };
      this.byPort.set(rule.port, rules);
      if (isPattern(rule.hostname)) rules.patterns.push(rule);
      else rules.literal.set(rule.hostname, rule);
    }
    for (const { patterns } of this.byPort.values()) patterns.sort(mostSpecificFirst);
  }

  get ports(): ReadonlySet<number> {
    return new Set(this.byPort.keys());
  }

  /** `host` as hostOf() gives it. */
  find(port: number, host: string): Route | null {
    const rules = this.byPort.get(port);
    if (rules === undefined) return null;
    const literal = rules.literal.get(host);
    if (literal !== undefined) return toRoute(literal, {});
    const labels = host.split(".");
    for (const rule of rules.patterns) {
      const values = matchHost(rule.hostname, labels);
      if (values !== null) return toRoute(rule, values);
    }
    return null;
  }
}

function toRoute({ instance, targetPort, auth }: IngressRule, values: Readonly<Record<string, string>>): Route {
  const capture = asCapture(instance);
  return { instance: capture === null ? instance : values[capture]!, captured: capture !== null, port: targetPort, auth };
}

/** Fewer captures first; among equals the one with the literal label further left, so that the order is total and not of creation. */
function mostSpecificFirst(a: IngressRule, b: IngressRule): number {
  const captures = capturesOf(a.hostname).length - capturesOf(b.hostname).length;
  if (captures !== 0) return captures;
  const key = (rule: IngressRule) => rule.hostname.split(".").map((label) => (asCapture(label) === null ? "0" : "1")).join("");
  return key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0;
}
