// The data of a table as a file, made of what is at hand.

import type { Entry } from "./answer";

interface Props {
  /** Of the file, and what the table is of. */
  name: string;
  rows: () => Entry[];
}

export function Export({ name, rows }: Props) {
  return (
    <span class="export" role="group" aria-label={`Export ${name}`}>
      <button type="button" class="small-button" aria-label={`${name} as CSV`} onClick={() => save(`${name}.csv`, "text/csv", csvOf(rows()))}>
        CSV
      </button>
      <button
        type="button"
        class="small-button"
        aria-label={`${name} as JSON`}
        onClick={() => save(`${name}.json`, "application/json", `${JSON.stringify(rows(), null, 2)}\n`)}
      >
        JSON
      </button>
    </span>
  );
}

/** RFC 4180, with a header. */
export function csvOf(rows: Entry[]): string {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const line = (cells: unknown[]) => `${cells.map(quoted).join(",")}\r\n`;
  return line(columns) + rows.map((row) => line(columns.map((column) => row[column]))).join("");
}

/** Spreadsheets take what begins like a formula for one, unless an apostrophe stands before it. */
function quoted(cell: unknown): string {
  if (typeof cell !== "string") return cell === null || cell === undefined ? "" : String(cell);
  const harmless = /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : cell;
  return /[",\r\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
}

function save(name: string, type: string, content: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name.replaceAll(/[^\w.-]+/g, "-");
  link.click();
  URL.revokeObjectURL(link.href);
}
