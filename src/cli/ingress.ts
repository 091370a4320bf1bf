// ingress create, ls, inspect, rm.
import type { Command } from "commander";
import type { Ingress, IngressRule } from "./api.ts";
import { apiCommand, apiOf, collect, show, tagsOf, wholeNumber } from "./command.ts";
import { each, inspectEach } from "./each.ts";
import { usage } from "./fail.ts";
import { ago, table } from "./output.ts";

interface CreateFlags { rule?: string[]; port?: number; authHeader?: string; tag?: string[] }

const HIDDEN = "(hidden)";
const PORT_MAX = 65_535;

export function addIngressCommands(program: Command): void {
  const ingress = program.command("ingress").description("Host names that lead to instances, over HTTP");

  apiCommand(ingress, "create <name>", "Send requests for host names to instances; a sleeping one is woken")
    .option("-r, --rule <hostname=instance:port>", "such as api.example.com=web:8080 or {instance}.example.com={instance}:80; repeats", collect)
    .option("-p, --port <port>", "port of the host that these rules listen on (default 80)", wholeNumber(1, PORT_MAX))
    .option("--auth-header <name>", "let only requests through that have this header field, with the value in DORMOUSE_INGRESS_AUTH")
    .option("-t, --tag <key=value>", "tag it; repeats", collect)
    .action(async (name: string, flags: CreateFlags, command: Command) => {
      if (flags.rule === undefined) throw usage("Cannot create an ingress without a rule: give --rule HOSTNAME=INSTANCE:PORT");
      const auth = authOf(flags.authHeader);
      const rules = flags.rule.map((text) => toRule(text, flags.port, auth));
      show(command, hideSecrets(await apiOf(command).createIngress({ name, rules, tags: tagsOf(flags.tag) })), (one) => one.id);
    });

  apiCommand(ingress, "ls", "List ingresses")
    .alias("list")
    .option("-t, --tag <key=value>", "only those with this tag; repeats", collect)
    .option("-q, --quiet", "print ids only")
    .action(async (flags: { tag?: string[]; quiet?: boolean }, command: Command) => {
      const all = (await apiOf(command).ingresses(tagsOf(flags.tag))).map(hideSecrets);
      show(command, all, () => (flags.quiet ? all.map(({ id }) => id).join("\n") : ingressTable(all)));
    });

  apiCommand(ingress, "inspect <name...>", "Show all that is on record of ingresses, as JSON")
    .alias("get")
    .option("--show-secrets", "the values of header fields that requests must have, too")
    .action((names: string[], flags: { showSecrets?: boolean }, command: Command) =>
      inspectEach(names, command, async (api, name) => (flags.showSecrets ? api.ingress(name) : hideSecrets(await api.ingress(name)))));

  apiCommand(ingress, "rm <name...>", "Remove ingresses; requests under way go on")
    .action((names: string[], _: unknown, command: Command) => each(names, command, async (api, name) => {
      await api.removeIngress(name);
      return name;
    }));
}

/** `HOSTNAME=INSTANCE:PORT`. */
function toRule(text: string, port: number | undefined, auth: IngressRule["request_header_auth"]): IngressRule {
  const match = /^([^=]+)=([^=:]+):(\d{1,5})$/.exec(text);
  const target = Number(match?.[3]);
  if (match === null || target < 1 || target > PORT_MAX) throw usage(`Cannot read the rule ${JSON.stringify(text)}: it must be HOSTNAME=INSTANCE:PORT, such as api.example.com=web:8080.`);
  return {
    match: { hostname: match[1]!, ...(port === undefined ? {} : { port }) },
    target: { instance: match[2]!, port: target },
    ...(auth === undefined ? {} : { request_header_auth: auth }),
  };
}

/** The value comes from the environment: other users can read the arguments of a process. */
function authOf(header: string | undefined): IngressRule["request_header_auth"] {
  if (header === undefined) return undefined;
  const value = process.env["DORMOUSE_INGRESS_AUTH"];
  if (!value) throw usage("Cannot use --auth-header without its value: set DORMOUSE_INGRESS_AUTH to 32 to 256 characters");
  return { header, value };
}

const hideSecrets = (ingress: Ingress): Ingress => ({
  ...ingress,
  rules: ingress.rules.map((rule) => (rule.request_header_auth === undefined ? rule : { ...rule, request_header_auth: { ...rule.request_header_auth, value: HIDDEN } })),
});

/** A line a rule. */
const ingressTable = (ingresses: readonly Ingress[]): string =>
  table(
    ["NAME", "HOSTNAME", "PORT", "TARGET", "ASKS FOR", "CREATED"],
    ingresses.flatMap(({ name, rules, created_at }) =>
      rules.map(({ match, target, request_header_auth }) =>
        [name, match.hostname, String(match.port ?? ""), `${target.instance}:${target.port}`, request_header_auth?.header ?? "", ago(created_at)])),
  );
