// The HTTP API as one Elysia app: who may speak, the routes, and the one place where errors become answers.
import { Elysia } from "elysia";
import { describeError } from "../log.ts";
import { capabilitiesRoutes } from "./capabilities.ts";
import type { ApiDeps } from "./deps.ts";
import { errorResponse, toDormouseError } from "./errors.ts";
import { refusal } from "./guard.ts";
import { healthRoutes } from "./health.ts";
import { imageRoutes } from "./images.ts";
import { ingressRoutes } from "./ingresses.ts";
import { copyRoutes } from "./instances/copy.ts";
import { instanceRoutes } from "./instances/routes.ts";
import { sleepRoutes } from "./instances/sleep.ts";
import { instanceVolumeRoutes } from "./instances/volumes.ts";
import { snapshotRoutes } from "./snapshots/routes.ts";
import { swaggerRoutes } from "./swagger.ts";
import { unimplementedRoutes } from "./unimplemented.ts";
import { usageRoutes } from "./usage.ts";
import { volumeRoutes } from "./volumes.ts";

/** Every documented route. */
const apiRoutes = (deps: ApiDeps) =>
  new Elysia({ normalize: false })
    .use(healthRoutes())
    .use(capabilitiesRoutes(deps))
    .use(usageRoutes(deps))
    .use(imageRoutes(deps))
    .use(instanceRoutes(deps))
    .use(copyRoutes(deps))
    .use(sleepRoutes(deps))
    .use(instanceVolumeRoutes(deps))
    .use(snapshotRoutes(deps))
    .use(volumeRoutes(deps))
    .use(ingressRoutes(deps))
    .use(unimplementedRoutes());

/** The app; it does not listen (server.ts does). Hooks come before the routes, or they would not hold for them. */
export function createApp(deps: ApiDeps) {
  return new Elysia({ normalize: false })
    .onRequest(({ request }) => {
      const refused = refusal(request);
      if (refused !== null) return errorResponse(refused);
    })
    .onError(({ code, error, request }) => {
      const answer = toDormouseError(code, error, request);
      const response = errorResponse(answer);
      if (response.status >= 500 && answer.code !== "request.not_implemented") {
        deps.log.error("request.failed", { method: request.method, path: new URL(request.url).pathname, code: answer.code, error: describeError(answer, answer.code === "internal") });
      }
      return response;
    })
    .use(apiRoutes(deps))
    .use(swaggerRoutes(() => apiRoutes(deps)));
}
