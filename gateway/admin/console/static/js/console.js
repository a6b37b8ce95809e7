// What every page has: relative times, the dialog, toasts, the theme. All of it is optional.

const UNITS = [["d", 86400], ["h", 3600], ["min", 60]];

export function ago(ms, now = Date.now()) {
  const seconds = (now - ms) / 1000, size = Math.abs(seconds);
  if (size < 1) return "now";
  const unit = UNITS.find(([, length]) => size >= length);
  const text = unit ? `${Math.round(size / unit[1])}\u202f${unit[0]}` : `${Math.round(size)}\u202fs`;
  return seconds > 0 ? `${text} ago` : `in ${text}`;
}

export function refreshTimes(root = document) {
  for (const time of root.querySelectorAll("time[data-ago]"))
    time.textContent = ago(Date.parse(time.dateTime));
}

export function toast(message, tone = "") {
  const box = document.createElement("div");
  box.className = `toast ${tone}`;
  box.textContent = message;
  document.getElementById("toasts").append(box);
  setTimeout(() => box.remove(), 8000);
}

setInterval(refreshTimes, 5000);
for (const box of document.querySelectorAll("#toasts .toast")) setTimeout(() => box.remove(), 8000);

document.querySelector(".nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

// Links marked data-dialog open their page in the dialog; without scripts they are pages.
const dialog = document.getElementById("dialog"), body = document.getElementById("dialog-body");
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-dialog]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || !window.htmx) return;
  event.preventDefault();
  document.getElementById("dialog-title").textContent = link.dataset.dialog;
  body.textContent = "Loading…";
  dialog.showModal();
  window.htmx.ajax("GET", link.href, { target: "#dialog-body", swap: "innerHTML" });
});
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-close]") && dialog.open) { event.preventDefault(); dialog.close(); }
  if (event.target === dialog) dialog.close();
});
document.addEventListener("click", async (event) => {
  const copy = event.target.closest("[data-copy]");
  if (!copy) return;
  const field = document.getElementById(copy.dataset.copy);
  field.select();
  try { await navigator.clipboard.writeText(field.value); copy.textContent = "Copied"; }
  catch { copy.textContent = "Press Ctrl+C"; }
});
document.addEventListener("htmx:afterSwap", (event) => {
  refreshTimes(event.target);
  if (event.target !== body) return;
  const problem = body.querySelector("[aria-invalid=true]");
  (problem ?? body.querySelector("input:not([type=hidden]), textarea, select"))?.focus();
});
for (const [name, text] of [["htmx:responseError", "The gate refused this. Reload the page and try again."],
                            ["htmx:sendError", "The gate cannot be reached."]])
  document.addEventListener(name, () => { dialog.close(); toast(text, "bad"); });
document.addEventListener("htmx:beforeRequest", () => document.getElementById("loading").classList.add("htmx-request"));
document.addEventListener("htmx:afterRequest", () => document.getElementById("loading").classList.remove("htmx-request"));

// The theme: the cookie decides on the server, so that no page flashes.
const theme = document.getElementById("theme"), root = document.documentElement;
const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
if (theme) {
  const name = () => { theme.textContent = isDark() ? "Light theme" : "Dark theme"; };
  name();
  theme.addEventListener("click", (event) => {
    event.preventDefault();
    root.dataset.theme = isDark() ? "light" : "dark";
    document.cookie = `creditgate_theme=${root.dataset.theme}; path=/console; max-age=31536000; samesite=strict`;
    name();
    document.dispatchEvent(new Event("themechange"));
  });
}
