// Schema pieces that more than one resource uses.
import { type TSchema, Type } from "@sinclair/typebox";

export const nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);
export const Text = (description: string) => Type.String({ description });
export const Time = (description: string) => Type.String({ format: "date-time", description });
export const Bytes = (description: string) => Type.Integer({ description });
export const Tags = Type.Record(Type.String(), Type.String(), { description: "Key-value pairs of yours; lists filter by them." });
/** A reference as Docker writes it; the longest that a registry takes is far shorter. */
export const Reference = (description: string, example?: string) =>
  Type.String({ minLength: 1, maxLength: 512, description, ...(example === undefined ? {} : { examples: [example] }) });
