// How people may call what they make: names of instances and volumes, ids of volumes. A DNS label.

const LABEL = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/;
export const MAX_LABEL = 63;

export const isLabel = (text: string): boolean => text.length <= MAX_LABEL && LABEL.test(text);
/** What isLabel() asks for, in words. */
export const LABEL_WORDS = `1 to ${MAX_LABEL} lower-case letters, digits and inner hyphens`;
