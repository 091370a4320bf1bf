// A step of the database's schema. Ids are `<domain>-<number>`; a landed migration is never edited.
export interface Migration { readonly id: string; readonly sql: string }
