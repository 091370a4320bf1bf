// `GET /swagger`: the API in a browser. Swagger UI's own files are part of the executable, so that the page asks no other
// host for anything; the policy header makes sure of it.
import { type AnyElysia, Elysia } from "elysia";
import script from "swagger-ui-dist/swagger-ui-bundle.js" with { type: "file" };
import style from "swagger-ui-dist/swagger-ui.css" with { type: "file" };
import { openApiDocument } from "./openapi.ts";

const POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Dormouse API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/swagger/ui.css">
<div id="swagger-ui"></div>
<script src="/swagger/ui.js"></script>
<script src="/swagger/start.js"></script>
</html>
`;

const START = `SwaggerUIBundle({ url: "/swagger/json", dom_id: "#swagger-ui", deepLinking: true, docExpansion: "list", defaultModelsExpandDepth: 0, validatorUrl: null });
`;

const asset = (body: string | Blob, type: string) => new Response(body, { headers: { "content-type": `${type}; charset=utf-8`, "x-content-type-options": "nosniff", "cache-control": "no-cache" } });

export function swaggerRoutes(api: () => AnyElysia) {
  let document: ReturnType<typeof openApiDocument> | undefined;
  const hidden = { detail: { hide: true } };
  return new Elysia({ normalize: false })
    .get("/swagger", () => {
      const page = asset(PAGE, "text/html");
      page.headers.set("content-security-policy", POLICY);
      return page;
    }, hidden)
    .get("/swagger/json", async () => Response.json(await (document ??= openApiDocument(api()))), hidden)
    .get("/swagger/ui.js", () => asset(Bun.file(script), "text/javascript"), hidden)
    .get("/swagger/ui.css", () => asset(Bun.file(style), "text/css"), hidden)
    .get("/swagger/start.js", () => asset(START, "text/javascript"), hidden);
}
