// `GET /health`: the server answers.
import { Type } from "@sinclair/typebox";
import { Elysia } from "elysia";
import { describe } from "./describe.ts";

export const Health = Type.Object({ status: Type.Literal("ok") }, { title: "Health" });

export const healthRoutes = () =>
  new Elysia({ normalize: false }).get("/health", () => Response.json({ status: "ok" }), {
    detail: describe({
      tag: "Server",
      operationId: "getHealth",
      summary: "Health check",
      description: "Answers as soon as the API serves requests.",
      answers: { 200: { description: "The server is well.", schema: "Health", example: { status: "ok" } } },
    }),
  });
