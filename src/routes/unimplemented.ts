// Routes of the contract that are not there yet: each answers 501 not_implemented, and says so in the documentation.
import { Elysia } from "elysia";
import { DormouseError } from "../errors.ts";
import { describe, pathParam } from "./describe.ts";
import { errorResponse } from "./errors.ts";

type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/** Method, path and summary, by tag; from the resources of the contract's client. */
export const UNIMPLEMENTED: Readonly<Record<string, readonly (readonly [Method, string, string])[]>> = {
  Devices: [
    ["POST", "/devices", "Register a device"],
    ["GET", "/devices", "List devices"],
    ["GET", "/devices/available", "Discover devices"],
    ["GET", "/devices/:id", "Get a device"],
    ["DELETE", "/devices/:id", "Unregister a device"],
  ],
  Builds: [
    ["POST", "/builds", "Create a build"],
    ["GET", "/builds", "List builds"],
    ["GET", "/builds/:id", "Get a build"],
    ["GET", "/builds/:id/events", "Stream a build's events"],
    ["DELETE", "/builds/:id", "Cancel a build"],
    ["POST", "/builders", "Create a builder"],
    ["GET", "/builders", "List builders"],
    ["GET", "/builders/:id", "Get a builder"],
    ["DELETE", "/builders/:id", "Delete a builder"],
    ["POST", "/builders/:id/prune", "Prune a builder"],
  ],
  Pushes: [
    ["POST", "/pushes", "Push an image"],
    ["GET", "/pushes", "List pushes"],
    ["GET", "/pushes/:id", "Get a push"],
  ],
  Resources: [
    ["GET", "/resources", "Capacity of the host"],
    ["POST", "/resources/memory/reclaim", "Reclaim memory"],
  ],
};

export function unimplementedRoutes() {
  const app = new Elysia({ normalize: false });
  for (const [tag, routes] of Object.entries(UNIMPLEMENTED)) {
    for (const [method, path, summary] of routes) {
      app.route(method, path, ({ request }) => errorResponse(notImplemented(request.method, path)), { detail: words(tag, method, path, summary) });
    }
  }
  return app;
}

function notImplemented(method: string, path: string): DormouseError {
  const shown = path.replaceAll(/:(\w+)/g, "{$1}");
  return new DormouseError("request.not_implemented", `Cannot ${method} ${shown}: it is not implemented yet.`, { details: { method, path: shown } });
}

function words(tag: string, method: Method, path: string, summary: string) {
  const names = [...path.matchAll(/:(\w+)/g)].map(([, name = ""]) => name);
  return describe({
    tag,
    operationId: `${method.toLowerCase()}${path.replaceAll(/[/:-]+(\w)/g, (_, letter: string) => letter.toUpperCase())}`,
    summary: `${summary} (not implemented yet)`,
    description: "A route of the contract that answers 501 `not_implemented` until it is there.",
    parameters: names.map((name) => pathParam(name, "Name or id.", "example")),
    answers: {},
    errors: ["request.not_implemented"],
  });
}
