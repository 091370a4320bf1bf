// What may be asked for when an ingress is made. Nothing here looks at other ingresses or instances.
import { err, ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import { asCapture, capturesOf, checkHostname, shapeOf } from "./hostname.ts";
import type { CreateIngress, IngressRule, RequestHeaderAuth } from "./service.ts";

/** More than one can look through, and still a table that is searched in no time. */
const MAX_RULES = 256;
/** Bytes of the value of `request_header_auth`: long enough not to be guessed. */
const AUTH_VALUE_MIN = 32, AUTH_VALUE_MAX = 256;

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$/; // RFC 9110 5.6.2
/** Authentication, cookies, host, framing, proxies, hop-by-hop: each has a meaning of its own to us, the client or the target. */
const RESERVED = /^(?:authorization|authentication-info|www-authenticate|cookie2?|set-cookie2?|host|content-length|content-type|content-encoding|transfer-encoding|te|trailer|connection|keep-alive|upgrade|expect|date|forwarded|via|origin|http2-settings|proxy-.*|x-forwarded-.*|sec-websocket-.*|:.*)$/i;

/** The request with its host names in small letters. */
export function checkRules(request: CreateIngress): Res<CreateIngress> {
  const { rules } = request;
  if (rules.length === 0) return bad("rules", "at least one rule is needed");
  if (rules.length > MAX_RULES) return bad("rules", `at most ${MAX_RULES} rules can be in one ingress`);
  const checked: IngressRule[] = [], seen = new Set<string>();
  for (const [i, rule] of rules.entries()) {
    const one = checkRule(rule, `rules[${i}]`);
    if (one.isErr()) return err(one.error);
    const key = `${one.value.port} ${shapeOf(one.value.hostname)}`;
    if (seen.has(key)) return bad(`rules[${i}].match`, `${one.value.hostname} on port ${one.value.port} is in this ingress twice`);
    seen.add(key);
    checked.push(one.value);
  }
  return ok({ ...request, rules: checked });
}

function checkRule(rule: IngressRule, at: string): Res<IngressRule> {
  if (rule.tls) return notSupported(`${at}.tls`);
  if (rule.redirectHttp) return notSupported(`${at}.redirect_http`);
  if (!isPort(rule.port)) return bad(`${at}.match.port`, "ports are 1 to 65535");
  if (!isPort(rule.targetPort)) return bad(`${at}.target.port`, "ports are 1 to 65535");
  const hostname = checkHostname(rule.hostname, `${at}.match.hostname`);
  if (hostname.isErr()) return err(hostname.error);
  const instance = checkTarget(rule.instance, hostname.value, `${at}.target.instance`);
  if (instance.isErr()) return err(instance.error);
  const auth = rule.auth === null ? ok(null) : checkAuth(rule.auth, `${at}.request_header_auth`);
  if (auth.isErr()) return err(auth.error);
  return ok({ ...rule, hostname: hostname.value });
}

function checkTarget(instance: string, hostname: string, field: string): Res<string> {
  if (!/[{}]/.test(instance)) return instance === "" ? bad(field, "it is empty") : ok(instance);
  const capture = asCapture(instance);
  if (capture === null) return bad(field, "a capture must be the whole value, like {instance}");
  if (!capturesOf(hostname).includes(capture)) return bad(field, `the host name ${hostname} has no capture {${capture}}`);
  return ok(instance);
}

function checkAuth({ header, value }: RequestHeaderAuth, at: string): Res<void> {
  if (!TOKEN.test(header)) return bad(`${at}.header`, "it is no name of a header field");
  if (RESERVED.test(header)) return bad(`${at}.header`, `${header} is reserved; take a field of your own, like X-Ingress-Key`);
  if (!/^[\x21-\x7e]+$/.test(value) || value.length < AUTH_VALUE_MIN || value.length > AUTH_VALUE_MAX)
    return bad(`${at}.value`, `it must be ${AUTH_VALUE_MIN} to ${AUTH_VALUE_MAX} visible ASCII characters without spaces`);
  return ok();
}

const isPort = (port: number): boolean => Number.isInteger(port) && port >= 1 && port <= 65_535;
const bad = (field: string, why: string) => fail("request.bad", `Cannot accept field ${field}: ${why}.`, { details: { field } });
const notSupported = (field: string) =>
  fail("request.not_supported", `Cannot honour field ${field}: TLS is not there yet. Leave it out, or put something that ends TLS before the ingress.`, { details: { field } });
