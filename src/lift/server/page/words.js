// Numbers and places in words.

const count = new Intl.NumberFormat("en");

export const number = (value) => count.format(value);
export const plural = (value, word) => `${number(value)} ${word}${value === 1 ? "" : "s"}`;
export const percent = (share) => `${Math.round(100 * share)} %`;

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function bytes(size) {
  const units = ["bytes", "kB", "MB", "GB"];
  let step = 0;
  for (; size >= 1000 && step < units.length - 1; step++) size /= 1000;
  return `${size < 10 && step ? size.toFixed(1) : Math.round(size)} ${units[step]}`;
}

export function date(value) {
  const when = new Date(typeof value === "number" ? 1000 * value : value);
  return when.toLocaleDateString(undefined, { day: "numeric", month: "short", year: "numeric" });
}

/** {page, heading, file} -> "lease.pdf, page 3, “Rent”"; the server may have put it into words already. */
export function place(where) {
  if (!where || typeof where === "string") return where || "";
  return [where.file, where.page && `page ${where.page}`, where.heading && `“${where.heading}”`].filter(Boolean).join(", ");
}
